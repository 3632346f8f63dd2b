"""Thresholds -> verdict: pass, fail or inconclusive. Never a silent pass.

Latency is judged by a confidence interval from the raw samples, quality by one over the windows of
the evaluation text (`bootstrap.py`). An interval that straddles the limit is inconclusive, and so
is a metric that is missing or not finite, and a baseline that cannot be compared with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ssmpress.bundle.manifest import MANIFEST_NAME, has_manifest, verify_manifest
from ssmpress.bundle.names import REPORT_NAME
from ssmpress.errors import EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_QUALITY, BadInputError
from ssmpress.files import read_json
from ssmpress.gate import advice
from ssmpress.gate.agreement import contradiction
from ssmpress.gate.exit_code import gravest, status_of
from ssmpress.gate.intervals import MIN_ROUNDS, latency_interval, quality_interval
from ssmpress.gate.rules import AT_LEAST, PERCENT, Rule, of_another_metric, rules, value_of
from ssmpress.gate.unasked import unasked
from ssmpress.measure.bootstrap import MIN_WINDOWS
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.report.prose import crowding, seen
from ssmpress.report.schema import SCHEMA_VERSION
from ssmpress.report.tables import confidence, lookup, number, percent
from ssmpress.report.wording import words
from ssmpress.results.quality import Interval
from ssmpress.results.report import FAIL, INCONCLUSIVE, PASS, Report
from ssmpress.results.verdict import RuleResult, Verdict

_BLOCKS = ("recipe", "quality", "size")
_NO_TIME = (
    "Time and memory are measured on a machine of the target only: give a real one, "
    "--device ssh://user@host."
)


def read_report(path: str | Path) -> dict[str, Any]:
    """A stored report, or the one in a bundle's folder.

    Raises:
        BadInputError: there is none, it is damaged or of another schema, or it is not the one that
            the manifest beside it seals.
    """
    path = Path(path)
    file = path / REPORT_NAME if path.is_dir() else path
    report = read_json(file)
    _check_seal(file)
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


def _check_seal(file: Path) -> None:
    """Hold the report of a bundle against its manifest; a report that lies elsewhere has none."""
    folder = file.parent
    bundle = has_manifest(folder) or (folder / "model.onnx").exists()
    if file.name != REPORT_NAME or not bundle:
        return
    sealed = verify_manifest(folder, [REPORT_NAME])
    if REPORT_NAME not in sealed["files"]:
        raise BadInputError(
            f"{folder / MANIFEST_NAME}: expected {REPORT_NAME} among its files; got none. Give the "
            "bundle as it was made."
        )


def judge(
    report: Report, settings: GateSettings, *, seed: int = 0, baseline: Report | None = None
) -> Verdict:
    """Hold a report against the limits.

        >>> from ssmpress import GateSettings, judge, read_report
        >>> limits = GateSettings(min_retention=None, max_bundle_bytes=50e6)
        >>> verdict = judge(read_report("bundle"), limits)
        >>> verdict.status, verdict.exit_code
        ('pass', 0)

    Args:
        report: from `report.schema.build_report`, or a stored one.
        settings: the limits; those that are None are not judged.
        seed: of the bootstrap.
        baseline: a stored report, for relative limits; without it they are inconclusive.

    Returns:
        The verdict. Of several failed rules quality decides the exit code before latency, and
        a failed one before an inconclusive one.
    """
    results = tuple(
        _with_crowding(report, rule, _judge_rule(report, rule, seed, baseline))
        for rule in rules(settings)
    )
    results += unasked(report)
    code = gravest(result.exit_code for result in results)
    deciding = [result for result in results if result.exit_code == code]
    status = status_of(code)
    messages = " ".join(result.message for result in deciding) or "no limit was set."
    cure = "" if status == PASS else f" {deciding[0].help}".rstrip()
    sentence = f"{status.capitalize()}: {messages}{cure} {seen(report)}"
    return Verdict(status, results, code, " ".join(sentence.split()))


def _judge_rule(report: Report, rule: Rule, seed: int, baseline: Report | None) -> RuleResult:
    value = value_of(report, rule)
    judged = _Judged(rule, value, *_limit(report, rule, baseline))
    if value is None:
        metric = rule.metric or "quality.compressed or quality.dense"
        if of_another_metric(report, rule):
            why = f"the model's metric is {lookup(report, 'quality', 'metric')}, not perplexity."
            return judged.inconclusive(why, "Use min_retention, which every metric has.")
        why = f"{metric} is missing from the report or not a number."
        needs = rule.samples is not None or rule.metric.startswith("memory.")
        if needs and lookup(report, "latency") is None:
            return judged.inconclusive(why, _NO_TIME)
        return judged.inconclusive(why, "Run again with the measurement it needs.")
    if judged.limit is None:
        return judged.inconclusive(judged.asked, "Store a report of this setup as the baseline.")
    interval = None
    if rule.has_interval:
        quality = rule.exit_code == EXIT_QUALITY
        find = quality_interval if quality else latency_interval
        interval = find(report, rule, seed, baseline)
        if interval is None:
            return judged.inconclusive(*_too_little(report, rule, judged.text(value)))
    low, high = (value, value) if interval is None else (interval.low, interval.high)
    best, worst = (high, low) if rule.direction == AT_LEAST else (low, high)
    if judged.violated_by(best):
        return judged.decided(FAIL, interval, _help(report, rule))
    if judged.violated_by(worst):
        assert interval is not None
        why = (
            f"the {rule.label} is {judged.text(value)}, but its {sure(interval)} "
            f"{judged.text(low)} to {judged.text(high)} straddles the limit."
        )
        again = advice.QUIETER
        if rule.exit_code == EXIT_QUALITY:
            cut = advice.cut_short(report)
            again = f"What helps: {cut}." if cut else words(report).more
        return judged.inconclusive(why, again, interval)
    return judged.decided(PASS, interval, "")


def sure(interval: Interval) -> str:
    """`99.8 % interval`."""
    return f"{confidence(asdict(interval))} interval"


def _with_crowding(report: Report, rule: Rule, result: RuleResult) -> RuleResult:
    """A time that more threads were measured with than can run at once says so."""
    why = crowding(lookup(report, "latency")) if rule.samples is not None else ""
    return replace(result, message=f"{result.message} {why}") if why else result


def _too_little(report: Report, rule: Rule, value: str) -> tuple[str, str]:
    """Why there is no interval, and what to do."""
    if rule.exit_code == EXIT_QUALITY:
        phrases = words(report)
        why = f"from fewer than {MIN_WINDOWS} {phrases.evaluated}, or damaged ones."
        return f"the {rule.label} is {value}, {why}", phrases.more
    why = f"from fewer than {MIN_ROUNDS} rounds of raw samples, too few of them, or damaged ones."
    return f"the {rule.label} is {value}, {why}", advice.MEASURE


@dataclass(frozen=True)
class _Judged:
    """A rule with its value and its limit as a number. asked: the limit in words, or why None."""

    rule: Rule
    value: float | None
    limit: float | None
    asked: str

    def violated_by(self, value: float) -> bool:
        assert self.limit is not None
        return value < self.limit if self.rule.direction == AT_LEAST else value > self.limit

    def text(self, value: float) -> str:
        """The value, with enough digits to tell it from the limit."""
        return _text(self.rule, value, self.limit)

    def decided(self, status: str, interval: Interval | None, advice: str) -> RuleResult:
        assert self.value is not None
        code = EXIT_PASS if status == PASS else self.rule.exit_code
        spread = ""
        if interval is not None:
            spread = f" ({self.text(interval.low)} to {self.text(interval.high)}, {sure(interval)})"
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
    if why := contradiction(baseline):
        return None, f"the baseline contradicts itself: {why}"
    value = value_of(baseline, rule)
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
    """A condition that a measurement was made under, such as `latency.cpu`.

    Older reports measured on the machine of `environment` only."""
    condition = lookup(report, *key.split("."))
    if key == "latency.cpu" and condition is None:
        return lookup(report, "environment", "cpu")
    return condition


def _text(rule: Rule, value: float, limit: float | None = None) -> str:
    if rule.unit == " bytes":
        return f"{value:,.0f}{rule.unit}"
    short = percent if rule.unit == PERCENT else number
    if limit is not None and value != limit and short(value) == short(limit):
        return f"{100 * value if rule.unit == PERCENT else value:.12g}{rule.unit}"
    return percent(value) if rule.unit == PERCENT else number(value) + rule.unit


def _help(report: Report, rule: Rule) -> str:
    if rule.exit_code == EXIT_QUALITY:
        return advice.for_quality(report)
    return advice.for_size_or_time(report, rule)
