"""The dense model is held against guessing before any long work on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from paths import DEMO
from ssmpress.blocks.tensors import EMBEDDING
from ssmpress.callbacks import silent
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.devices.plan import find_place, with_runtime
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.stages.bundle import export_dense
from ssmpress.stages.run import Checked, Run
from ssmpress.stages.source import load
from ssmpress.validate import describe_dense, measure_dense


def run_of(folder: Path, embedding: torch.Tensor | None = None) -> Run:
    """The demo's model beside the default text; embedding: in place of its own."""
    data = DataSettings(evaluation_tokens=9 * 256, window=256)
    recipe = Recipe(DEMO, folder / "out", data=data, recover=RecoverSettings(steps=0), threads=1)
    source = load(recipe)
    if embedding is not None:
        tensors = {**source.checkpoint.tensors, EMBEDDING: embedding}
        checkpoint = dataclasses.replace(source.checkpoint, tensors=tensors)
        source = dataclasses.replace(source, checkpoint=checkpoint)
    dense = export_dense(source, folder / "dense")
    place = with_runtime(find_place(recipe, silent), recipe)
    return Run(recipe, source, dense, Checked(None, place))


def test_a_trained_model_is_better_than_guessing(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    dense, guess = measure_dense(run, silent)
    assert guess.how == "tokens drawn by their frequency in the calibration text"
    assert 1 < dense.value < guess.value < 1024
    assert guess.interval is not None and guess.interval.low > 1
    sentence = describe_dense(run, silent)
    assert f"dense perplexity {dense.value:.4g}, that of {guess.how}" in sentence
    assert "no better" not in sentence


@pytest.mark.parametrize("damage", ["another tokenizer", "noise"])
def test_a_model_that_knows_nothing_is_found_before_the_work(tmp_path: Path, damage: str) -> None:
    embedding = read_checkpoint(DEMO).tensors[EMBEDDING]
    order = torch.randperm(len(embedding), generator=torch.Generator().manual_seed(0))
    if damage == "noise":
        changed = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0))
    else:
        changed = embedding[order]
    run = run_of(tmp_path, changed.contiguous())
    dense, guess = measure_dense(run, silent)
    assert dense.value > guess.value and guess.advantage < 1
    sentence = describe_dense(run, silent)
    assert "no better than guessing, and whatever is kept of it cannot pass" in sentence
    assert "Probably tokenizer.json is that of another model" in sentence
