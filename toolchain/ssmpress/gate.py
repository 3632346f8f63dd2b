"""Thresholds -> verdict: pass, fail or inconclusive. Never a silent pass.

A latency rule is judged by a confidence interval of its median, from a bootstrap that redraws
the rounds (shared by the variants, which took turns within them) and then the samples within
each: rounds differ by more than samples do, because the machine drifts. An interval that
straddles the limit is inconclusive, and so is a metric that is missing or not finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.errors import (
    EXIT_INCONCLUSIVE,
    EXIT_LATENCY_OR_SIZE,
    EXIT_PASS,
    EXIT_QUALITY,
)
from ssmpress.recipe import GateSettings
from ssmpress.report.results import FAIL, INCONCLUSIVE, PASS, Interval, RuleResult, Verdict
from ssmpress.report.tables import number

CONFIDENCE = 0.99
"""Two-sided: a build that sits exactly on a limit fails in 0.5 % of runs."""

MIN_ROUNDS = 5
"""Measured rounds below which the spread between rounds is too little known to judge."""

_RESAMPLES = 1000
_MIN, _MAX = "at least", "at most"


@dataclass(frozen=True)
class Rule:
    """One limit. label: what it limits, for messages. metric: path in the report.

    direction: `at least` or `at most`. samples: phase of the raw samples that give the metric its
    interval (`decode`); None judges the value alone. ratio: the metric is dense / compressed of
    these samples' medians.
    """

    name: str
    label: str
    metric: str
    limit: float
    direction: str
    exit_code: int
    unit: str = ""
    samples: str | None = None
    ratio: bool = False


def rules(settings: GateSettings) -> tuple[Rule, ...]:
    """The rules that are set, quality first."""
    found = []
    if settings.min_retention is not None:
        found.append(
            Rule("min_retention", "quality kept", "quality.retention", settings.min_retention,
                 _MIN, EXIT_QUALITY)
        )  # fmt: skip
    if settings.max_decode_ms is not None:
        found.append(
            Rule("max_decode_ms", "median decode time", "latency.decode.compressed.p50_ms",
                 settings.max_decode_ms, _MAX, EXIT_LATENCY_OR_SIZE, " ms", "decode")
        )  # fmt: skip
    if settings.min_speedup is not None:
        found.append(
            Rule("min_speedup", "decode speed-up", "latency.decode.speedup", settings.min_speedup,
                 _MIN, EXIT_LATENCY_OR_SIZE, "x", "decode", ratio=True)
        )  # fmt: skip
    return tuple(found)


def judge(report: Mapping[str, Any], settings: GateSettings, *, seed: int = 0) -> Verdict:
    """Hold a report against the limits.

    Args:
        report: from `report.schema.build_report`, or a stored one.
        settings: the limits; those that are None are not judged.
        seed: of the bootstrap.

    Returns:
        The verdict. Of several failed rules quality decides the exit code before latency, and
        a failed one before an inconclusive one.
    """
    results = tuple(_judge_rule(report, rule, seed) for rule in rules(settings))
    for status, code in (
        (FAIL, EXIT_QUALITY),
        (FAIL, EXIT_LATENCY_OR_SIZE),
        (INCONCLUSIVE, EXIT_INCONCLUSIVE),
    ):
        if chosen := [r for r in results if r.status == status and r.exit_code == code]:
            sentence = f"{status.capitalize()}: " + " ".join(r.message for r in chosen)
            return Verdict(status, results, code, f"{sentence} {chosen[0].help}".strip())
    if not results:
        return Verdict(PASS, (), EXIT_PASS, "Pass: no limit was set.")
    sentence = "Pass: " + " ".join(result.message for result in results)
    return Verdict(PASS, results, EXIT_PASS, sentence)


def _judge_rule(report: Mapping[str, Any], rule: Rule, seed: int) -> RuleResult:
    value = _metric(report, rule.metric)
    if value is None:
        why = f"{rule.metric} is missing from the report or not a number."
        return _inconclusive(rule, None, None, why, "Run again with the measurement it needs.")
    interval = None
    if rule.samples is not None:
        interval = _interval(report, rule, seed)
        if interval is None:
            why = (
                f"the {rule.label} is {_text(rule, value)}, from fewer than {MIN_ROUNDS} rounds of "
                "raw samples or damaged ones."
            )
            return _inconclusive(rule, value, None, why, "Measure more rounds.")
    low, high = (value, value) if interval is None else (interval.low, interval.high)
    worst_violates, best_violates = (_violates(rule, edge) for edge in _edges(rule, low, high))
    if best_violates:
        return _decided(rule, FAIL, value, interval, _help(report, rule))
    if worst_violates:
        assert interval is not None
        why = (
            f"the {rule.label} is {_text(rule, value)}, but its {interval.confidence:.0%} interval "
            f"{_text(rule, low)} to {_text(rule, high)} straddles the limit."
        )
        again = "Run again on a quieter machine, with fewer threads or more rounds."
        return _inconclusive(rule, value, interval, why, again)
    return _decided(rule, PASS, value, interval, "")


def _edges(rule: Rule, low: float, high: float) -> tuple[float, float]:
    """The interval's worse end, then its better one."""
    return (low, high) if rule.direction == _MIN else (high, low)


def _violates(rule: Rule, value: float) -> bool:
    return value < rule.limit if rule.direction == _MIN else value > rule.limit


def _decided(
    rule: Rule, status: str, value: float, interval: Interval | None, advice: str
) -> RuleResult:
    code = EXIT_PASS if status == PASS else rule.exit_code
    spread = ""
    if interval is not None:
        spread = f" ({_text(rule, interval.low)} to {_text(rule, interval.high)})"
    message = (
        f"The {rule.label} is {_text(rule, value)}{spread}, "
        f"{rule.direction} {_text(rule, rule.limit)} is asked."
    )
    return RuleResult(rule.name, status, value, rule.limit, interval, code, message, advice)


def _inconclusive(
    rule: Rule, value: float | None, interval: Interval | None, why: str, advice: str
) -> RuleResult:
    message = f"{rule.name} ({rule.direction} {_text(rule, rule.limit)}) is undecided: {why}"
    return RuleResult(
        rule.name, INCONCLUSIVE, value, rule.limit, interval, EXIT_INCONCLUSIVE, message, advice
    )


def _text(rule: Rule, value: float) -> str:
    """With enough digits to tell it from the limit."""
    alike = value != rule.limit and number(value) == number(rule.limit)
    return (f"{value:.12g}" if alike else number(value)) + rule.unit


def _help(report: Mapping[str, Any], rule: Rule) -> str:
    """What would help, from the recipe that failed."""
    sparsity = _lookup(report, "recipe.prune.sparsity")
    values = _lookup(report, "recipe.pack.values")
    now = f" (now {sparsity:g})" if isinstance(sparsity, int | float) else ""
    if rule.exit_code == EXIT_QUALITY:
        ways = [f"a lower --sparsity{now}", "a longer --recover"]
        if values != "fp32":
            ways.append(f"more exact --values (now {values})" if values else "--values fp32")
        return f"What helps: {', '.join(ways)}, or calibration text closer to the evaluation text."
    ways = [f"a higher --sparsity{now}"]
    if values != "int8":
        ways.insert(0, "--values int8")
    return f"What helps: {', '.join(ways)}, or more --threads if the device has them."


def _lookup(report: Mapping[str, Any], path: str) -> Any:
    value: Any = report
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _metric(report: Mapping[str, Any], path: str) -> float | None:
    """The finite number at a path such as `latency.decode.speedup`, or None."""
    value = _lookup(report, path)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _interval(report: Mapping[str, Any], rule: Rule, seed: int) -> Interval | None:
    assert rule.samples is not None
    names = ("dense", "compressed") if rule.ratio else ("compressed",)
    tables = []
    for name in names:
        table = _samples(_lookup(report, f"latency.samples.{name}"), rule.samples)
        if table is None:
            return None
        tables.append(table)
    return bootstrap_median(tables, seed=seed)


def _samples(turns: Any, phase: str) -> NDArray[np.float64] | None:
    """(rounds, samples) of the measured rounds; None if there are too few or any is damaged."""
    if not isinstance(turns, Sequence):
        return None
    try:
        rows = [np.atleast_1d(t[f"{phase}_ms"]).astype(float) for t in turns if not t["warmup"]]
        table = np.array(rows)
    except (KeyError, TypeError, ValueError):
        return None
    if table.ndim != 2 or len(table) < MIN_ROUNDS or table.shape[1] < 1:
        return None
    return table if bool((np.isfinite(table) & (table > 0)).all()) else None


def bootstrap_median(
    tables: Sequence[NDArray[np.float64]], *, seed: int, confidence: float = CONFIDENCE
) -> Interval | None:
    """Confidence interval of a median, or of the ratio of two, over interleaved rounds.

    A bootstrap over few rounds is too narrow: of identical builds whose rounds differ by 10 %, 3 %
    were called slower with 5 rounds and 0.7 % with 10, where 0.5 % is meant. So the interval is
    stretched, on a logarithmic scale, as Student's t is wider than the normal distribution.

    Args:
        tables: milliseconds (rounds, samples), one table, or numerator and denominator.

    Returns:
        None if there are fewer than 2 rounds, or not equally many in both tables.
    """
    rounds = len(tables[0])
    if rounds < 2 or any(len(table) != rounds for table in tables):
        return None
    random = np.random.default_rng(seed)
    statistics = np.empty(_RESAMPLES)
    for draw in range(_RESAMPLES):
        picked = random.integers(rounds, size=(rounds, 1))
        drawn = [
            table[picked, random.integers(table.shape[1], size=table.shape)] for table in tables
        ]
        statistics[draw] = _median_or_ratio(drawn)
    tail = (1 - confidence) / 2
    centre = _median_or_ratio(tables)
    stretch = _student_stretch(rounds, 1 - tail)
    low, high = centre * (np.quantile(statistics, [tail, 1 - tail]) / centre) ** stretch
    return Interval(float(low), float(high), confidence)


def _median_or_ratio(tables: Sequence[NDArray[np.float64]]) -> float:
    medians = [float(np.median(table)) for table in tables]
    return medians[0] if len(medians) == 1 else medians[0] / medians[1]


def _student_stretch(rounds: int, quantile: float) -> float:
    """t / z at that quantile with rounds - 1 degrees of freedom, and sqrt(n / (n - 1)), since a
    resample has the variance with n in the denominator.

    t by its expansion in 1 / freedom, 1.3 % low at 4 degrees (Abramowitz and Stegun 26.7.5).
    """
    z, f = NormalDist().inv_cdf(quantile), rounds - 1
    t = (
        z
        + (z**3 + z) / (4 * f)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3)
    )
    return t / z * math.sqrt(rounds / (rounds - 1))
