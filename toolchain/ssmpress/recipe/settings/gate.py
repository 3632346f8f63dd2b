"""Limits that a result must keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssmpress.recipe.limit import (
    LIMIT_CHECK,
    LIMIT_METAVAR,
    LIMIT_TYPED,
    GivenLimit,
    Limit,
    Relative,
    parse_limit,
)
from ssmpress.recipe.option import (
    Option,
    Panel,
    check_settings,
    require,
    settings_of,
)


def _limit(text: str, default: str = "") -> Option:
    return Option(
        text,
        Panel.GATES,
        default=default,
        metavar=LIMIT_METAVAR,
        check=LIMIT_CHECK,
        typed=LIMIT_TYPED,
    )


@dataclass(frozen=True)
class GateSettings:
    """Limits the result must keep. None: not checked.

    Each is a number, or a multiple of the baseline's value: `Relative(1.05)`, or as text `"1.05x"`.
    """

    min_retention: Annotated[
        GivenLimit | None,
        _limit(
            "Least quality kept: dense / compressed perplexity or error, compressed / dense "
            "accuracy.",
            default="0.95; none with --gate",
        ),
    ] = 0.95
    max_decode_ms: Annotated[
        GivenLimit | None,
        _limit("Most milliseconds per decoded token, text or forecast (median)."),
    ] = None
    min_speedup: Annotated[
        GivenLimit | None,
        _limit("Least dense decode time / compressed decode time, of the medians."),
    ] = None
    max_perplexity_increase: Annotated[
        GivenLimit | None,
        _limit(
            "Most of compressed / dense perplexity - 1, of a language model; FACTORx compares with "
            "the baseline's."
        ),
    ] = None
    max_decode_p99_ms: Annotated[
        GivenLimit | None,
        _limit("Most milliseconds per decoded token, text or forecast (99th percentile)."),
    ] = None
    max_bundle_bytes: Annotated[GivenLimit | None, _limit("Most bytes of what a device needs.")] = (
        None
    )
    max_rss_bytes: Annotated[GivenLimit | None, _limit("Most bytes of peak memory.")] = None
    baseline: Annotated[
        Path | None,
        Option(
            "report.json that limits such as 1.05x are multiples of.", Panel.GATES, metavar="FILE"
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in RULES:
            limit = getattr(self, name)
            if isinstance(limit, str):
                object.__setattr__(self, name, parse_limit(limit, name))
        check_settings(self)
        for name, limit in self.limits().items():
            require(
                not isinstance(limit, Relative) or self.baseline is not None,
                "--baseline",
                f"a report.json that {name} = {limit} refers to",
                "none",
            )

    def limits(self) -> dict[str, Limit]:
        """The limits that are set, by rule."""
        return {name: getattr(self, name) for name in RULES if getattr(self, name) is not None}

    def quality(self) -> float | None:
        """Least part of the quality that the limits ask for; None where none does as a number."""
        limits = self.limits()
        kept, increase = limits.get("min_retention"), limits.get("max_perplexity_increase")
        parts = [] if kept is None or isinstance(kept, Relative) else [kept]
        if increase is not None and not isinstance(increase, Relative):
            parts.append(1 / (1 + increase))
        return max(parts, default=0.0) or None


RULES = tuple(setting.key for setting in settings_of(GateSettings) if setting.key != "baseline")
"""Names of the limits: keys of a policy file, and options with dashes."""
