"""Recipes by name: the settings that `--recipe` takes."""

from __future__ import annotations

from ssmpress.errors import UsageError
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.recipe.suggest import did_you_mean

NAMED_RECIPES: dict[str, tuple[PruneSettings, RecoverSettings]] = {
    "default": (PruneSettings(), RecoverSettings()),
    "wikitext": (
        PruneSettings(alpha=0.5),
        RecoverSettings(gpu_steps=3200, ramp=0.4, muon=True, match_hidden=0.7, compile=True),
    ),
}
"""Settings by the name that `--recipe` takes. `wikitext` is the one of docs/pruning.md: found on
WikiText-103's validation text, and meant for a GPU and tens of millions of tokens."""


def named_recipe(name: str) -> tuple[PruneSettings, RecoverSettings]:
    """The settings of a named recipe.

    Raises:
        UsageError: no recipe has that name.
    """
    if name not in NAMED_RECIPES:
        raise UsageError(
            f"--recipe: expected {' or '.join(NAMED_RECIPES)}; got {name!r}."
            f"{did_you_mean(name, NAMED_RECIPES)}"
        )
    return NAMED_RECIPES[name]
