"""A classifier and a forecaster on devices: under QEMU, and over a real sshd on loopback."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from report_schema import SCHEMA
from ssh_server import SSHD, ssh_server
from ssmpress import replies
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.data.labelled import from_lists
from ssmpress.data.series import SeriesWindows, load_series, to_csv
from ssmpress.devices import emulate
from ssmpress.devices.check import Expected, check
from ssmpress.devices.plan import find_runtime_library
from ssmpress.errors import DeviceError, ParityError
from ssmpress.formats import Values
from ssmpress.gate.judge import judge
from ssmpress.machine import get_runner_path
from ssmpress.pipeline import compress
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.deploy import DeploySettings, Target
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.results.devices import Sample
from ssmpress.results.quality import TaskQuality
from ssmpress.tasks import Classification, Forecasting, classification, forecasting
from ssmpress.tasks.task import Reference
from target_bundle import require_emulator
from task_models import CLASSES, make_classifier, make_forecaster, recipe_of
from tolerances import TASK_METRIC_TOLERANCE


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_forecaster(tmp_path_factory.mktemp("forecaster"))


def compressed(folder: Path, out: Path, target: Target, *device: str) -> tuple[Recipe, Any]:
    """The recipe, and its report."""
    try:
        get_runner_path(target.machine)
        find_runtime_library(target.machine)
    except DeviceError as error:
        pytest.skip(str(error))
    recipe = recipe_of(
        folder,
        out,
        Values.INT8,
        target=target,
        recover=RecoverSettings(steps=0),
        deploy=DeploySettings(device=device),
    )
    report = compress(recipe).report
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    verify_manifest(out)
    return recipe, report


def emulated(report: dict[str, Any], metric: str) -> Any:
    """What any emulated device of a task says; the device's block."""
    assert report["target"]["validated"] == "emulated" and report["latency"] is None
    (device,) = report["devices"]
    assert device["parity"]["ok"] and device["parity"]["max_rel"] < 6e-2
    assert 0 <= device["sample"]["difference"] <= device["sample"]["tolerance"]
    assert report["quality"]["metric"] == metric
    assert device["not_counted"] == ""
    for part in ("total", "matrix_products", "scan"):
        for variant in ("dense", "compressed"):
            count = device["instructions"][variant][part]
            assert count["mean"] > 1000 and count["spread"] < 0.1, (variant, part)
    return device


def test_a_classifier_under_qemu(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the target is asked for: QEMU is the default on another machine."""
    require_emulator()
    monkeypatch.setattr(emulate, "COUNTED_TEXTS", (1, 2))
    recipe, report = compressed(classifier, tmp_path / "out", Target.ARM64)
    device = emulated(report, "accuracy")
    assert (
        device["sample"]["tokens"] == classification.DEVICE_SAMPLES
        and device["sample"]["window"] == 50
    )
    assert device["sample"]["device"] > 0.75
    assert 20 <= device["counted_length"] <= 50
    page = (recipe.out / "report.md").read_text()
    assert f"Executed instructions per text of {device['counted_length']} tokens" in page
    assert "| accuracy here | there |" in page and "board allows for a text" in page
    assert "whole text" in page
    assert "perplexity" not in page.split("## Gates")[0] and "decoded token" not in page
    chart = (recipe.out / "report.html").read_text()
    assert f"instructions per text of {device['counted_length']} tokens, qemu" in chart
    assert judge(report, GateSettings(min_retention=None, max_decode_ms=1e6)).exit_code == 5


@pytest.mark.slow
def test_a_forecaster_under_qemu(forecaster: Path, tmp_path: Path) -> None:
    require_emulator()
    recipe, report = compressed(forecaster, tmp_path / "out", Target.ARM64, "qemu:cortex-a76")
    device = emulated(report, "MSE")
    assert device["sample"]["tokens"] == classification.DEVICE_SAMPLES * 8 * 2
    page = (recipe.out / "report.md").read_text()
    assert "Executed instructions per forecast, one thread" in page
    assert "| MSE here | there |" in page and "board allows for a forecast" in page
    assert "whole forecast" in page
    # Two variates of 3 patches: a batch of 8 would be 8 times as much.
    products = 2 * 3 * report["sparsity"]["model_weights"]
    assert device["instructions"]["dense"]["matrix_products"]["mean"] < 10 * products


@pytest.mark.skipif(SSHD is None, reason="sshd is absent: apt install openssh-server")
@pytest.mark.skipif(shutil.which("scp") is None, reason="scp is absent")
def test_a_forecaster_over_ssh(
    forecaster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ssh_server(tmp_path / "ssh", {"LANG": "C"}) as server:
        monkeypatch.setenv("PATH", f"{server.bin}:{os.environ['PATH']}")
        recipe, report = compressed(forecaster, tmp_path / "out", Target.HOST, server.device)
        assert server.left_behind() == []
    (device,) = report["devices"]
    assert device["kind"] == "real" and device["parity"]["ok"]
    assert device["sample"]["difference"] <= TASK_METRIC_TOLERANCE
    assert report["latency"]["device"] == server.device
    assert len(device["latency"]["samples"]["dense"][0]["decode_ms"]) == 12
    one, many = (device["latency"][phase]["compressed"] for phase in ("decode", "prefill"))
    assert many["tokens_per_s"] == pytest.approx(1000 * 8 * 24 / many["p50_ms"])
    assert one["p50_ms"] > 0
    page = (recipe.out / "report.md").read_text()
    assert "| batch of 8 p50 | p90 | p99 | one forecast p50 |" in page
    assert "Median time of one forecast by device" in (recipe.out / "report.html").read_text()


class Device:
    """A worker that predicts what it was given."""

    def __init__(self, key: str, predictions: NDArray[np.float32]) -> None:
        shape, data = list(predictions.shape), base64.b64encode(predictions.tobytes()).decode()
        self.reply = {"shape": shape, key: data}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert {"classify": "logits", "forecast": "forecast"}[request["do"]] in self.reply
        return self.reply


def texts_reference() -> Expected:
    """Four texts, of which the first three are right, the third only just."""
    texts = from_lists([np.array([1, 2, 3])] * 4, [0, 1, 0, 0], 9)
    logits = np.array([[2, -2], [-1, 1], [0.01, 0], [-3, 3]], np.float32)
    quality = TaskQuality(0.75, (1.0, 1.0, 1.0, 0.0), 3, 4)
    task = Classification(classes=CLASSES, max_length=9)
    reference = Reference(texts, {"predictions": logits}, quality, 3, Path("sample.jsonl"))
    return Expected(task, reference, 6e-2)


def series_reference() -> Expected:
    """Three windows of a line that is forecast 0.1 too high."""
    windows = SeriesWindows(np.arange(8, dtype=np.float32)[:, None], 4, 2)
    _, targets, _ = windows.arrays(np.arange(3))
    forecasts = targets + np.float32(0.1)
    errors = ((forecasts - targets.astype(np.float64)) ** 2).mean(axis=(1, 2))
    quality = TaskQuality(float(errors.mean()), tuple(errors), 4, 6)
    task = Forecasting(
        lookback=4, horizon=2, variates=("x",), mean=(0.0,), std=(1.0,), patch=2, stride=2
    )
    reference = Reference(windows, {"predictions": forecasts}, quality, 4, Path("sample.csv"))
    return Expected(task, reference, 1e-2)


def checked(expected: Expected, predictions: NDArray[np.float32], said: Any) -> Sample:
    key = "logits" if isinstance(expected.task, Classification) else "forecast"
    device: Any = Device(key, predictions)
    return check(device, expected, "ssh://pi", lambda file: dict(said))[1]


def test_texts_may_only_fall_otherwise_where_the_logits_did() -> None:
    reference = texts_reference()
    same = reference.reference.outputs["predictions"]
    assert checked(reference, same, {"right": [True, True, True, False]}).difference == 0
    close = same.copy()
    close[2] = [0, 0.01]
    sample = checked(reference, close, {"right": [True, True, False, False]})
    assert (sample.host, sample.device, sample.difference) == (0.75, 0.5, 0.25)
    for right in ([True, True, False, False], [False, True, True, True]):
        with pytest.raises(ParityError, match=r"ssh://pi: expected an accuracy within 0\.00%"):
            checked(reference, same, {"right": right})
    far = same.copy()
    far[1] = [1, -1]
    with pytest.raises(ParityError, match="something else than this host: predictions: differs by"):
        checked(reference, far, {"right": [True, False, True, False]})
    for right in ([True] * 3, [1, 1, 1, 0], None):
        with pytest.raises(DeviceError, match="right: expected a list of 4 booleans"):
            checked(reference, same, {"right": right})


def test_an_error_may_only_move_as_far_as_the_forecasts_did() -> None:
    reference = series_reference()
    mse, same = reference.reference.quality.value, reference.reference.outputs["predictions"]
    assert checked(reference, same, {"mse": mse * 1.0009}).tolerance == 1e-3
    with pytest.raises(ParityError, match=r"expected an MSE within 0\.10% of this host's 0\.0099"):
        checked(reference, same, {"mse": mse * 1.002})
    moved = same + np.float32(0.01)
    sample = checked(reference, moved, {"mse": 0.11**2})
    assert sample.tolerance == pytest.approx(0.21, rel=1e-3)
    with pytest.raises(ParityError, match="predictions: differs by"):
        checked(reference, moved + 1, {"mse": mse})
    with pytest.raises(DeviceError, match="mse: expected a number"):
        checked(reference, same, {"mse": None})


def test_what_ssmrun_prints_is_checked() -> None:
    assert replies.document('{"mse": 1}', "eval") == {"mse": 1}
    for text in ("", "[1]", "ssmrun: no", "[" * 100_000):
        with pytest.raises(DeviceError, match="eval: expected a JSON object"):
            replies.document(text, "eval")


def test_the_sample_is_read_again_as_it_was(tmp_path: Path) -> None:
    """A device reads a file: the same windows must come out of it, whatever units they have."""
    task = Forecasting(
        lookback=24,
        horizon=8,
        variates=("a, b", 'c "d"'),
        mean=(-4321.0, 1e-3),
        std=(0.02, 7e5),
        patch=8,
        stride=8,
    )
    values = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    taken = forecasting.some_windows(SeriesWindows(values, 24, 8))
    assert taken.count == 60 - 31
    (tmp_path / "sample.csv").write_text(to_csv(taken, task))
    again = load_series([tmp_path / "sample.csv"], task)
    np.testing.assert_array_equal(again.values, taken.values)
    wide = SeriesWindows(np.zeros((500, 3000), np.float32), 100, 10)
    assert forecasting.some_windows(wide).count == 1  # of 300,000 numbers


def test_texts_are_taken_from_the_whole_file() -> None:
    texts = from_lists([np.full(300, i) for i in range(1000)], [0] * 500 + [1] * 500, 300)
    taken = classification.some_texts(texts)
    assert (
        taken.count == classification.DEVICE_SAMPLES
        and taken.labels.sum() == classification.DEVICE_SAMPLES / 2
    )
    assert set(taken.lengths.tolist()) == {classification.DEVICE_TOKENS}
    few = classification.some_texts(texts.head(3))
    assert few.text(2).tolist() == [2] * 256 and few.count == 3
    task = Classification(classes=CLASSES, max_length=300)
    rows = [json.loads(line) for line in task.jsonl(taken).splitlines()]
    assert rows[-1] == {"tokens": [999] * 256, "label": CLASSES[1]}
