"""A report whose numbers do not follow from its own samples was changed: it never passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example as drawn_too
from hypothesis import given
from hypothesis import strategies as st

import example_report as example
from example_report import planted, stated
from ssmpress.bundle.manifest import write_manifest
from ssmpress.errors import BadInputError
from ssmpress.files import write_json
from ssmpress.gate.agreement import contradiction
from ssmpress.gate.judge import judge, read_report
from ssmpress.measure.metrics import retention, retention_interval
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.results.quality import Guess, Quality, TaskQuality
from ssmpress.results.report import INCONCLUSIVE, PASS
from ssmpress.tasks import Forecasting

LOOSE = GateSettings(0.1, max_decode_ms=1e6, max_perplexity_increase=9.0)
STATED = (
    "quality.dense",
    "quality.compressed",
    "quality.retention",
    *(
        f"latency.{phase}.{variant}.{key}"
        for phase in ("prefill", "decode")
        for variant in ("dense", "stock", "compressed")
        for key in ("p50_ms", "p90_ms", "p99_ms")
    ),
    "latency.prefill.speedup",
    "latency.decode.speedup",
)


def changed(report: dict[str, Any], path: str, factor: float) -> dict[str, Any]:
    return planted(report, path, factor * stated(report, path.split(".")))


def test_the_advantage_over_a_guess_follows_from_both() -> None:
    report = example.report(guess=Guess("tokens drawn by lot", 60.0, 2.0))
    assert contradiction(report) == ""
    report["quality"]["guess"]["value"] = 90.0
    assert contradiction(report).startswith("quality.guess.advantage is 2, but the guess and")


def test_a_report_agrees_with_itself_also_after_json() -> None:
    report = example.report()
    assert contradiction(report) == contradiction(json.loads(json.dumps(report))) == ""
    assert judge(report, LOOSE).status == PASS


@given(st.sampled_from(STATED), st.floats(0.01, 100).filter(lambda f: abs(f - 1) > 1e-5))
def test_no_stated_number_can_be_changed(path: str, factor: float) -> None:
    """Whatever the limits ask: the report as a whole is not to be believed."""
    report = changed(example.report(), path, factor)
    for limits in (LOOSE, GateSettings(0), GateSettings(None, max_bundle_bytes=1e9)):
        verdict = judge(report, limits)
        assert (verdict.status, verdict.exit_code) == (INCONCLUSIVE, 5), verdict.sentence
        assert "The report contradicts itself: " in verdict.sentence
    assert contradiction(report).startswith(f"{path} is ")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("quality.retention", 0.5, "quality.retention is 0.5, but the two models' own numbers"),
        ("quality.compressed", 80.0, "quality.compressed is 80, but its own windows give 31."),
        ("latency.decode.compressed.p50_ms", 25.0, "p50_ms is 25, but its own samples give"),
    ],
)
def test_the_sentence_has_both_numbers(path: str, value: float, words: str) -> None:
    assert words in judge(planted(example.report(), path, value), LOOSE).sentence


def task_report(**changes: Any) -> dict[str, Any]:
    """Of a forecaster, whose scores the report does not hold; compression costs a quarter."""
    scores = tuple(0.1 + 0.01 * (i % 7) for i in range(90))
    rows = [
        TaskQuality(factor * sum(scores) / 90, tuple(factor * s for s in scores), 24, 720)
        for factor in (1.0, 1.25)
    ]
    interval = retention_interval(*rows, Forecasting.metric, block=8)
    mean = Guess("the mean of the training data", 1.0, 1.0 / rows[0].value)
    kept = retention(*rows, Forecasting.metric)
    quality = Quality(*rows, kept, interval, "MSE", guess=mean)
    report = example.report(quality=quality)
    report["quality"] |= changes
    return report


def test_a_metric_without_windows_must_agree_with_its_interval() -> None:
    assert judge(task_report(), GateSettings(0.1)).sentence.startswith("Pass")
    for damage in (
        {"retention": 0.5},
        {"compressed": 0.9},
        {"retention": 0.4, "compressed": task_report()["quality"]["dense"] / 0.4},
    ):
        verdict = judge(task_report(**damage), GateSettings(0.1))
        assert (verdict.status, verdict.exit_code) == (INCONCLUSIVE, 5), damage


@drawn_too([1.0] * 25, 3)
@given(st.lists(st.floats(0.01, 10), min_size=16, max_size=60), st.integers(1, 4))
def test_an_interval_holds_the_value_it_is_of(scores: list[float], block: int) -> None:
    """Also where the last scores fill no block and are not drawn."""
    rows = [
        TaskQuality(sum(s) / len(s), tuple(s), 1, 1)
        for s in (scores, [score * (1 + i % 3) for i, score in enumerate(scores)])
    ]
    interval = retention_interval(*rows, Forecasting.metric, block=block)
    if interval is not None:
        assert interval.low <= retention(*rows, Forecasting.metric) <= interval.high


def test_a_baseline_that_contradicts_itself_is_none() -> None:
    limits = GateSettings(Relative(0.5), max_decode_ms=Relative(9.0), baseline=Path("b"))
    baseline = example.report()
    assert judge(example.report(), limits, baseline=baseline).status == PASS
    for path in ("quality.retention", "latency.decode.compressed.p50_ms"):
        verdict = judge(example.report(), limits, baseline=changed(baseline, path, 5.0))
        assert verdict.exit_code == 5
        assert "the baseline contradicts itself" in verdict.sentence


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What the gate reads of a bundle."""
    (tmp_path / "model.onnx").write_bytes(b"model")
    write_json(tmp_path / "report.json", example.report())
    write_manifest(tmp_path, ["model.onnx", "report.json"], example.recipe())
    return tmp_path


def test_a_report_that_its_manifest_does_not_seal_is_damage(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"changed, which is not the gate's to see")
    for path in (bundle, bundle / "report.json"):
        assert read_report(path) == example.report()
    report = example.report()
    report["size"]["bundle_bytes"] = 1
    write_json(bundle / "report.json", report)
    for path in (bundle, bundle / "report.json"):
        with pytest.raises(BadInputError, match=r"report\.json: expected .* was changed after"):
            read_report(path)
    (bundle / "model.onnx").unlink()
    with pytest.raises(BadInputError, match="was changed after"):
        read_report(bundle)


def test_a_bundle_without_its_seal_is_damage(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    with pytest.raises(BadInputError, match=r"manifest\.json: expected a JSON file; there is none"):
        read_report(bundle)
    write_manifest(bundle, ["model.onnx"], example.recipe())
    with pytest.raises(BadInputError, match=r"expected report\.json among its files; got none"):
        read_report(bundle)


def test_a_report_beside_the_manifest_of_another_program_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", example.report())
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3, "name": "an extension"}')
    assert read_report(tmp_path) == example.report()
