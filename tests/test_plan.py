"""The bytes that a plan tells, beside those of the model that the same recipe makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import random_checkpoint, small_config
from paths import DEMO, find_shared
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.pack.frequent import frequent_rows
from ssmpress.pack.head_error import HEAD_TEXT, frequent_tokens
from ssmpress.pack.model import pack_model
from ssmpress.plan import make_plan, plan_lines
from ssmpress.preflight import preflight
from ssmpress.prune import dead_channels
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.deploy import DeploySettings, Target
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.stages.pruned import prune_weights
from ssmpress.stages.source import load
from tiny_run import tiny_recipe

CLOSE = 0.02


def demo(folder: Path) -> Recipe:
    """By gradients, of more text than the plan takes."""
    prune = PruneSettings(calibration_batches=2, calibration_window=32)
    return Recipe(DEMO, folder / "out", prune=prune, recover=RecoverSettings(steps=0), threads=1)


def another_shape(folder: Path) -> Recipe:
    """Random weights, an untied head, many states, one layer less and another width; one threshold
    for each matrix, since those of random weights are as different as no trained model's."""
    config = small_config(
        d_model=96,
        d_inner=192,
        dt_rank=6,
        n_layer=3,
        vocab_size=1024,
        d_state=32,
        tie_embeddings=False,
    )
    recipe = tiny_recipe(folder, recover=RecoverSettings(steps=0))
    write_checkpoint(
        config,
        random_checkpoint(config).tensors,
        folder / "wide",
        tokenizer=DEMO / "tokenizer.json",
    )
    prune = replace(recipe.prune, method=Method.MAGNITUDE, scope=Scope.LAYER, sparsity=0.5)
    return replace(recipe, model=folder / "wide", prune=prune)


def made_bytes(recipe: Recipe, folder: Path) -> int:
    """Bytes of the model that pruning, packing and exporting give; a head is rounded to the
    nearest, which takes as many."""
    source = load(recipe)
    pruned = prune_weights(recipe, source)
    config, tensors = dead_channels.remove(source.checkpoint.config, pruned.tensors)
    packed = pack_model(config, tensors, recipe.pack, machine=recipe.target.machine)
    head = packed.head_name
    if packed.matrices[head].format.values is Values.INT4:
        ids = frequent_tokens(source.calibration[:HEAD_TEXT], config.vocab_size)
        corrected = frequent_rows(tensors[head].numpy(), packed.matrices[head], ids)
        packed = replace(packed, frequent=corrected)
    return sum(file.stat().st_size for file in export(packed, folder / "model.onnx"))


def trained(folder: Path) -> Recipe:
    """A trained model of another shape, at a sparsity where formats differ; the text does not
    matter to magnitudes."""
    prune = PruneSettings(method=Method.MAGNITUDE, sparsity=0.4)
    recipe = tiny_recipe(folder, prune=prune, recover=RecoverSettings(steps=0))
    return replace(recipe, model=find_shared("models/mamba-5m"))


@pytest.mark.parametrize("make", [demo, another_shape, trained])
def test_the_planned_bytes_are_those_of_the_model(
    tmp_path: Path, make: Callable[[Path], Recipe]
) -> None:
    recipe = make(tmp_path)
    planned = make_plan(recipe)
    assert planned.model_bytes == pytest.approx(made_bytes(recipe, tmp_path), rel=CLOSE)
    assert planned.at_most


def test_weights_that_are_pruned_already_are_planned_to_the_padding(tmp_path: Path) -> None:
    recipe = another_shape(tmp_path)
    source = load(recipe)
    pruned = prune_weights(recipe, source)
    write_checkpoint(source.checkpoint.config, pruned.tensors, tmp_path / "pruned")
    for values in (Values.INT8, Values.FP16, Values.FP32):
        known = replace(recipe, pruned=tmp_path / "pruned", pack=PackSettings(values=values))
        planned = make_plan(known)
        assert planned.model_bytes == pytest.approx(made_bytes(known, tmp_path), rel=0.005)
        assert not planned.at_most


def test_the_plan_and_the_run_ask_the_same_function() -> None:
    """Whatever `preflight` refuses, both refuse: each calls it before anything else."""
    from ssmpress import pipeline, plan, sweep

    for module in (pipeline, plan, sweep):
        assert module.preflight is preflight


def test_the_lines_of_a_plan(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    lines = plan_lines(make_plan(recipe))
    assert [line.partition(":")[0] for line in lines] == [
        "Target",
        "Calibration",
        "Evaluation",
        "Gates",
        "Out",
        "Downloads",
    ]
    assert lines[1] == f"Calibration: {tmp_path / 'calibration.npy'}, 600 tokens"
    assert lines[3] == "Gates: none"
    other = Target.ARM64 if recipe.target.machine == "x86_64" else Target.X86_64
    alone = replace(recipe, target=other, deploy=DeploySettings(skip_device_check=True))
    assert "runs nowhere: --skip-device-check was given." in plan_lines(make_plan(alone))[0]


def test_a_disk_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    notes: list[str] = []
    make_plan(tiny_recipe(tmp_path), notes.append)
    assert any("has 0 MB free; the run needs about" in note for note in notes)
