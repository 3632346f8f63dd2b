"""Thresholds -> verdict: pass, fail or inconclusive. Never a silent pass.

A latency rule is judged by a confidence interval from the raw samples (`bootstrap.py`). An interval
that straddles the limit is inconclusive, and so is a metric that is missing or not finite, and a
baseline that cannot be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssmpress.bootstrap import Table, bootstrap
from ssmpress.errors import (
    EXIT_INCONCLUSIVE,
    EXIT_LATENCY_OR_SIZE,
    EXIT_PASS,
    EXIT_QUALITY,
    BadInputError,
)
from ssmpress.recipe import GateSettings, Limit, Relative
from ssmpress.report.files import read_json
from ssmpress.report.results import FAIL, INCONCLUSIVE, PASS, Interval, RuleResult, Verdict
from ssmpress.report.schema import SCHEMA_VERSION
from ssmpress.report.tables import lookup, number

MIN_ROUNDS = 5
"""Measured rounds below which the spread between rounds is too little known to judge."""

MIN_TAIL_SAMPLES = 100
"""Measured samples below which a 99th percentile is little more than the largest of them."""

Report = Mapping[str, Any]
_BLOCKS = ("recipe", "quality", "size")
_MIN, _MAX = "at least", "at most"
_NO_TIME = (
    "Time and memory are measured on a machine of the target only: give a real one, "
    "--device ssh://user@host."
)


@dataclass(frozen=True)
class Rule:
    """One limit. label: what it limits, for messages. metric: path in the report.

    direction: `at least` or `at most`. samples: phase of the raw samples that give the metric its
    interval (`decode`); None judges the value alone. quantile: of these samples. ratio: the metric
    is dense / compressed. limit: NaN in `ALL_RULES`, where none is set yet.
    """

    name: str
    label: str
    metric: str
    direction: str
    exit_code: int
    unit: str = ""
    samples: str | None = None
    quantile: float = 0.5
    ratio: bool = False
    limit: Limit = math.nan


ALL_RULES = (
    Rule("min_retention", "quality kept", "quality.retention", _MIN, EXIT_QUALITY),
    Rule("max_perplexity_increase", "perplexity increase", "", _MAX, EXIT_QUALITY),
    Rule("max_decode_ms", "median decode time", "latency.decode.compressed.p50_ms", _MAX,
         EXIT_LATENCY_OR_SIZE, " ms", "decode"),
    Rule("max_decode_p99_ms", "99th percentile of the decode time",
         "latency.decode.compressed.p99_ms", _MAX, EXIT_LATENCY_OR_SIZE, " ms", "decode", 0.99),
    Rule("min_speedup", "decode speed-up", "latency.decode.speedup", _MIN, EXIT_LATENCY_OR_SIZE,
         "x", "decode", ratio=True),
    Rule("max_bundle_bytes", "bundle", "size.bundle_bytes", _MAX, EXIT_LATENCY_OR_SIZE, " bytes"),
    Rule("max_rss_bytes", "peak memory", "memory.compressed_peak_rss_bytes", _MAX,
         EXIT_LATENCY_OR_SIZE, " bytes"),
)  # fmt: skip
"""Quality first: it decides the exit code before latency and size."""


def rules(settings: GateSettings) -> tuple[Rule, ...]:
    """The rules that are set, quality first."""
    limits = settings.limits()
    found = [replace(rule, limit=limits[rule.name]) for rule in ALL_RULES if rule.name in limits]
    return tuple(map(_of_the_perplexity_itself, found))


def _of_the_perplexity_itself(rule: Rule) -> Rule:
    """An increase has no multiple; relative to a baseline the perplexities are compared."""
    if rule.name == "max_perplexity_increase" and isinstance(rule.limit, Relative):
        return replace(rule, label="perplexity", metric="quality.compressed")
    return rule


def read_report(path: Path) -> dict[str, Any]:
    """A stored report, or the one in a bundle's folder.

    Raises:
        BadInputError: there is none, or it is damaged or of another schema.
    """
    file = path / "report.json" if path.is_dir() else path
    report = read_json(file)
    if missing := [key for key in _BLOCKS if not isinstance(report.get(key), dict)]:
        raise BadInputError(
            f"{file}: expected a report of `compress`; {', '.join(missing)} is missing."
        )
    if report.get("schema_version") != SCHEMA_VERSION:
        raise BadInputError(
            f"{file}: expected a report of schema_version {SCHEMA_VERSION}; got "
            f"{report.get('schema_version')!r}. Give the report.json that `compress` wrote."
        )
    return report


def judge(
    report: Report, settings: GateSettings, *, seed: int = 0, baseline: Report | None = None
) -> Verdict:
    """Hold a report against the limits.

    Args:
        report: from `report.schema.build_report`, or a stored one.
        settings: the limits; those that are None are not judged.
        seed: of the bootstrap.
        baseline: a stored report, for relative limits; without it they are inconclusive.

    Returns:
        The verdict. Of several failed rules quality decides the exit code before latency, and
        a failed one before an inconclusive one.
    """
    results = tuple(_judge_rule(report, rule, seed, baseline) for rule in rules(settings))
    results += _judge_target(report)
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


def _judge_target(report: Report) -> tuple[RuleResult, ...]:
    """Inconclusive where the bundle ran nowhere; nothing to say where it did."""
    target = lookup(report, "target")
    if target is None or lookup(target, "validated") is not None:
        return ()
    why = str(lookup(target, "reason") or "no device was used.")
    message = f"Whether the bundle runs is undecided: {why}"
    return (
        RuleResult(
            "target", INCONCLUSIVE, None, None, None, EXIT_INCONCLUSIVE, message,
            "Install qemu-user, or give a device: --device ssh://user@host.",
        ),
    )  # fmt: skip


def _judge_rule(report: Report, rule: Rule, seed: int, baseline: Report | None) -> RuleResult:
    value = _value(report, rule)
    judged = _Judged(rule, value, *_limit(report, rule, baseline))
    if value is None:
        metric = rule.metric or "quality.compressed or quality.dense"
        why = f"{metric} is missing from the report or not a number."
        needs = rule.samples is not None or rule.metric.startswith("memory.")
        if needs and lookup(report, "latency") is None:
            return judged.inconclusive(why, _NO_TIME)
        return judged.inconclusive(why, "Run again with the measurement it needs.")
    if judged.limit is None:
        return judged.inconclusive(judged.asked, "Store a report of this setup as the baseline.")
    interval = None
    if rule.samples is not None:
        interval = _interval(report, rule, seed, baseline)
        if interval is None:
            why = (
                f"the {rule.label} is {judged.text(value)}, from fewer than {MIN_ROUNDS} rounds of "
                "raw samples, too few of them, or damaged ones."
            )
            return judged.inconclusive(why, "Measure more rounds.")
    low, high = (value, value) if interval is None else (interval.low, interval.high)
    best, worst = (high, low) if rule.direction == _MIN else (low, high)
    if judged.violated_by(best):
        return judged.decided(FAIL, interval, _help(report, rule))
    if judged.violated_by(worst):
        assert interval is not None
        why = (
            f"the {rule.label} is {judged.text(value)}, but its {interval.confidence:.1%} interval "
            f"{judged.text(low)} to {judged.text(high)} straddles the limit."
        )
        again = "Run again on a quieter machine, with fewer threads or more rounds."
        return judged.inconclusive(why, again, interval)
    return judged.decided(PASS, interval, "")


@dataclass(frozen=True)
class _Judged:
    """A rule with its value and its limit as a number. asked: the limit in words, or why None."""

    rule: Rule
    value: float | None
    limit: float | None
    asked: str

    def violated_by(self, value: float) -> bool:
        assert self.limit is not None
        return value < self.limit if self.rule.direction == _MIN else value > self.limit

    def text(self, value: float) -> str:
        """With enough digits to tell it from the limit."""
        return _text(self.rule, value, self.limit)

    def decided(self, status: str, interval: Interval | None, advice: str) -> RuleResult:
        assert self.value is not None
        code = EXIT_PASS if status == PASS else self.rule.exit_code
        spread = ""
        if interval is not None:
            spread = f" ({self.text(interval.low)} to {self.text(interval.high)})"
        message = (
            f"The {self.rule.label} is {self.text(self.value)}{spread}, "
            f"{self.rule.direction} {self.asked} is asked."
        )
        return self._result(status, interval, code, message, advice)

    def inconclusive(self, why: str, advice: str, interval: Interval | None = None) -> RuleResult:
        asked = self.asked if self.limit is not None else str(self.rule.limit)
        message = f"{self.rule.name} ({self.rule.direction} {asked}) is undecided: {why}"
        return self._result(INCONCLUSIVE, interval, EXIT_INCONCLUSIVE, message, advice)

    def _result(self, status: str, interval: Interval | None, code: int, *text: str) -> RuleResult:
        name = self.rule.name
        return RuleResult(name, status, self.value, self.limit, interval, code, *text)


def _limit(report: Report, rule: Rule, baseline: Report | None) -> tuple[float | None, str]:
    """The limit as a number and in words, or None and the reason."""
    if not isinstance(rule.limit, Relative):
        return rule.limit, _text(rule, rule.limit)
    if baseline is None:
        return None, "there is no baseline."
    for key in _must_agree(rule):
        here, there = _condition(report, key), _condition(baseline, key)
        if here is None or here != there:
            return (
                None,
                f"the baseline cannot be compared: {key} is {there!r} there, {here!r} here.",
            )
    value = _value(baseline, rule)
    if value is None:
        return None, f"{rule.metric} is missing from the baseline or not a number."
    limit = rule.limit.factor * value
    base = f"{number(rule.limit.factor)} times the baseline's {_text(rule, value)}"
    return limit, f"{_text(rule, limit)} ({base})"


def _must_agree(rule: Rule) -> tuple[str, ...]:
    """What two runs must have in common for this metric to be comparable."""
    if rule.samples is not None:
        return ("latency.cpu", "latency.threads", "latency.prompt_tokens")
    if rule.exit_code == EXIT_QUALITY:
        return ("quality.metric", "quality.tokens", "quality.window")
    return ()


def _condition(report: Report, key: str) -> Any:
    """Of a measurement. Older reports measured on the machine of `environment` only."""
    found = lookup(report, *key.split("."))
    if key == "latency.cpu" and found is None:
        return lookup(report, "environment", "cpu")
    return found


def _text(rule: Rule, value: float, limit: float | None = None) -> str:
    if rule.unit == " bytes":
        return f"{value:,.0f}{rule.unit}"
    alike = limit is not None and value != limit and number(value) == number(limit)
    return (f"{value:.12g}" if alike else number(value)) + rule.unit


def _help(report: Report, rule: Rule) -> str:
    """What would help, from the recipe that failed."""
    sparsity = lookup(report, "recipe", "prune", "sparsity")
    values = lookup(report, "recipe", "pack", "values")
    now = f" (now {sparsity:g})" if isinstance(sparsity, int | float) else ""
    if rule.exit_code == EXIT_QUALITY:
        ways = [f"a lower --sparsity{now}", "a longer --recover"]
        if values != "fp32":
            ways.append(f"more exact --values (now {values})" if values else "--values fp32")
        return f"What helps: {', '.join(ways)}, or calibration text closer to the evaluation text."
    ways = [f"a higher --sparsity{now}"]
    if values != "int8":
        ways.insert(0, "--values int8")
    if rule.samples is None:
        return f"What helps: {' or '.join(ways)}."
    return f"What helps: {', '.join(ways)}, or more --threads if the device has them."


def _value(report: Report, rule: Rule) -> float | None:
    """The rule's finite number, or None."""
    if rule.metric:
        return _metric(report, rule.metric)
    dense, compressed = (_metric(report, f"quality.{name}") for name in ("dense", "compressed"))
    return None if not dense or compressed is None else compressed / dense - 1


def _metric(report: Report, path: str) -> float | None:
    """The finite number at a path such as `latency.decode.speedup`, or None."""
    value = lookup(report, *path.split("."))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON's integers have no bound
        return None


def _interval(report: Report, rule: Rule, seed: int, baseline: Report | None) -> Interval | None:
    """Of the metric; of a relative rule that of the ratio, in the baseline's unit."""
    if not isinstance(rule.limit, Relative):
        tables = _tables(report, rule)
        return bootstrap([tables], seed=seed, quantile=rule.quantile) if tables else None
    assert baseline is not None
    runs = [_tables(report, rule), _tables(baseline, rule)]
    found = [run for run in runs if run is not None]
    unit = _value(baseline, rule)
    if len(found) < len(runs) or unit is None:
        return None
    ratio = bootstrap(found, seed=seed, quantile=rule.quantile)
    return ratio and Interval(ratio.low * unit, ratio.high * unit, ratio.confidence)


def _tables(report: Report, rule: Rule) -> list[Table] | None:
    assert rule.samples is not None
    tables = []
    for name in ("dense", "compressed") if rule.ratio else ("compressed",):
        table = _samples(lookup(report, "latency", "samples", name), rule.samples)
        if table is None or (rule.quantile > 0.5 and table.size < MIN_TAIL_SAMPLES):
            return None
        tables.append(table)
    return tables


def _samples(turns: Any, phase: str) -> Table | None:
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
