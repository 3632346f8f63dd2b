"""What a run is to do, and the numbers that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ssmpress.callbacks import Progress
from ssmpress.prune.material import Material
from ssmpress.prune.model import Model
from ssmpress.prune.one_shot import Scores, one_shot
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.schedule import cosine_factor, hold_factor
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope
from ssmpress.recipe.settings.recover import RecoverSettings


@dataclass(frozen=True)
class Plan:
    """The numbers of one run, decided before it starts but for the end of an open one.

    steps, batch, window: optimiser steps, sequences per step, tokens per sequence; of an open run
        `steps` is the number that its ramp is a part of.
    sparsity: the final one. mask_every: steps between two masks.
    ramp_end: step at which the final sparsity is reached; 0 is before the first step.
    settled: step from which the masks stay as they are, at least ramp_end.
    alpha: exponent of the gradient; 0 is plain magnitude.
    warmup: steps until the learning rate of an open run is reached; None: the run is not open.
    cool_from, end: steps from which an open run's learning rate falls, and before which the run
        ends; None until that is decided.
    """

    steps: int
    batch: int
    window: int
    sparsity: float
    mask_every: int
    ramp_end: int
    settled: int
    alpha: float
    scope: Scope = Scope.GLOBAL
    pattern: Pattern | None = None
    shares: Mapping[str, float] | None = None
    matrix_limit: float = 1.0
    warmup: int | None = None
    cool_from: int | None = None
    end: int | None = None

    def learning_rate_factor(self, step: int, settings: RecoverSettings) -> float:
        """What the learning rate is multiplied with at this step."""
        final = settings.final_learning_rate
        if self.warmup is None:
            return cosine_factor(step, self.steps, settings.warmup_steps, final)
        return hold_factor(step, self.steps, self.warmup, self.cool_from, self.end, final)

    def mask_due(self, step: int) -> bool:
        """Whether the masks change before this step."""
        regular = step % self.mask_every == 0
        return 0 < step <= self.settled and (regular or step in (self.ramp_end, self.settled))


@dataclass(frozen=True)
class Assignment:
    """What is to be done, as `recover.prune_and_recover` was told.

    names: of the prunable weights. quality: that ends a run without a number of steps, or None.
    """

    names: tuple[str, ...]
    material: Material
    prune: PruneSettings
    recover: RecoverSettings
    sparsity: float
    seed: int
    quality: float | None

    def settings(self) -> dict[str, Any]:
        """The settings: all of it but the data and the model."""
        return {
            "prune": asdict(self.prune),
            "recover": asdict(self.recover),
            "seed": self.seed,
            "quality": self.quality,
        }

    def plan(self, steps: int, cuda: bool) -> Plan:
        """The plan of a run of `steps` steps.

        A short ramp has more masks than `mask_every` says, at least eight where it has as many
        steps. The methods that look at activations prune before the first step.
        """
        prune, recover = self.prune, self.recover
        batch, window = self.material.shape(recover, cuda)
        ramp_end = min(int(steps * recover.ramp), steps - 1)
        settled = min(int(steps * recover.settle), steps - 1) if recover.regrow else 0
        if prune.method in (Method.WANDA, Method.SPARSEGPT):
            ramp_end = settled = 0
        return Plan(
            steps=steps,
            batch=batch,
            window=window,
            sparsity=self.sparsity,
            mask_every=max(1, min(recover.mask_every, ramp_end // 8)),
            ramp_end=ramp_end,
            settled=max(ramp_end, settled),
            alpha=0.0 if prune.method is Method.MAGNITUDE else prune.alpha,
            scope=prune.scope,
            pattern=Pattern.parse(prune.pattern),
            matrix_limit=prune.matrix_limit,
        )

    def one_shot(
        self, model: Model, progress: Progress, scores: Scores | None = None
    ) -> dict[str, Tensor]:
        """The masks of pruning at once, or before the first step, where the plan has no ramp."""
        p, sparsity = self.prune, self.sparsity
        return one_shot(model, self.names, self.material, p, sparsity, self.seed, progress, scores)
