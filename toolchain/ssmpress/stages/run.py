"""What the stages after pruning have in common."""

from __future__ import annotations

from dataclasses import dataclass

from ssmpress.devices.plan import Deployment
from ssmpress.recipe.recipe import Recipe
from ssmpress.results.report import Report
from ssmpress.stages.bundle import Dense
from ssmpress.stages.source import AnySource


@dataclass(frozen=True)
class Checked:
    """What is found before any long work. baseline: the gate's, or None."""

    baseline: Report | None
    deployment: Deployment


@dataclass(frozen=True)
class Run:
    """What all stages after pruning have in common."""

    recipe: Recipe
    source: AnySource
    dense: Dense
    checked: Checked

    @property
    def deployment(self) -> Deployment:
        """What the bundle is for, and the devices."""
        return self.checked.deployment
