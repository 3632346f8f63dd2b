"""Prune a model and recover what it lost: the way from settings to final weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssmpress.callbacks import Note, Progress, silent
from ssmpress.prune.device import compute_device, device_name
from ssmpress.prune.distill import Teacher
from ssmpress.prune.mask import apply_masks, prunable_names, resolve_sparsity
from ssmpress.prune.material import Material
from ssmpress.prune.model import Model
from ssmpress.prune.one_shot import Scores
from ssmpress.prune.plan import Assignment
from ssmpress.prune.run import Run, Watch
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings


@dataclass(frozen=True)
class PruneResult:
    """What pruning did. The weights themselves are in the model: a pruned weight is a zero.

    history: loss, its parts and sparsity at some of the steps. seconds: of everything, before an
    interruption too. steps, tokens: optimiser steps and tokens they saw. device: "cpu" or the GPU's
    name. end: why recovery went no further, and what is known of that; JSON, empty without
    recovery.
    """

    history: tuple[dict[str, float], ...]
    seconds: float
    steps: int
    tokens: int
    device: str
    end: Mapping[str, Any] = field(default_factory=dict)


def prune_and_recover(
    model: Model,
    material: Material,
    prune: PruneSettings,
    recover: RecoverSettings,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    resume_file: Path | None = None,
    teacher: Teacher | None = None,
    scores: Scores | None = None,
    quality: float | None = None,
    note: Note = silent,
    clock: Callable[[], float] = time.monotonic,
) -> PruneResult:
    """Prune the model in place and train it on, taught by its dense copy.

    With 0 steps it is one-shot pruning. Given the number of steps, the result is a function of the
    arguments (on a GPU without `deterministic` up to the order of the kernels' atomic sums). A run
    without one ends as `ending.py` says, and tells its plan and its end by `note`; it is the same
    function of the arguments unless the time was short or up.

    Args:
        model: dense or pruned already, float32; comes back pruned, on the device it was on.
        material: what it is pruned and recovered on, of the model's kind;
            `materials.material_of` makes it of what a task reads.
        seed: of the samples and their order.
        progress: called with what is done, steps done, steps.
        note: called with one sentence about each decision, and where the state of the run cannot be
            saved, which does not end it.
        resume_file: written now and then, and at the end; where it exists, the run goes on from it.
        teacher: the dense model where `model` is not it, on the device of the run.
        scores: of one-shot pruning at another sparsity, or to be filled for the next one.
        quality: kept on held-out calibration data, as the gate counts it, at which a run without a
            number of steps ends; None ends it only when the quality no longer improves.
        clock: seconds that only go forward, for the ceiling of a run without a number of steps.

    Raises:
        UsageError: settings that cannot be met, or with which training diverges.
        BadInputError: too little data, a resume file of another run.
        DeviceError: a GPU is asked for and there is none.

    Source: arXiv 2505.08299, with distillation added.
    """
    started = time.monotonic()
    home = next(model.parameters()).device
    device = compute_device(recover.compute)
    report = progress or silent
    names = prunable_names(model, prune.prunable)
    sparsity = resolve_sparsity(model, prune.prunable, prune.sparsity, prune.sparsity_of)
    asked = quality if recover.steps is None else None
    assignment = Assignment(names, material, prune, recover, sparsity, seed, asked)
    model.to(device)
    try:
        if recover.steps == 0:
            keep = assignment.one_shot(model, report, scores)
            apply_masks(dict(model.named_parameters()), keep)
            history: list[dict[str, float]] = []
            steps, seen, end, earlier_seconds = 0, 0, {}, 0.0
        else:
            teacher = teacher or Teacher(deepcopy(model))
            run = Run(model, teacher, assignment, Watch(report, note, clock), resume_file)
            steps = run.train()
            history, seen = run.history, steps * run.plan.batch * run.plan.window
            end, earlier_seconds = run.end.summary(steps), run.earlier_seconds
    finally:
        model.to(home)
        model.tie_weights()
    return PruneResult(
        history=tuple(history),
        seconds=earlier_seconds + time.monotonic() - started,
        steps=steps,
        tokens=seen,
        device=device_name(device),
        end=end,
    )
