"""`--pick "retention>=0.95"`: which of several bundles to keep.

    expression = condition ("and" condition)*
    condition  = metric (">=" | "<=" | ">" | "<") number

Of the bundles that meet every condition the fastest is picked: the highest decode speed-up, since
each bundle took turns with the dense model, so that a slow minute of the machine does not decide;
the smallest where no latency was measured.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssmpress.errors import UsageError
from ssmpress.recipe.suggest import did_you_mean

METRICS = {
    "retention": "quality kept, 1 is all of it",
    "quality": "the quality metric of the bundle, for a language model its perplexity",
    "quality_loss": "1 / retention - 1: for a language model the perplexity increase",
    "decode_ms": "median milliseconds of one decoded token",
    "decode_p99_ms": "99th percentile of the same",
    "speedup": "dense median decode time / compressed",
    "prefill_tokens_per_s": "prompt tokens per second",
    "model_bytes": "bytes of model.onnx",
    "bundle_bytes": "bytes of every file a device needs",
    "smaller": "dense float32 bytes / model_bytes",
    "rss_bytes": "peak memory of a process that runs the bundle",
    "sparsity": "zeros / prunable weights",
}
"""Metrics by name: the keys of a sweep's points."""

_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\S+)\s*", re.ASCII)
_EXAMPLE = '"retention>=0.95 and model_bytes<5e6"'


@dataclass(frozen=True)
class Condition:
    """One comparison. metric: a key of `METRICS`."""

    metric: str
    comparison: str
    number: float

    def met_by(self, point: Mapping[str, Any]) -> bool:
        """Whether a point of a sweep meets it; a metric that is missing does not."""
        value = point.get(self.metric)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return bool(_COMPARISONS[self.comparison](value, self.number))

    def __str__(self) -> str:
        return f"{self.metric}{self.comparison}{self.number:g}"


def parse_pick(text: str) -> tuple[Condition, ...]:
    """The conditions of an expression.

        >>> from ssmpress import parse_pick
        >>> [condition.metric for condition in parse_pick("retention>=0.95 and decode_ms<5")]
        ['retention', 'decode_ms']

    Raises:
        UsageError: it is not one, or names a metric that there is not.
    """
    return tuple(map(_condition, re.split(r"\band\b", text)))


def _condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--pick: expected METRIC>=NUMBER, joined by and, such as {_EXAMPLE}; got "
            f"{text.strip()!r}. The comparisons are {', '.join(_COMPARISONS)}."
        )
    metric, comparison, number = match.groups()
    if metric not in METRICS:
        hint = did_you_mean(metric, METRICS)
        raise UsageError(f"--pick: expected one of {', '.join(METRICS)}; got {metric!r}.{hint}")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--pick: {metric}: expected a number; got {number!r}.")
    return Condition(metric, comparison, value)


def fastest(points: Sequence[Mapping[str, Any]]) -> int | None:
    """Index of the fastest of these points; None if there is none."""
    if not points:
        return None
    return max(range(len(points)), key=lambda at: _speed(points[at]))


def pick(points: Sequence[Mapping[str, Any]], conditions: Sequence[Condition]) -> int | None:
    """Index of the fastest point that meets every condition; None if none does."""
    met = [i for i, point in enumerate(points) if all(c.met_by(point) for c in conditions)]
    best = fastest([points[i] for i in met])
    return None if best is None else met[best]


def _speed(point: Mapping[str, Any]) -> tuple[float, float]:
    """More is better."""
    speedup, size = point.get("speedup"), point.get("model_bytes")
    return (
        speedup if isinstance(speedup, int | float) else 0.0,
        -size if isinstance(size, int | float) else -math.inf,
    )
