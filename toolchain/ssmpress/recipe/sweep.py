"""Several runs of one recipe that share what does not differ."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ssmpress.errors import UsageError
from ssmpress.formats import Values
from ssmpress.recipe.option import (
    require,
)
from ssmpress.recipe.pick import Condition
from ssmpress.recipe.recipe import Recipe


@dataclass(frozen=True)
class Sweep:
    """Several runs of one recipe that share what does not differ, and their comparison.

    recipe: everything but the two lists; `out` is the folder of the whole sweep.
    sparsities, values: every one of the first with every one of the second.
    pick: the fastest bundle that meets these is kept; empty keeps all of them.
    """

    recipe: Recipe
    sparsities: tuple[float, ...]
    values: tuple[Values, ...]
    pick: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.sparsities), "--sparsity", "at least one number", "none")
        require(bool(self.values), "--values", "at least one type", "none")
        if self.recipe.pruned is not None and len(self.sparsities) > 1:
            raise UsageError(
                "--pruned: expected one --sparsity, the one those weights have; got "
                f"{', '.join(f'{part:g}' for part in self.sparsities)}."
            )
        if self.recipe.deploy.archive and len(self.sparsities) * len(self.values) > 1:
            raise UsageError(
                "--archive: expected one bundle; got several --sparsity or --values. Run the one "
                "you choose again with --archive."
            )
        self.points()

    def points(self) -> dict[str, Recipe]:
        """One recipe per point, by its name such as `s70-int8`; ascending sparsity."""
        return {
            name: self._point(name, sparsity, values)
            for sparsity in sorted(self.sparsities)
            for values in self.values
            for name in [f"s{100 * sparsity:g}-{values}"]
        }

    def _point(self, name: str, sparsity: float, values: Values) -> Recipe:
        base, saved = self.recipe, self.recipe.save_checkpoint
        return replace(
            base,
            out=base.out / name,
            prune=replace(base.prune, sparsity=sparsity),
            pack=replace(base.pack, values=values),
            save_checkpoint=None if saved is None else saved / f"s{100 * sparsity:g}",
        )
