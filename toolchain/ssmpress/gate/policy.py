"""policy.toml and the short flags -> GateSettings. Strict: what is not understood is refused.

A limit is a number, or a multiple of the baseline's value, written `1.05x`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmpress.errors import BadInputError, UsageError
from ssmpress.recipe.limit import GivenLimit, Limit, factor_of, parse_limit
from ssmpress.recipe.settings.gate import RULES, GateSettings

POLICY_LIMIT = 1 << 20
"""Bytes a policy may have; a real one has a few hundred."""


def gate_settings(
    flags: Mapping[str, str | None],
    policy: Path | None,
    baseline: Path | None,
    default_retention: GivenLimit | None = None,
) -> GateSettings:
    """The limits of a policy file, overridden by those of the flags.

    Args:
        flags: by rule, as typed; None is not given.
        policy: a file for `read_policy`. baseline: report.json that factors refer to.
        default_retention: min_retention where there is no policy and no flag.

    Raises:
        UsageError: a limit is not one, or a factor has no baseline.
    """
    limits: dict[str, GivenLimit | None] = {"min_retention": default_retention}
    if policy is not None:
        limits = {"min_retention": None, **read_policy(policy)}
    for name, text in flags.items():
        if text is not None:
            limits[name] = parse_limit(text, "--" + name.replace("_", "-"))
    return GateSettings(**limits, baseline=baseline)


def read_policy(path: Path) -> dict[str, Limit]:
    """The limits of a TOML file.

    Raises:
        BadInputError: the file is missing, too large or not TOML.
        UsageError: a key is unknown, a value is not a limit, or there is none.
    """
    import tomllib  # takes 20 ms, which `compress --help` need not wait for

    try:
        with path.open("rb") as file:  # not all of it: it may be a device that never ends
            content = file.read(POLICY_LIMIT + 1)
        if len(content) > POLICY_LIMIT:
            raise BadInputError(f"{path}: expected at most {POLICY_LIMIT:,} bytes.")
        table = tomllib.loads(content.decode())
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: expected a policy in TOML: {error}.") from error
    limits = {key: _from_toml(path, key, value) for key, value in table.items()}
    if not limits:
        raise UsageError(f"{path}: expected at least one limit of {', '.join(RULES)}; got none.")
    return limits


def _from_toml(path: Path, key: str, value: Any) -> Limit:
    if key not in RULES:
        from difflib import get_close_matches

        name = key.lower().replace("-", "_").replace("_p50", "")  # the median needs no name
        close = get_close_matches(name, RULES, 1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UsageError(f"{path}: unknown key {key!r}. {hint}A policy may set {', '.join(RULES)}.")
    if isinstance(value, str) and (factor := factor_of(value)):
        return factor
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(
            f'{path}: {key}: expected a number, or a multiple of the baseline such as "1.05x"; '
            f"got {value!r}."
        )
    try:
        number = float(value)
    except OverflowError as error:
        raise UsageError(f"{path}: {key}: expected a number; got one beyond 1e308.") from error
    if not (math.isfinite(number) and number >= 0):
        raise UsageError(f"{path}: {key}: expected a number of at least 0; got {value}.")
    return number
