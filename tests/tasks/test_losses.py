"""A classifier and a forecaster, trained here, from their checkpoint to a bundle that runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from paths import ROOT
from report_schema import SCHEMA
from ssmpress.blocks.model import Mamba
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.bundle.text_model import open_bundle
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.cli.console import print_plan
from ssmpress.data.labelled import load_labelled
from ssmpress.data.series import load_series
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.errors import BadInputError, DeviceError, UsageError
from ssmpress.formats import Values
from ssmpress.gate.judge import judge
from ssmpress.machine import LIBRARY_NAME, get_runner_path
from ssmpress.pipeline import compress
from ssmpress.plan import make_plan
from ssmpress.prune import batches
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.report.tables import comparison
from ssmpress.runtime.loading import open_session
from ssmpress.tasks import Classification, Forecasting
from task_models import CLASSES, make_classifier, make_forecaster, recipe_of, write_series
from tolerances import TASK_METRIC_TOLERANCE


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_forecaster(tmp_path_factory.mktemp("forecaster"))


def pruned_metric(folder: Path, recipe: Recipe) -> dict[str, float]:
    """Of the pruned checkpoint in PyTorch."""
    assert recipe.save_checkpoint is not None
    checkpoint = read_checkpoint(recipe.save_checkpoint / "mamba-ssm")
    task = checkpoint.config.task
    model = Mamba.from_checkpoint(checkpoint)
    if isinstance(task, Forecasting):
        return batches.metric(model, load_series(recipe.data.evaluation, task))
    assert isinstance(task, Classification)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    return batches.metric(model, load_labelled(recipe.data.evaluation, tokenizer, task, 256))


def ssmrun(bundle: Path, evaluation: Path) -> dict[str, Any]:
    """What the bundle's own runner says of the same file."""
    try:
        get_runner_path()
    except DeviceError as error:
        pytest.skip(str(error))
    command = [str(bundle / "ssmrun"), "eval", str(bundle), str(evaluation), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("values", [Values.FP32, Values.INT8])
def test_classifier(classifier: Path, values: Values, tmp_path: Path) -> None:
    recipe = recipe_of(classifier, tmp_path / "out", values, save_checkpoint=tmp_path / "pruned")
    report = compress(recipe).report
    jsonschema.validate(report, SCHEMA)
    verify_manifest(recipe.out)
    quality = report["quality"]
    assert quality["metric"] == "accuracy" and quality["dense"] > 0.85
    assert quality["retention"] == pytest.approx(quality["compressed"] / quality["dense"])
    assert quality["windows"] == quality["tokens"] == 200 and quality["window"] == 50
    assert report["sparsity"]["prunable"] == pytest.approx(0.5, abs=1e-3)
    assert report["recovery"]["steps"] == 20
    if values is Values.FP32:
        assert pruned_metric(classifier, recipe)["accuracy"] == quality["compressed"]
    classes, guess = quality["classes"], quality["guess"]
    assert classes["texts"] == [100, 100] and guess["value"] == 0.5 and guess["advantage"] > 1.5
    for variant in ("dense", "compressed"):
        assert sum(classes[variant]["right"]) == round(200 * quality[variant])
        balanced = quality["also"]["balanced_accuracy"][variant]
        assert balanced == pytest.approx(quality[variant]), "as many texts of each class"
    rows = {row[0]: row for row in comparison(report)}
    assert {"balanced accuracy", "F1 (macro)"} <= set(rows)
    assert rows["accuracy"][-1].endswith("kept") and rows["one text p50 ms"][-1]
    page = (recipe.out / "report.md").read_text()
    assert "in 200 texts of at most 50 tokens" in page and "decode" not in page.split("## Gates")[0]
    assert "higher is better" in (recipe.out / "report.html").read_text()
    assert "pipeline_tag: text-classification" in (recipe.out / "README.md").read_text()
    found = ssmrun(recipe.out, recipe.data.evaluation[0])
    assert found["accuracy"] == pytest.approx(quality["compressed"], abs=1e-9)


@pytest.mark.parametrize("values", [Values.FP32, Values.INT8])
def test_forecaster(forecaster: Path, values: Values, tmp_path: Path) -> None:
    recipe = recipe_of(forecaster, tmp_path / "out", values, save_checkpoint=tmp_path / "pruned")
    report = compress(recipe).report
    jsonschema.validate(report, SCHEMA)
    verify_manifest(recipe.out)
    quality = report["quality"]
    windows = load_series(recipe.data.evaluation, read_checkpoint(recipe.model).config.task)
    inputs, targets, _ = windows.arrays(np.arange(windows.count))
    repeated = float(((inputs[:, -1:] - targets) ** 2).mean())
    assert quality["metric"] == "MSE" and quality["dense"] < 0.3 * repeated
    assert quality["guess"]["value"] <= repeated * (1 + 1e-6) and quality["guess"]["advantage"] > 1
    assert quality["retention"] == pytest.approx(quality["dense"] / quality["compressed"])
    assert quality["tokens"] == windows.count * 8 * 2 and quality["window"] == 24
    if values is Values.FP32:
        metric = pruned_metric(forecaster, recipe)
        assert metric["mse"] == pytest.approx(quality["compressed"], rel=TASK_METRIC_TOLERANCE)
        mae = quality["also"]["mae"]["compressed"]
        assert metric["mae"] == pytest.approx(mae, rel=TASK_METRIC_TOLERANCE)
    rows = {row[0]: row for row in comparison(report)}
    assert {"MSE", "MAE", "one forecast p50 ms", "batch of 8 steps/s"} <= set(rows)
    assert not (recipe.out / "tokenizer.json").exists()
    assert "fewer than 8 windows of the series that do not overlap" in report["verdict"]["sentence"]
    assert "lower is better" in (recipe.out / "report.html").read_text()
    found = ssmrun(recipe.out, recipe.data.evaluation[0])
    assert found["mse"] == pytest.approx(quality["compressed"], rel=TASK_METRIC_TOLERANCE)


def test_bundles_run_without_the_op_library(forecaster: Path, tmp_path: Path) -> None:
    recipe = recipe_of(forecaster, tmp_path / "out", Values.INT8, recover=RecoverSettings(steps=0))
    compress(recipe)
    inputs = np.random.default_rng(0).normal(size=(3, 24, 2)).astype(np.float32)
    found = [
        open_session(recipe.out / "model.onnx", threads=1, library=library).forecast(inputs)
        for library in (recipe.out / LIBRARY_NAME, None)
    ]
    assert found[0].shape == (3, 8, 2)
    with pytest.raises(UsageError, match="language model; got that of a forecast model"):
        open_bundle(recipe.out)
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=0.02 * np.abs(found[1]).max())


def test_a_limit_of_perplexity_does_not_judge_accuracy(classifier: Path, tmp_path: Path) -> None:
    recipe = recipe_of(classifier, tmp_path / "out", Values.INT8, recover=RecoverSettings(steps=0))
    report = compress(recipe).report
    verdict = judge(report, GateSettings(min_retention=None, max_perplexity_increase=0.5))
    assert verdict.status == "inconclusive" and verdict.exit_code == 5
    assert "the model's metric is accuracy, not perplexity" in verdict.sentence
    kept = judge(report, GateSettings(min_retention=0.99))
    assert kept.rules[0].name == "min_retention" and kept.rules[0].interval is not None


def test_plan_tells_the_task_and_its_small_formats(
    classifier: Path, forecaster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, words in (
        (classifier, "classifier of 2 classes"),
        (forecaster, "forecaster of 2 variates, 8 steps"),
    ):
        plan = make_plan(recipe_of(folder, tmp_path / "out", Values.INT8))
        formats = {matrix.name: matrix.format for matrix in plan.matrices}
        assert formats["head.weight"] == "dense-fp16"
        print_plan(plan)
        assert words in " ".join(capsys.readouterr().err.split())


def test_data_that_does_not_fit_is_refused(
    classifier: Path, forecaster: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="--evaluation: expected a CSV file of the series"):
        compress(
            recipe_of(
                forecaster,
                out,
                Values.INT8,
                data=DataSettings(calibration=(forecaster / "train.csv",)),
            )
        )
    with pytest.raises(BadInputError, match=r"expected a \.jsonl, \.tsv or \.csv"):
        files = (tmp_path / "x.txt",)
        compress(
            recipe_of(
                classifier, out, Values.INT8, data=DataSettings(calibration=files, evaluation=files)
            )
        )
    with pytest.raises(UsageError, match="--evaluation-tokens is for language models"):
        files = (forecaster / "train.csv",)
        settings = DataSettings(calibration=files, evaluation=files, evaluation_tokens=10)
        compress(recipe_of(forecaster, out, Values.INT8, data=settings))
    assert not out.exists()


def run_example(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "examples" / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_of_a_classifier(classifier: Path, tmp_path: Path) -> None:
    files = [str(classifier / name) for name in ("model", "train.jsonl", "test.jsonl")]
    texts = {"xaaaaacaaadaaaaa": CLASSES[1], "xbbbbbcbbbdbbbbb": CLASSES[0]}
    out = run_example("compress_classifier.py", *files, str(tmp_path / "out"), *texts)
    assert re.search(r"accuracy \d\.\d{3} -> \d\.\d{3}", out)
    assert out.endswith("".join(f"{text!r} is {label}\n" for text, label in texts.items()))


def test_example_of_a_forecaster(forecaster: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "test.csv", 600, 5)  # enough for an interval of the error
    files = [str(forecaster / "model"), str(forecaster / "train.csv"), str(tmp_path / "test.csv")]
    out = run_example("compress_forecaster.py", *files, str(tmp_path / "out"))
    assert re.search(r"mean squared error \d+\.\d{4} -> \d+\.\d{4}", out)
    found = dict(re.findall(r"next (\w+): (-?\d+\.\d{3})", out))
    assert set(found) == {"load", "oil"}
    assert 20 < float(found["load"]) < 80  # of 50 on the average, standard deviation 7
