"""The lists of runs behind the published numbers, and the recipes that repeat them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssmpress.prune.materials import TextMaterial
from ssmpress.recipe.named import named_recipe
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings

EXPERIMENTS = Path(__file__).parents[2] / "toolchain/experiments"
TEXT = TextMaterial(np.zeros(100_000, np.int32))


def run(file: str, name: str) -> dict[str, Any]:
    runs: list[dict[str, Any]] = json.loads((EXPERIMENTS / file).read_text())
    return next(one for one in runs if one["name"] == name)


@pytest.mark.parametrize(
    "recipe, file, name",
    [
        ("wikitext", "wikitext.json", "wikitext-70"),
        ("mamba2", "families.json", "mamba2-70"),
        ("hybrid", "families.json", "granite-70"),
    ],
)
def test_a_named_recipe_is_the_run_that_was_measured(recipe: str, file: str, name: str) -> None:
    measured = run(file, name)
    prune, recover = named_recipe(recipe)
    as_run = RecoverSettings(**measured["recover"])
    assert prune == PruneSettings(**measured["prune"])
    assert TEXT.shape(recover, cuda=True) == TEXT.shape(as_run, cuda=True)
    shape = {"batch": as_run.batch, "window": as_run.window, "gpu_batch": as_run.gpu_batch}
    assert replace(recover, steps=recover.gpu_steps, **shape) == replace(
        as_run, gpu_steps=recover.gpu_steps
    )


@pytest.mark.parametrize("file", ["wikitext.json", "families.json"])
def test_every_run_has_settings_and_a_name_of_its_own(file: str) -> None:
    runs = json.loads((EXPERIMENTS / file).read_text())
    assert len({one["name"] for one in runs}) == len(runs)
    for one in runs:
        PruneSettings(**one["prune"])
        assert RecoverSettings(**one["recover"]).steps is not None


def test_a_larger_batch_of_a_gpu_is_none_of_a_cpu() -> None:
    large = RecoverSettings(gpu_batch=128)
    assert TEXT.shape(large, cuda=True) == (128, 1024)
    assert TEXT.shape(large, cuda=False) == (8, 256)
    assert TEXT.shape(replace(large, batch=16), cuda=True) == (16, 1024)
