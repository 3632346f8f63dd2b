"""Prune a model and recover what it lost: the way from settings to final weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.errors import DeviceError
from ssmpress.model import Mamba
from ssmpress.prune import resume
from ssmpress.prune.distill import RowTerms, final_hidden, row_terms, teacher_cache
from ssmpress.prune.mask import apply_masks, keep_masks, prunable_names, resolve_sparsity
from ssmpress.prune.order import Tokens, WindowOrder
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.saliency import Progress, gradient_magnitude, magnitude
from ssmpress.prune.training import Batch, Plan, Training
from ssmpress.recipe import Compute, Method, PruneSettings, RecoverSettings

_GPU_SHAPE, _CPU_SHAPE = (64, 1024), (8, 256)
_CACHE_PART = 0.55  # of the GPU's memory; the student needs the rest


@dataclass(frozen=True)
class PruneResult:
    """What pruning did. The weights themselves are in the model.

    keep: name -> bool, on the CPU. history: loss, its parts, sparsity and learning rate at about
    fifty steps. seconds: of everything. steps, tokens: optimiser steps and tokens they saw.
    device: "cpu" or the GPU's name.
    """

    keep: dict[str, Tensor]
    history: tuple[dict[str, float], ...]
    seconds: float
    steps: int
    tokens: int
    device: str


def prune_and_recover(
    model: Mamba,
    tokens: Tokens,
    prune: PruneSettings,
    recover: RecoverSettings,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    resume_file: Path | None = None,
) -> PruneResult:
    """Prune the model in place and train it on, taught by its dense copy.

    Without steps it is one-shot pruning. On a CPU and without a number of steps the cost of one is
    measured first and `progress` is told the plan before it starts; given the number of steps, the
    result is a function of the arguments (on a GPU up to the order of the kernels' atomic sums).

    Args:
        model: dense, float32; comes back pruned, on the device it was on.
        tokens: int (n,), the calibration text.
        seed: of the windows and their order.
        progress: called with what is done, steps done, steps.
        resume_file: written now and then; where it exists, the run goes on from it.

    Raises:
        UsageError: settings that cannot be met. BadInputError: too little text, a resume file of
            another run. DeviceError: a GPU is asked for and there is none.

    Source: arXiv 2505.08299, with distillation added.
    """
    started = time.monotonic()
    home = next(model.parameters()).device
    device = compute_device(recover.compute)
    report = progress or (lambda what, done, total: None)
    names = prunable_names(model.config, prune.prunable)
    sparsity = resolve_sparsity(model.config, prune.prunable, prune.sparsity, prune.sparsity_of)
    model.to(device)
    try:
        if recover.steps == 0:
            keep = one_shot(model, names, tokens, prune, sparsity, seed, report)
            apply_masks(dict(model.named_parameters()), keep)
            history: list[dict[str, float]] = []
            steps, seen = 0, 0
        else:
            run = _Run(model, names, tokens, prune, recover, sparsity, seed, report, resume_file)
            keep, history = run.train()
            steps, seen = run.plan.steps, run.plan.steps * run.plan.batch * run.plan.window
    finally:
        model.to(home)
        model.tie_weights()
    return PruneResult(
        keep={name: mask.cpu() for name, mask in keep.items()},
        history=tuple(history),
        seconds=time.monotonic() - started,
        steps=steps,
        tokens=seen,
        device=device_name(device),
    )


def one_shot(
    model: Mamba,
    names: tuple[str, ...],
    tokens: Tokens,
    prune: PruneSettings,
    sparsity: float,
    seed: int,
    progress: Progress,
) -> dict[str, Tensor]:
    """Keep masks from the unpruned weights and the calibration windows alone."""
    pattern = Pattern.parse(prune.pattern)
    if pattern is not None:
        pattern.check_sparsity(sparsity)
    if prune.method is Method.MAGNITUDE:
        scores = magnitude(model, names)
    else:
        order = WindowOrder(tokens, min(prune.calibration_window, len(tokens)), seed)
        batches = [
            torch.from_numpy(order.windows(order.numbers(i, prune.calibration_batch)))
            for i in range(prune.calibration_batches)
        ]
        scores = gradient_magnitude(model, names, batches, prune.alpha, progress)
    return keep_masks(scores, sparsity, prune.scope, pattern)


def compute_device(compute: Compute) -> torch.device:
    """Where calibration and recovery run.

    Raises:
        DeviceError: a GPU is asked for and PyTorch finds none.
    """
    if compute is Compute.CUDA and not torch.cuda.is_available():
        raise DeviceError(
            "--compute cuda: expected a GPU; PyTorch finds none. Install a CUDA build of PyTorch, "
            "or use --compute cpu."
        )
    cuda = torch.cuda.is_available() and compute is not Compute.CPU
    return torch.device("cuda" if cuda else "cpu")


def device_name(device: torch.device) -> str:
    """ "cpu", or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def make_plan(
    prune: PruneSettings, recover: RecoverSettings, sparsity: float, cuda: bool, steps: int
) -> Plan:
    """The plan of a run of `steps` steps.

    A short ramp has more masks than `mask_every` says, at least eight where it has as many steps.
    """
    batch, window = _GPU_SHAPE if cuda else _CPU_SHAPE
    ramp_end = min(int(steps * recover.ramp), steps - 1)
    settled = min(int(steps * recover.settle), steps - 1) if recover.regrow else 0
    return Plan(
        steps=steps,
        batch=recover.batch or batch,
        window=recover.window or window,
        sparsity=sparsity,
        mask_every=max(1, min(recover.mask_every, ramp_end // 8)),
        ramp_end=ramp_end,
        settled=max(ramp_end, settled),
        alpha=0.0 if prune.method is Method.MAGNITUDE else prune.alpha,
        scope=prune.scope,
        pattern=Pattern.parse(prune.pattern),
    )


class _Run:
    """Everything `prune_and_recover` needs for a run with at least one step."""

    def __init__(
        self,
        model: Mamba,
        names: tuple[str, ...],
        tokens: Tokens,
        prune: PruneSettings,
        recover: RecoverSettings,
        sparsity: float,
        seed: int,
        progress: Progress,
        resume_file: Path | None,
    ) -> None:
        self.settings, self.progress, self.resume_file = recover, progress, resume_file
        self.device = next(model.parameters()).device
        cuda = self.device.type == "cuda"
        steps = recover.steps or (recover.gpu_steps if cuda else 0)
        self.plan = make_plan(prune, recover, sparsity, cuda, max(1, steps))
        if self.plan.pattern is not None:
            self.plan.pattern.check_sparsity(sparsity)
        self.order = WindowOrder(tokens, min(self.plan.window, len(tokens)), seed)
        self.teacher = deepcopy(model).requires_grad_(False)
        self.cache: Tensor | None = None
        terms: RowTerms = torch.compile(row_terms) if recover.compile else row_terms
        self.training = Training(model, names, self.plan, recover, terms)
        self.training.teacher_head = self.teacher.lm_head.weight if recover.distill else None
        self.history: list[dict[str, float]] = []
        saved = self._saved({"prune": asdict(prune), "recover": asdict(recover), "seed": seed})
        if saved:
            steps = int(saved["steps"])
        elif not steps:
            steps = self._affordable_steps()
        self.plan = make_plan(prune, recover, sparsity, cuda, steps)
        self.training.plan = self.plan
        self.first = self._go_on(saved) if saved else 0
        if not saved and self.plan.ramp_end == 0:
            self.training.keep = one_shot(model, names, tokens, prune, sparsity, seed, progress)
            self.training.settle()

    def _saved(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        if self.resume_file is None:
            return None
        tensors = self.training.model.tensors()
        name = device_name(self.device)
        self.fingerprint = resume.fingerprint(settings, tensors, self.order.tokens, name)
        return resume.load(self.resume_file, self.fingerprint, self.device)

    def _affordable_steps(self) -> int:
        """Steps that `cpu_seconds` pays for, by the second of two measured ones."""
        seconds = 0.0
        for _ in range(2):
            start = time.monotonic()
            for load in self._micro_batches(0):
                self.training.backward(load(), self.settings.accumulate)
            seconds = 1.1 * (time.monotonic() - start)  # AdamW and the masks come on top
        self.training.optimizer.zero_grad(set_to_none=True)
        steps = max(1, int(self.settings.cpu_seconds / seconds))
        text = f"recovery: {steps} steps, about {steps * seconds:.0f} s"
        self.progress(text, 0, steps)
        return steps

    def train(self) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        """All steps that are left; returns the keep masks and the history."""
        self._fill_cache()
        every, last_save = max(1, self.plan.steps // 50), time.monotonic()
        for step in range(self.first, self.plan.steps):
            losses = self.training.step(step, self._micro_batches(step))
            if step % every == 0 or step == self.plan.steps - 1:
                self._log(step, losses)
            last = step == self.plan.steps - 1
            due = time.monotonic() - last_save >= self.settings.checkpoint_seconds
            if self.resume_file is not None and (last or due):
                self._save(step + 1)
                last_save = time.monotonic()
        return self.training.keep, self.history

    def _log(self, step: int, losses: dict[str, Tensor]) -> None:
        sparsity = self.training.sparsity()
        values = {key: float(value) for key, value in losses.items()}
        self.history.append({"step": step, "sparsity": sparsity, **values})
        what = f"recovery: loss {values['loss']:.4f}, sparsity {sparsity:.1%}"
        self.progress(what, step + 1, self.plan.steps)

    def _micro_batches(self, step: int) -> list[Callable[[], Batch]]:
        numbers = self.order.numbers(step, self.plan.batch)
        size = -(-len(numbers) // self.settings.accumulate)
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return [partial(self._batch, part) for part in parts]

    def _tokens(self, numbers: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.order.windows(numbers)).to(self.device)

    def _batch(self, numbers: NDArray[np.int64]) -> Batch:
        tokens = self._tokens(numbers)
        if not self.settings.distill:
            return Batch(tokens, None)
        if self.cache is not None:
            return Batch(tokens, self.cache[torch.from_numpy(numbers).to(self.device)])
        with torch.no_grad(), self.training.autocast():
            return Batch(tokens, final_hidden(self.teacher, tokens))

    def _fill_cache(self) -> None:
        """On a GPU, and if the text is seen more than once and it fits: the teacher runs once."""
        count = self.order.count
        epochs = self.plan.steps * self.plan.batch / count
        if self.device.type != "cuda" or not self.settings.distill or epochs < 1.5:
            return
        size = 2 * count * self.order.length * self.teacher.config.d_model
        if size > _CACHE_PART * torch.cuda.get_device_properties(self.device).total_memory:
            return
        self.progress("the dense model's predictions", 0, count)
        with self.training.autocast():
            self.cache = teacher_cache(
                self.teacher, lambda first, last: self._tokens(np.arange(first, last)), count
            )

    def _save(self, step: int) -> None:
        training = self.training
        assert self.resume_file is not None
        state = {
            "fingerprint": self.fingerprint,
            "steps": self.plan.steps,
            "step": step,
            "model": training.model.tensors(),
            "optimizer": training.optimizer.state_dict(),
            "gradients": training.gradients,
            "keep": training.keep,
            "history": self.history,
        }
        resume.save(self.resume_file, state)

    def _go_on(self, saved: dict[str, Any]) -> int:
        """Take over a saved state; returns the step to go on with."""
        training = self.training
        with torch.no_grad():
            for name, tensor in training.model.tensors().items():
                tensor.copy_(saved["model"][name])
        training.optimizer.load_state_dict(saved["optimizer"])
        training.gradients, training.keep = saved["gradients"], saved["keep"]
        self.history = saved["history"]
        step = int(saved["step"])
        self.progress(f"recovery: goes on at step {step}", step, self.plan.steps)
        return step
