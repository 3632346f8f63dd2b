"""Recipes by name: the settings that `--recipe` takes."""

from __future__ import annotations

from dataclasses import replace

from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.recipe.suggest import one_of

_LARGE_BATCHES = RecoverSettings(
    gpu_batch=128,
    learning_rate=2e-3,
    ramp=0.4,
    mask_every=10,
    muon=True,
    match_hidden=0.7,
    compile=True,
)

NAMED_RECIPES: dict[str, tuple[PruneSettings, RecoverSettings]] = {
    "default": (PruneSettings(), RecoverSettings()),
    "wikitext": (
        PruneSettings(alpha=0.5),
        RecoverSettings(gpu_steps=3200, ramp=0.4, muon=True, match_hidden=0.7, compile=True),
    ),
    "mamba2": (PruneSettings(alpha=0.5), replace(_LARGE_BATCHES, gpu_steps=2950)),
    "hybrid": (
        PruneSettings(alpha=0.5),
        replace(_LARGE_BATCHES, gpu_steps=5811, learning_rate=3e-3),
    ),
}
"""Settings by the name that `--recipe` takes. Those of a model's family are the ones of
docs/pruning.md, `wikitext` Mamba-1's: found on WikiText-103's validation text, and meant for a GPU
and tens of millions of tokens."""


def named_recipe(name: str) -> tuple[PruneSettings, RecoverSettings]:
    """The settings of a named recipe.

    Raises:
        UsageError: no recipe has that name.
    """
    return NAMED_RECIPES[one_of("--recipe", name, NAMED_RECIPES)]
