"""Prune a model and recover what it lost: the way from settings to final weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.blocks.model import Mamba
from ssmpress.callbacks import Note, Progress, silent
from ssmpress.data.labelled import LabelledTexts
from ssmpress.errors import DeviceError, UsageError, WriteError
from ssmpress.prune import resume
from ssmpress.prune.baselines import owl_shares, wanda
from ssmpress.prune.batches import load_batch, noisy, predict
from ssmpress.prune.distill import RowTerms, Teacher, row_terms
from ssmpress.prune.mask import NotFiniteError, apply_masks, prunable_names, resolve_sparsity
from ssmpress.prune.one_shot import (
    Scores,
    calibration_batches,
    check_combination,
    grams,
    one_shot,
)
from ssmpress.prune.order import Calibration, SampleOrder, WindowOrder
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.training import Batch, Plan, TaskBatch, Training
from ssmpress.recipe.settings import Compute, Method, PruneSettings, RecoverSettings, Scope

_GPU_SHAPE, _CPU_SHAPE = (64, 1024), (8, 256)
_CACHE_PART = 0.55  # of the GPU's memory; the student needs the rest


@dataclass(frozen=True)
class PruneResult:
    """What pruning did. The weights themselves are in the model: a pruned weight is a zero.

    history: loss, its parts and sparsity at about fifty steps. seconds: of everything, before an
    interruption too. steps, tokens: optimiser steps and tokens they saw. device: "cpu" or the GPU's
    name.
    """

    history: tuple[dict[str, float], ...]
    seconds: float
    steps: int
    tokens: int
    device: str


def prune_and_recover(
    model: Mamba,
    tokens: Calibration,
    prune: PruneSettings,
    recover: RecoverSettings,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    note: Note = silent,
    resume_file: Path | None = None,
    teacher: Teacher | None = None,
    scores: Scores | None = None,
) -> PruneResult:
    """Prune the model in place and train it on, taught by its dense copy.

    Without steps it is one-shot pruning. On a CPU and without a number of steps the cost of one is
    measured first and `progress` is told the plan before it starts; given the number of steps, the
    result is a function of the arguments (on a GPU without `deterministic` up to the order of the
    kernels' atomic sums).

    Args:
        model: dense or pruned already, float32; comes back pruned, on the device it was on.
        tokens: int (n,), the calibration text; or samples of the model's task.
        seed: of the windows and their order.
        progress: called with what is done, steps done, steps.
        note: called with a sentence where the state of the run cannot be saved, which does not end
            it.
        resume_file: written now and then, and at the end; where it exists, the run goes on from it.
        teacher: the dense model where `model` is not it, on the device of the run.
        scores: of one-shot pruning at another sparsity, or to be filled for the next one.

    Raises:
        UsageError: settings that cannot be met, or with which training diverges.
        BadInputError: too little text, a resume file of another run.
        DeviceError: a GPU is asked for and there is none.

    Source: arXiv 2505.08299, with distillation added.
    """
    started = time.monotonic()
    home = next(model.parameters()).device
    device = compute_device(recover.compute)
    report = progress or silent
    names = prunable_names(model.config, prune.prunable)
    sparsity = resolve_sparsity(model.config, prune.prunable, prune.sparsity, prune.sparsity_of)
    model.to(device)
    try:
        if recover.steps == 0:
            keep = one_shot(model, names, tokens, prune, sparsity, seed, report, scores)
            apply_masks(dict(model.named_parameters()), keep)
            history: list[dict[str, float]] = []
            steps, seen, earlier_seconds = 0, 0, 0.0
        else:
            teacher = teacher or Teacher(deepcopy(model))
            task = _Task(names, tokens, prune, recover, sparsity, seed)
            run = _Run(model, teacher, task, report, note, resume_file)
            history = run.train()
            steps, seen = run.plan.steps, run.plan.steps * run.plan.batch * run.plan.window
            earlier_seconds = run.earlier_seconds
    finally:
        model.to(home)
        model.tie_weights()
    return PruneResult(
        history=tuple(history),
        seconds=earlier_seconds + time.monotonic() - started,
        steps=steps,
        tokens=seen,
        device=device_name(device),
    )


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


@dataclass(frozen=True)
class _Task:
    """What is to be done, as `prune_and_recover` was told."""

    names: tuple[str, ...]
    tokens: Calibration
    prune: PruneSettings
    recover: RecoverSettings
    sparsity: float
    seed: int

    def plan(self, steps: int, cuda: bool) -> Plan:
        """The plan of a run of `steps` steps.

        A short ramp has more masks than `mask_every` says, at least eight where it has as many
        steps. The methods that look at activations prune before the first step.
        """
        prune, recover = self.prune, self.recover
        batch, window = self.shape(cuda)
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

    def shape(self, cuda: bool) -> tuple[int, int]:
        """Sequences per step, and tokens of each; of a task's samples, tokens on the average."""
        wanted, text = self.recover.batch, self.tokens
        if isinstance(text, np.ndarray):
            batch, window = _GPU_SHAPE if cuda else _CPU_SHAPE
            return wanted or batch, min(self.recover.window or window, len(text))
        few = isinstance(text, LabelledTexts) and not cuda
        return min(wanted or (16 if few else 64), text.count), round(float(text.lengths.mean()))

    def one_shot(self, model: Mamba, progress: Progress) -> dict[str, Tensor]:
        """The masks before the first step, where the plan has no ramp."""
        return one_shot(
            model, self.names, self.tokens, self.prune, self.sparsity, self.seed, progress
        )


class _Run:
    """A run with at least one step."""

    def __init__(
        self,
        model: Mamba,
        teacher: Teacher,
        task: _Task,
        progress: Progress,
        note: Note,
        resume_file: Path | None,
    ) -> None:
        self.settings, self.progress, self.resume_file = task.recover, progress, resume_file
        self.note, self.saved_step, self.warned = note, 0, False
        self.started, self.earlier_seconds = time.monotonic(), 0.0
        self.teacher, self.device = teacher, next(model.parameters()).device
        cuda = self.device.type == "cuda"
        steps = task.recover.steps or (task.recover.gpu_steps if cuda else 0)
        check_combination(model.config, task.names, task.prune, task.sparsity)
        self.plan = task.plan(max(1, steps), cuda)
        self.order: WindowOrder | SampleOrder
        if isinstance(task.tokens, np.ndarray):
            self.order = WindowOrder(task.tokens, self.plan.window, task.seed)
        else:
            self.order = SampleOrder(task.tokens, self.plan.batch, task.seed)
        self.seed = task.seed
        # On a CPU it would need a compiler at run time; on a GPU its choice of kernels may differ.
        compiled = self.settings.compile and cuda and not self.settings.deterministic
        terms: RowTerms = torch.compile(row_terms) if compiled else row_terms
        self.training = Training(model, task.names, self.plan, self.settings, terms)
        if self.settings.distill and isinstance(self.order, WindowOrder):
            self.training.teacher_head = teacher.model.lm_head.weight
        self.history: list[dict[str, float]] = []
        saved = self._saved(task)
        if not saved:
            self.first, steps = 0, steps or self._affordable_steps()
            self._set_plan(task.plan(steps, cuda))
            self._first_masks(model, task)
            return
        self._set_plan(task.plan(int(saved["steps"]), cuda))
        self.first = self._go_on(saved)

    def _set_plan(self, plan: Plan) -> None:
        self.plan = self.training.plan = plan

    def _first_masks(self, model: Mamba, task: _Task) -> None:
        """All of the masks if there is no ramp, else the budgets that it needs."""
        if self.plan.ramp_end == 0:
            self.training.keep = task.one_shot(model, self.progress)
            self.training.settle()
        elif task.prune.scope is Scope.OWL:
            windows = calibration_batches(task.tokens, task.prune, task.seed, self.device)
            activations = grams(model, task.names, windows, self.progress)
            scores = wanda(model, task.names, activations)
            self._set_plan(
                replace(self.plan, shares=owl_shares(model.config, scores, task.sparsity))
            )

    def _saved(self, task: _Task) -> dict[str, Any] | None:
        if self.resume_file is None:
            return None
        settings = {"prune": asdict(task.prune), "recover": asdict(task.recover), "seed": task.seed}
        tensors = self.training.model.tensors()
        name = device_name(self.device)
        self.fingerprint = resume.fingerprint(settings, tensors, task.tokens, name)
        return resume.load(self.resume_file, self.fingerprint, self.device)

    def _affordable_steps(self) -> int:
        """Steps that `cpu_seconds` pays for, by the second of two measured ones."""
        seconds, self.remembered = 0.0, False
        for _ in range(2):
            start = time.monotonic()
            for load in self._micro_batches(0):
                self.training.backward(load(), self.settings.accumulate)
            seconds = 1.1 * (time.monotonic() - start)  # AdamW and the masks come on top
        self.training.model.zero_grad(set_to_none=True)
        steps = max(1, int(self.settings.cpu_seconds / seconds))
        text = f"recovery: {steps} steps, about {steps * seconds:.0f} s"
        self.progress(text, 0, steps)
        return steps

    def train(self) -> list[dict[str, float]]:
        """All steps that are left; returns the history."""
        self.remembered = self._remember()
        every, last_save = max(1, self.plan.steps // 50), time.monotonic()
        for step in range(self.first, self.plan.steps):
            last = step == self.plan.steps - 1
            losses = self._step(step)
            if step % every == 0 or last:
                self._log(step, losses)
            due = time.monotonic() - last_save >= self.settings.checkpoint_seconds
            if last or due:
                self._refuse_divergence(step, self.training.model.tensors().values())
            if self.resume_file is not None and (last or due):
                self._try_to_save(step + 1)
                last_save = time.monotonic()
        if self.first < self.plan.steps:
            self._refuse_divergence(self.plan.steps - 1, self._last_loss())
        return self.history

    def _step(self, step: int) -> dict[str, Tensor]:
        """One step; the loss and its parts."""
        try:
            losses = self.training.step(step, self._micro_batches(step))
        except NotFiniteError as error:
            raise self._diverged(step) from error
        if self.device.type == "cpu":  # a GPU would have to wait for its number in every step
            self._refuse_divergence(step, [losses["loss"]])
        return losses

    @torch.no_grad()
    def _last_loss(self) -> list[Tensor]:
        """The loss after the last step, which no step has measured."""
        load = self._micro_batches(self.plan.steps - 1)[0]
        return list(self.training.losses(load()).values())

    def _refuse_divergence(self, step: int, numbers: Iterable[Tensor]) -> None:
        if not all(bool(torch.isfinite(number).all()) for number in numbers):
            raise self._diverged(step)

    def _diverged(self, step: int) -> UsageError:
        """What is said of a run whose numbers are no longer finite; nothing can go on from it."""
        if self.resume_file is not None:
            self.resume_file.unlink(missing_ok=True)
        return UsageError(
            f"recovery diverged: at step {step + 1} of {self.plan.steps} its numbers are no longer "
            f"finite. Lower its learning_rate, which is {self.settings.learning_rate:g}; without "
            "recovery (--recover none) nothing is trained."
        )

    def _log(self, step: int, losses: dict[str, Tensor]) -> None:
        self._refuse_divergence(step, losses.values())
        sparsity = self.training.sparsity()
        values = {key: float(value) for key, value in losses.items()}
        self.history.append({"step": step, "sparsity": sparsity, **values})
        what = f"recovery: loss {values['loss']:.4f}, sparsity {sparsity:.1%}"
        self.progress(what, step + 1, self.plan.steps)

    def _micro_batches(self, step: int) -> list[Callable[[], Batch | TaskBatch]]:
        order = self.order
        if isinstance(order, WindowOrder):
            numbers = order.numbers(step, self.plan.batch)
        else:
            numbers = order.numbers(step)
        size = -(-len(numbers) // self.settings.accumulate)
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        if isinstance(order, SampleOrder):
            return [partial(self._samples, part, (step, i)) for i, part in enumerate(parts)]
        return [partial(self._batch, part) for part in parts]

    def _samples(self, numbers: NDArray[np.int64], place: tuple[int, int]) -> TaskBatch:
        """A task's samples, with noise, and what the dense model makes of the same."""
        assert isinstance(self.order, SampleOrder)
        batch = load_batch(self.order.samples, numbers, self.device)
        vocab_size = self.teacher.model.config.vocab_size
        seed = int(np.random.SeedSequence([self.seed, *place]).generate_state(1)[0])
        batch = noisy(batch, self.settings.token_noise, vocab_size, seed)
        if not self.settings.distill:
            return TaskBatch(batch, None)
        with self.training.autocast(), torch.no_grad():
            return TaskBatch(batch, predict(self.teacher.model, batch))

    def _tokens(self, numbers: NDArray[np.int64]) -> Tensor:
        assert isinstance(self.order, WindowOrder)
        tokens = torch.from_numpy(self.order.windows(numbers))
        if self.device.type == "cuda":
            tokens = tokens.pin_memory()  # else the copy waits for the step before
        return tokens.to(self.device, non_blocking=True)

    def _batch(self, numbers: NDArray[np.int64]) -> Batch:
        tokens = self._tokens(numbers)
        if not self.settings.distill:
            return Batch(tokens, None)
        if self.remembered and self.teacher.hidden is not None:
            return Batch(tokens, self.teacher.hidden[torch.from_numpy(numbers).to(self.device)])
        with self.training.autocast():
            return Batch(tokens, self.teacher(tokens))

    def _remember(self) -> bool:
        """Let the teacher remember: on a GPU, if the text is seen more than once and it fits."""
        count = self.order.count
        if self.device.type != "cuda" or not self.settings.distill:
            return False
        if isinstance(self.order, SampleOrder):  # each time it sees other noise
            return False
        of = (self.order.seed, self.order.length, len(self.order.tokens))
        if self.teacher.of != of and self.plan.steps * self.plan.batch < 1.5 * count:
            return False
        size = 2 * count * self.order.length * self.teacher.model.config.d_model
        if size > _CACHE_PART * torch.cuda.get_device_properties(self.device).total_memory:
            return False
        self.progress("the dense model's predictions", 0, count)
        with self.training.autocast():
            self.teacher.remember(of, lambda a, b: self._tokens(np.arange(a, b)), count)
        return True

    def _try_to_save(self, step: int) -> None:
        """Save the state; a disk that takes no more does not end the run."""
        try:
            self._save(step)
            self.saved_step, self.warned = step, False
        except WriteError as error:
            if not self.warned:
                where = f"goes on at step {self.saved_step}" if self.saved_step else "starts again"
                self.note(f"{error} Recovery continues; if it is interrupted, it {where}.")
            self.warned = True

    def _save(self, step: int) -> None:
        training = self.training
        assert self.resume_file is not None
        state = {
            "fingerprint": self.fingerprint,
            "steps": self.plan.steps,
            "step": step,
            "model": training.model.tensors(),
            "optimizers": [optimizer.state_dict() for optimizer in training.optimizers],
            "gradients": training.gradients,
            "keep": training.keep,
            "shares": self.plan.shares,
            "history": self.history,
            "seconds": self.earlier_seconds + time.monotonic() - self.started,
        }
        resume.save(self.resume_file, state)

    def _go_on(self, saved: dict[str, Any]) -> int:
        """Take over a saved state; returns the step to go on with."""
        training = self.training
        with torch.no_grad():
            for name, tensor in training.model.tensors().items():
                tensor.copy_(saved["model"][name])
        for optimizer, state in zip(training.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        training.gradients, training.keep = saved["gradients"], saved["keep"]
        self.history = saved["history"]
        self._set_plan(replace(self.plan, shares=saved["shares"]))
        step = self.saved_step = int(saved["step"])
        self.earlier_seconds = float(saved.get("seconds", 0.0))
        ended = step == self.plan.steps
        where = "was finished before" if ended else f"goes on at step {step}"
        self.progress(f"recovery: {where}", step, self.plan.steps)
        return step
