"""Identical builds: 200 seeded resamples of stored raw samples give no false alarm.

identical_builds.json has one build measured against itself. A resample draws rounds from both of
its processes, so the true ratio is 1, every limit is set there, and 0.1 % of failures are meant:
0.2 in 200.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import example_report as example
from ssmpress.gate.judge import judge
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.settings.gate import GateSettings

STORED = json.loads((Path(__file__).parent / "identical_builds.json").read_text())
RESAMPLES, ROUNDS = 200, 10


def resample(seed: int, slowdown: float = 1.0) -> dict[str, Any]:
    """A report of two identical builds; slowdown: planted in the compressed one."""
    random = np.random.default_rng(seed)
    dense, compressed = (
        [turn for turn in STORED["samples"][name] if not turn["warmup"]]
        for name in ("dense", "compressed")
    )
    samples: dict[str, list[dict[str, Any]]] = {"dense": [], "compressed": []}
    for at in random.integers(len(dense), size=ROUNDS):
        pair = [dense[at], compressed[at]]
        if random.random() < 0.5:  # identical builds: which is which is arbitrary
            pair.reverse()
        for name, turn, factor in zip(samples, pair, (1.0, slowdown), strict=True):
            drawn = random.choice(turn["decode_ms"], len(turn["decode_ms"]))
            samples[name].append({**turn, "decode_ms": (factor * drawn).tolist()})
    report = copy.deepcopy(REPORT)
    latency = report["latency"]
    latency["samples"] = samples
    for phase in ("prefill", "decode"):
        rows = latency[phase]
        for name, turns in samples.items():
            drawn = np.concatenate([np.atleast_1d(turn[f"{phase}_ms"]) for turn in turns])
            for key, q in (("p50_ms", 50), ("p90_ms", 90), ("p99_ms", 99)):
                rows[name][key] = float(np.percentile(drawn, q))
        rows["speedup"] = rows["dense"]["p50_ms"] / rows["compressed"]["p50_ms"]
    return report


REPORT = example.report()

LIMITS = GateSettings(
    min_retention=None,
    min_speedup=1.0,
    max_decode_ms=Relative(1.0),
    max_decode_p99_ms=Relative(1.0),
    baseline=Path("baseline"),
)


@pytest.mark.parametrize("windows", [8, 20, 100])
def test_equal_quality_raises_no_alarm(windows: int) -> None:
    """Windows lose and gain, with a long tail of losses, nothing on average; the limit is there.

    0.1 % of failures are meant, 0.2 in 200 draws; the tail costs a little more with few windows.
    """
    random = np.random.default_rng(windows)
    failed = 0
    for seed in range(RESAMPLES):
        dense = random.normal(3.4, 0.4, windows)
        compressed = dense + random.normal(0, 0.02, windows) + random.exponential(0.02, windows)
        report = with_windows(dense, compressed - 0.02)
        failed += judge(report, GateSettings(1.0), seed=seed).status == "fail"
    assert failed <= 1
    worse = with_windows(dense, compressed + 0.1)
    assert judge(worse, GateSettings(1.0)).status == "fail"


def with_windows(dense: Any, compressed: Any) -> dict[str, Any]:
    """A report with these nats per prediction of each window, 100 predictions each."""
    report = copy.deepcopy(REPORT)
    quality = report["quality"]
    quality |= {"windows": len(dense), "window": 101, "tokens": 100 * len(dense)}
    for name, means in (("dense", dense), ("compressed", compressed)):
        quality["window_nll"][name] = (100 * means).tolist()
        quality[name] = float(np.exp(means.mean()))
    quality["retention"] = quality["dense"] / quality["compressed"]
    return report


def test_identical_builds_raise_no_alarm() -> None:
    failed = []
    for seed in range(RESAMPLES):
        verdict = judge(resample(2 * seed), LIMITS, seed=seed, baseline=resample(2 * seed + 1))
        failed += [(seed, rule.message) for rule in verdict.rules if rule.status == "fail"]
    assert failed == []


@pytest.mark.parametrize(
    ("rule", "slowdown"),
    [("min_speedup", 3.0), ("max_decode_ms", 3.0), ("max_decode_p99_ms", 300.0)],
)
def test_the_same_limits_catch_a_slower_build(rule: str, slowdown: float) -> None:
    """What keeps the test above honest. The samples are of a busy machine: their 99th percentile is
    50 times their median, so only a huge slowdown is certain there; less is never a pass."""
    for seed in range(5):
        verdict = judge(
            resample(2 * seed, slowdown), LIMITS, seed=seed, baseline=resample(2 * seed + 1)
        )
        assert [r.status for r in verdict.rules if r.name == rule] == ["fail"], verdict.sentence
