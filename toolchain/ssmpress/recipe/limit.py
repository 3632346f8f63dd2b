"""A limit of the gate: a number, or a multiple of the baseline's value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssmpress.errors import UsageError
from ssmpress.recipe.option import Check, Typed


@dataclass(frozen=True)
class Relative:
    """A limit as a multiple of the baseline's value: 1.05 is written `1.05x`."""

    factor: float

    def __str__(self) -> str:
        return f"{self.factor:g}x"


Limit = float | Relative
GivenLimit = Limit | str

_FACTOR = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*x", re.ASCII)


def factor_of(text: str) -> Relative | None:
    """The multiple that a text such as `1.05x` writes; None where it writes none."""
    match = _FACTOR.fullmatch(text.strip())
    return Relative(float(match[1])) if match else None


def parse_limit(text: str, name: str) -> Limit:
    """The limit that a text writes. name: of the option or setting, for the error.

    Raises:
        UsageError: it writes neither a number nor a multiple.
    """
    if factor := factor_of(text):
        return factor
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(
            f"{name}: expected a number, or a multiple of the baseline such as 1.05x; got {text!r}."
        ) from error


def _in_range(limit: Limit) -> bool:
    value = limit.factor if isinstance(limit, Relative) else limit
    return math.isfinite(value) and 0 <= value <= 1e15


def _written(limit: Any) -> str:
    """The text of a limit, or of what JSON makes of one.

    None is the limit that every value keeps, since an option that is left out has its default.
    """
    if isinstance(limit, Mapping):
        return f"{limit['factor']:g}x"
    return "0" if limit is None else str(limit)


LIMIT_CHECK = Check(_in_range, "a number of at least 0")
# gate/policy.py reads it, together with those of a policy file.
LIMIT_TYPED = Typed(lambda _, text: text, _written)
LIMIT_METAVAR = "NUMBER|FACTORx"
