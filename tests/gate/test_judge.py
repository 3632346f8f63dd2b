"""Planted regressions of every rule are caught; nothing undecided passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import example_report as example
from example_report import planted
from ssmpress.gate.intervals import MIN_ROUNDS
from ssmpress.gate.judge import judge
from ssmpress.gate.rules import ALL_RULES, rules
from ssmpress.measure.bootstrap import CONFIDENCE, MIN_WINDOWS, bootstrap
from ssmpress.measure.metrics import retention, retention_interval
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.settings.gate import RULES, GateSettings
from ssmpress.results.quality import LanguageModelQuality, Quality
from ssmpress.results.verdict import Verdict

NAN, INF = float("nan"), float("inf")


def settings(**limits: float) -> GateSettings:
    return GateSettings(**{"min_retention": None, **limits})


GOOD = settings(min_retention=0.95, max_decode_ms=6.0, min_speedup=1.5)


def check(verdict: Verdict, status: str, exit_code: int) -> None:
    assert (verdict.status, verdict.exit_code) == (status, exit_code), verdict.sentence


def test_a_good_report_passes_and_says_the_numbers() -> None:
    verdict = judge(example.report(), GOOD)
    check(verdict, "pass", 0)
    assert [rule.status for rule in verdict.rules] == ["pass"] * 3
    assert verdict.sentence.startswith(
        "Pass: The quality kept is 96.8 % (96.8 % to 96.8 %, 99.8 % interval), at least 95.0 %"
    )
    assert verdict.rules[1].interval is not None


def test_no_limit_is_said() -> None:
    verdict = judge(example.report(), settings())
    check(verdict, "pass", 0)
    assert verdict.sentence == "Pass: no limit was set."


def test_lower_quality_fails_with_3_and_says_what_helps() -> None:
    verdict = judge(example.report(compressed=33.0), GOOD)
    check(verdict, "fail", 3)
    assert (
        "The quality kept is 90.9 % (90.9 % to 90.9 %, 99.8 % interval), at least 95.0 % is asked."
        in verdict.sentence
    )
    assert "lower --sparsity (now 0.7), a longer --recover" in verdict.sentence
    assert "--values (now int8)" in verdict.sentence


SHARED = "8 threads shared 2 usable processors and waited for one another"


@pytest.mark.parametrize("available", [1, 2, 8, None, "2"])
def test_a_time_that_too_many_threads_took_says_so(available: Any) -> None:
    report = planted(example.report(), "latency.threads", 8)
    report = planted(report, "latency.available_cpus", available)
    verdict = judge(report, GOOD)
    check(verdict, "pass", 0)
    said = [rule.message for rule in verdict.rules if "waited for one another" in rule.message]
    assert len(said) == (2 if available in (1, 2) else 0), "of the two latency rules"
    assert (SHARED in verdict.sentence) == (available == 2)
    slow = judge(report, settings(max_decode_ms=4.0))
    check(slow, "fail", 4)
    assert (SHARED in slow.sentence) == (available == 2)


@pytest.mark.parametrize(
    ("limits", "name"),
    [({"max_decode_ms": 4.0}, "max_decode_ms"), ({"min_speedup": 2.5}, "min_speedup")],
)
def test_a_slower_build_fails_with_4(limits: dict[str, float], name: str) -> None:
    verdict = judge(example.report(), settings(**limits))
    check(verdict, "fail", 4)
    assert [rule.name for rule in verdict.rules if rule.status == "fail"] == [name]
    assert "higher --sparsity" in verdict.sentence


@pytest.mark.parametrize("slowdown", [1.1, 1.3, 3.0])
def test_a_planted_slowdown_is_caught(slowdown: float) -> None:
    rows = {
        "dense": example.measurement(10.0, seed=1),
        "compressed": example.measurement(5.0 * slowdown, seed=3),
    }
    report = example.report(measurements=rows)
    check(judge(report, settings(max_decode_ms=5.2)), "fail", 4)
    check(judge(report, settings(min_speedup=1.95)), "fail", 4)


@pytest.mark.parametrize("value", [None, NAN, INF, "0.99", True, KeyError, -5])
@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("quality.retention", {"min_retention": 0.5}),
        ("latency.decode.speedup", {"min_speedup": 0.5}),
        ("latency.decode.compressed.p50_ms", {"max_decode_ms": 1e6}),
        ("latency", {"max_decode_ms": 1e6}),
        ("size.bundle_bytes", {"max_bundle_bytes": 1e9}),
        ("memory.compressed_peak_rss_bytes", {"max_rss_bytes": 1e12}),
    ],
)
def test_a_missing_metric_is_never_a_pass(path: str, limit: dict[str, float], value: Any) -> None:
    verdict = judge(planted(example.report(), path, value), settings(**limit))
    check(verdict, "inconclusive", 5)
    assert "is missing from the report or not a number" in verdict.sentence


@pytest.mark.parametrize(
    "damage",
    [
        KeyError,
        None,
        [],
        "x",
        [{"warmup": False}],
        [{"warmup": False, "decode_ms": [-1.0]}] * 5,
        [{"warmup": False, "decode_ms": [None]}] * 5,
        [{"warmup": False, "decode_ms": []}] * 5,
    ],
)
def test_damaged_samples_are_never_a_pass(damage: Any) -> None:
    report = planted(example.report(), "latency.samples.compressed", damage)
    check(judge(report, settings(max_decode_ms=1e6)), "inconclusive", 5)
    check(judge(report, settings(min_speedup=0.001)), "inconclusive", 5)


def test_too_few_rounds_are_inconclusive() -> None:
    for rounds, status in ((MIN_ROUNDS - 1, "inconclusive"), (MIN_ROUNDS, "pass")):
        rows = {
            "dense": example.measurement(10.0, rounds=rounds),
            "compressed": example.measurement(5.0, rounds=rounds),
        }
        verdict = judge(example.report(measurements=rows), settings(max_decode_ms=50.0))
        assert verdict.status == status, verdict.sentence


def test_an_interval_that_straddles_the_limit_is_inconclusive() -> None:
    rows = {
        "dense": example.measurement(10.0, seed=1, spread=0.5),
        "compressed": example.measurement(5.0, seed=3, spread=0.5),
    }
    verdict = judge(example.report(measurements=rows), settings(max_decode_ms=5.0))
    check(verdict, "inconclusive", 5)
    assert "99.8 % interval" in verdict.sentence
    assert "straddles the limit" in verdict.sentence


def test_quality_decides_before_latency_and_failure_before_inconclusive() -> None:
    slow = settings(min_retention=0.95, max_decode_ms=4.0)
    check(judge(example.report(compressed=40.0), slow), "fail", 3)
    check(judge(example.report(), slow), "fail", 4)
    missing = planted(example.report(), "quality.retention", None)
    check(judge(missing, slow), "fail", 4)
    check(judge(missing, settings(min_retention=0.9, max_decode_ms=9.0)), "inconclusive", 5)


def test_a_value_at_the_limit_passes_and_just_below_shows_the_difference() -> None:
    exact = planted(example.report(), "size.bundle_bytes", 600_000)
    check(judge(exact, settings(max_bundle_bytes=600_000)), "pass", 0)
    above = planted(example.report(), "size.bundle_bytes", 600_001)
    verdict = judge(above, settings(max_bundle_bytes=600_000))
    check(verdict, "fail", 4)
    assert "600,001 bytes" in verdict.sentence


def noisy_quality(loss: float, windows: int, seed: int) -> dict[str, Any]:
    """A report whose windows differ: loss is the mean nats per prediction that pruning costs."""
    random = np.random.default_rng(seed)
    dense = random.normal(3.4, 0.4, windows)
    compressed = dense + loss + random.normal(0, 0.02, windows) + random.exponential(0.01, windows)
    rows = [
        LanguageModelQuality(
            float(np.exp(n.mean())),
            float(100 * n.sum()),
            100 * windows,
            101,
            tuple((100 * n).tolist()),
        )
        for n in (dense, compressed)
    ]
    quality = Quality(rows[0], rows[1], retention(*rows), retention_interval(*rows))
    return example.report(quality=quality)


def test_quality_is_judged_by_its_interval() -> None:
    """A loss of 0.05 + 0.01 nats: 94.2 % kept, 6.2 % more perplexity."""
    report = noisy_quality(0.05, 30, seed=1)
    for limit, status, code in ((0.9, "pass", 0), (0.942, "inconclusive", 5), (0.98, "fail", 3)):
        verdict = judge(report, settings(min_retention=limit))
        check(verdict, status, code)
        interval = verdict.rules[0].interval
        assert interval is not None
        assert interval.confidence == CONFIDENCE
        assert interval.low < report["quality"]["retention"] < interval.high
    for limit, status in ((0.02, "fail"), (0.062, "inconclusive"), (0.1, "pass")):
        verdict = judge(report, settings(max_perplexity_increase=limit))
        assert verdict.status == status, verdict.sentence
    assert "Evaluate more text" in judge(report, settings(min_retention=0.942)).sentence


def test_few_windows_are_inconclusive_unless_nothing_is_asked() -> None:
    report = noisy_quality(0.05, MIN_WINDOWS - 1, seed=1)
    verdict = judge(report, settings(min_retention=0.5))
    check(verdict, "inconclusive", 5)
    assert "fewer than 8 windows of evaluation text" in verdict.sentence
    check(judge(report, settings(min_retention=0)), "pass", 0)
    check(judge(noisy_quality(0.05, MIN_WINDOWS, seed=1), settings(min_retention=0.5)), "pass", 0)


CUT = {"steps": 26, "ended": "ceiling", "seconds_per_step": 4.2, "advised_s": 840}
LONGER = "a longer recovery, whose time was up after 26 steps of 4.2 s: --recover-seconds 840"


def test_a_recovery_that_the_time_ended_is_told_how_much_to_give() -> None:
    """There, and not that more text is to be evaluated: where it failed and where it straddles."""
    failed = judge(planted(example.report(compressed=33.0), "recovery", CUT), GOOD)
    check(failed, "fail", 3)
    assert f"a lower --sparsity (now 0.7), {LONGER}, more exact" in failed.sentence
    straddling = planted(noisy_quality(0.05, MIN_WINDOWS, seed=1), "recovery", CUT)
    verdict = judge(straddling, settings(min_retention=straddling["quality"]["retention"]))
    check(verdict, "inconclusive", 5)
    assert verdict.sentence.endswith(f"straddles the limit. What helps: {LONGER}.")


@pytest.mark.parametrize(
    ("recovery", "longer"),
    [
        ({"steps": 160, "ended": "steps"}, True),
        ({"steps": 300, "ended": "no-improvement", "advised_s": None}, False),
        ({"steps": 300, "ended": "quality", "advised_s": None}, True),
        ({**CUT, "advised_s": "840"}, True),
        ({**CUT, "seconds_per_step": NAN}, True),
        ("damaged", True),
    ],
)
def test_a_longer_recovery_is_advised_where_it_may_help(recovery: Any, longer: bool) -> None:
    verdict = judge(planted(example.report(compressed=33.0), "recovery", recovery), GOOD)
    check(verdict, "fail", 3)
    assert ("a longer --recover" in verdict.sentence) == longer
    assert "--recover-seconds" not in verdict.sentence


@pytest.mark.parametrize(
    ("recovery", "expected"),
    [
        ({"steps": 300, "ended": "no-improvement"}, "it no longer improved."),
        ({"steps": 300, "ended": "quality"}, "it kept what was asked."),
        ({"steps": 160, "ended": "steps"}, None),
        (CUT, None),
        ({"steps": NAN, "ended": "quality"}, None),
        ({"ended": ["quality"]}, None),
    ],
)
def test_a_recovery_that_ended_by_itself_says_by_what(recovery: Any, expected: str | None) -> None:
    verdict = judge(planted(example.report(compressed=33.0), "recovery", recovery), GOOD)
    check(verdict, "fail", 3)
    told = f"Recovery ended after 300 steps: on held-out calibration data {expected}"
    assert (told in verdict.sentence) == (expected is not None)
    assert ("Recovery ended" in verdict.sentence) == (expected is not None)


@pytest.mark.parametrize(
    ("kind", "unit", "more"),
    [
        ("language-model", "windows of evaluation text", "or more --evaluation-tokens."),
        ("classification", "labelled texts", "a longer --evaluation."),
        ("forecast", "windows of the series that do not overlap", "a longer series as"),
    ],
)
def test_too_little_to_judge_is_told_in_the_units_of_the_task(
    kind: str, unit: str, more: str
) -> None:
    """--evaluation-tokens is refused for the two that are no language models."""
    report = planted(example.report(), "model.config", {"task": {"kind": kind}})
    del report["quality"]["window_nll"]
    few = planted(report, "quality.retention_interval", None)
    verdict = judge(few, settings(min_retention=0.5))
    check(verdict, "inconclusive", 5)
    assert f"from fewer than 8 {unit}, or damaged ones." in verdict.sentence
    interval = {"low": 0.9, "high": 1.0, "confidence": 0.95}
    straddles = planted(report, "quality.retention_interval", interval)
    for one in (verdict, judge(straddles, settings(min_retention=0.95))):
        check(one, "inconclusive", 5)
        assert more in one.rules[0].help
        assert (kind == "language-model") == ("--evaluation-tokens" in one.rules[0].help)


@pytest.mark.parametrize(
    "damage",
    [None, [], "x", [1.0], [None] * 30, [float("nan")] * 30, [1e300] * 30, ["1"] * 30],
)
def test_damaged_windows_are_never_a_pass(damage: Any) -> None:
    report = planted(noisy_quality(0.0, 30, seed=1), "quality.window_nll.compressed", damage)
    check(judge(report, settings(min_retention=0.1)), "inconclusive", 5)
    check(judge(report, settings(max_perplexity_increase=9)), "inconclusive", 5)


def test_a_metric_without_windows_is_judged_by_the_stated_interval() -> None:
    report = planted(noisy_quality(0.05, 30, seed=1), "quality.window_nll", KeyError)
    stated = {"low": 0.93, "high": 0.96, "confidence": 0.998}
    report = planted(report, "quality.retention_interval", stated)
    for limit, status in ((0.92, "pass"), (0.95, "inconclusive"), (0.97, "fail")):
        assert judge(report, settings(min_retention=limit)).status == status
    for broken in (None, {}, {**stated, "low": 2.0}, {**stated, "low": -1.0}):
        bare = planted(report, "quality.retention_interval", broken)
        check(judge(bare, settings(min_retention=0.5)), "inconclusive", 5)


def test_quality_against_a_baseline_is_paired_over_the_windows() -> None:
    """The windows' own differences are ten times the loss; paired, the loss shows."""
    report, baseline = (noisy_quality(loss, 60, seed=1) for loss in (0.06, 0.02))
    limits = GateSettings(None, max_perplexity_increase=Relative(1.02), baseline=Path("b"))
    verdict = judge(report, limits, baseline=baseline)
    check(verdict, "fail", 3)
    check(judge(baseline, limits, baseline=baseline), "pass", 0)
    kept = GateSettings(Relative(0.98), baseline=Path("b"))
    check(judge(report, kept, baseline=baseline), "fail", 3)
    check(judge(baseline, kept, baseline=baseline), "pass", 0)


def test_the_same_seed_gives_the_same_verdict() -> None:
    report = example.report()
    assert judge(report, GOOD, seed=3) == judge(report, GOOD, seed=3)


def test_shared_drift_cancels_in_the_ratio_but_not_in_one_median() -> None:
    rows = [example.measurement(ms, seed=int(ms), drift=0.3) for ms in (10.0, 5.0)]
    tables = [np.array([turn.decode_ms for turn in m.rounds if not turn.warmup]) for m in rows]
    ratio = bootstrap([tables], seed=0)
    one = bootstrap([tables[:1]], seed=0)
    assert ratio is not None
    assert one is not None
    assert ratio.low < 2 < ratio.high
    assert (ratio.high - ratio.low) / 2 < 0.5 * (one.high - one.low) / 10


@pytest.mark.parametrize("rounds", [5, 10, 20])
def test_noise_between_rounds_gives_few_false_alarms(rounds: int) -> None:
    """Each variant's rounds stray by 10 % on their own, the worst case; 0.1 % is meant."""
    random = np.random.default_rng(rounds)
    alarms = 0
    for seed in range(40):
        tables = [
            5 * (1 + 0.1 * random.normal(size=(rounds, 1))) * (1 + 0.1 * random.random((rounds, 8)))
            for _ in range(2)
        ]
        interval = bootstrap([tables], seed=seed)
        assert interval is not None
        alarms += interval.high < 1
    assert alarms <= 2


def test_tables_of_different_rounds_have_no_interval() -> None:
    assert bootstrap([[np.ones((1, 9))]], seed=0) is None
    assert bootstrap([[np.ones((4, 2)), np.ones((5, 2))]], seed=0) is None


def test_identical_builds_seldom_fail_and_the_interval_covers() -> None:
    """True speed-up 1, limit 1: a fail is a false alarm, nominal 0.1 %."""
    statuses = []
    for seed in range(40):
        rows = {
            "dense": example.measurement(5.0, seed=2 * seed, spread=0.1, drift=0.1),
            "compressed": example.measurement(5.0, seed=2 * seed + 1, spread=0.1, drift=0.1),
        }
        statuses.append(judge(example.report(measurements=rows), settings(min_speedup=1.0)).status)
    assert statuses.count("fail") <= 1
    assert statuses.count("inconclusive") >= 37


def test_every_gate_setting_has_a_rule() -> None:
    assert {rule.name for rule in ALL_RULES} == set(RULES)
    assert [rule.name for rule in rules(GateSettings(**dict.fromkeys(RULES, 1.0)))] == [
        rule.name for rule in ALL_RULES
    ]
