"""Prune a model and recover what it lost: the way from settings to final weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
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
from ssmpress.prune.ending import USUAL_STEPS, Ceiling, FixedEnd, OpenEnd
from ssmpress.prune.held_out import CalibrationSplit, Check, HeldOut, hold_out
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
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope
from ssmpress.recipe.settings.recover import Compute, RecoverSettings

_GPU_SHAPE, _CPU_SHAPE = (64, 1024), (8, 256)
_CACHE_PART = 0.55  # of the GPU's memory; the student needs the rest

HELD_OUT_STEPS, HELD_OUT_TASK_STEPS = 4, 8
"""Held-out samples of a text and of a task, in batches of a step. A sample costs a forward pass
there, four times as much in a step, and is checked every 16 and 32 steps: 6 % more time."""

CHECK_EVERY = 16
"""Steps between two checks, times the held-out batches over 4."""

CHECKED_STEPS = 32
"""Steps that the time must buy for any check."""

MEASURED_PART = 0.05
"""Part of the time that measuring the cost of a step may take."""

SAVE_BYTES_PER_SECOND = 1e8
"""Of a slow disk, until a save was timed."""


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
    model: Mamba,
    tokens: Calibration,
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
        tokens: int (n,), the calibration text; or samples of the model's task.
        seed: of the windows and their order.
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
            steps, seen, end, earlier_seconds = 0, 0, {}, 0.0
        else:
            teacher = teacher or Teacher(deepcopy(model))
            asked = quality if recover.steps is None else None
            task = _Task(names, tokens, prune, recover, sparsity, seed, asked)
            run = _Run(model, teacher, task, report, note, resume_file, clock)
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
    quality: float | None

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

    def held_out(self, cuda: bool) -> tuple[int, int]:
        """Samples to hold out, and tokens of each."""
        batch, window = self.shape(cuda)
        text = isinstance(self.tokens, np.ndarray)
        return batch * (HELD_OUT_STEPS if text else HELD_OUT_TASK_STEPS), window

    def one_shot(self, model: Mamba, progress: Progress) -> dict[str, Tensor]:
        """The masks before the first step, where the plan has no ramp."""
        return one_shot(
            model, self.names, self.tokens, self.prune, self.sparsity, self.seed, progress
        )


class _Run:
    """A run with at least one step, or without a number of steps."""

    end: FixedEnd | OpenEnd

    def __init__(
        self,
        model: Mamba,
        teacher: Teacher,
        task: _Task,
        progress: Progress,
        note: Note,
        resume_file: Path | None,
        clock: Callable[[], float],
    ) -> None:
        self.settings, self.resume_file = task.recover, resume_file
        self.progress, self.note, self.clock = progress, note, clock
        self.saved_step, self.warned = 0, False
        self.started, self.earlier_seconds = time.monotonic(), 0.0
        self.teacher, self.device = teacher, next(model.parameters()).device
        self.held: HeldOut | None = None
        cuda = self.device.type == "cuda"
        ceiling = task.recover.ceiling(cuda)
        steps = task.recover.steps or (task.recover.gpu_steps if ceiling is None else USUAL_STEPS)
        check_combination(model.config, task.names, task.prune, task.sparsity)
        self.whole, self.task, split = task, task, None
        if ceiling is not None:
            split = hold_out(task.tokens, *task.held_out(cuda), task.seed)
            self.task = task if split is None else replace(task, tokens=split.training)
        self.plan = self.task.plan(steps, cuda)
        self.order: WindowOrder | SampleOrder
        if isinstance(self.task.tokens, np.ndarray):
            self.order = WindowOrder(self.task.tokens, self.plan.window, task.seed)
        else:
            self.order = SampleOrder(self.task.tokens, self.plan.batch, task.seed)
        self.seed = task.seed
        # On a CPU it would need a compiler at run time; on a GPU its choice of kernels may differ.
        compiled = self.settings.compile and cuda and not self.settings.deterministic
        terms: RowTerms = torch.compile(row_terms) if compiled else row_terms
        self.training = Training(model, task.names, self.plan, self.settings, terms)
        if self.settings.distill and isinstance(self.order, WindowOrder):
            self.training.teacher_head = teacher.model.lm_head.weight
        self.history: list[dict[str, float]] = []
        saved = self._saved()
        if ceiling is None:
            self._begin_fixed(saved)
        else:
            self._begin_open(saved, ceiling, split)

    def _begin_fixed(self, saved: dict[str, Any] | None) -> None:
        """At the first step, or at the one after the last that was saved."""
        self.first = 0 if saved is None else self._go_on(saved)
        if saved is None:
            self._first_masks()
        self.end = FixedEnd(self.plan)

    def _begin_open(
        self, saved: dict[str, Any] | None, seconds: float, split: CalibrationSplit | None
    ) -> None:
        """The same of a run that ends by itself; what a step costs is measured first."""
        state = {} if saved is None else saved["end"]
        ceiling = Ceiling(seconds, state.get("spent", 0.0), self.clock)
        self.remembered = False
        if saved is None:
            ceiling.expect("step", self._step_seconds(seconds))
        else:
            ceiling.expect("step", state["step_seconds"])
        if self.resume_file is not None:
            ceiling.expect("save", self._state_bytes() / SAVE_BYTES_PER_SECOND)
        steps = max(1, ceiling.steps_left())
        cuda = self.device.type == "cuda"
        plan = self.task.plan(min(USUAL_STEPS, steps), cuda)
        self._set_plan(replace(plan, warmup=min(self.settings.warmup_steps, plan.steps // 5)))
        every = 0
        if split is not None and steps >= CHECKED_STEPS:
            every = CHECK_EVERY * max(1, len(split.numbers) // (HELD_OUT_STEPS * plan.batch))
        every = state.get("every", every)
        if every and split is not None:
            with ceiling.timed("check"):
                self.held = HeldOut(split, self.teacher.model, plan.batch)
        if saved is None:
            self.first = 0
            with ceiling.paused():
                self._first_masks()
        else:
            self.first = self._go_on(saved)
        self.end = OpenEnd(self.plan, ceiling, self.task.quality, every)
        if saved is None:
            self.note(self.end.plan_text())
        else:
            self.end.restore(state)
            self._set_plan(self.end.plan)

    def _step_seconds(self, ceiling: float) -> float:
        """What a step will cost, from one sequence; from a whole step if that is cheap."""
        numbers = self._numbers(0)
        seconds = 0.0
        for part in (numbers[:1], numbers):
            if seconds * len(numbers) > MEASURED_PART * ceiling:
                return seconds * len(numbers)
            start = self.clock()
            for load in self._loads(0, part):
                self.training.backward(load(), self.settings.accumulate)
            self._wait()
            seconds = 1.1 * (self.clock() - start)  # AdamW and the masks come on top
            self.training.model.zero_grad(set_to_none=True)
        return seconds

    def _wait(self) -> None:
        """Let the GPU finish where time matters: it takes longer than asking it to."""
        if self.device.type == "cuda" and self.settings.ceiling(cuda=True) is not None:
            torch.cuda.synchronize()

    def _state_bytes(self) -> int:
        """Of a save, roughly: weights, two moments and a running gradient."""
        return 16 * sum(p.numel() for p in self.training.model.parameters())

    def _set_plan(self, plan: Plan) -> None:
        self.plan = self.training.plan = plan

    def _first_masks(self) -> None:
        """All of the masks if there is no ramp, else the budgets that it needs."""
        model, task = self.training.model, self.task
        if self.plan.ramp_end == 0:
            self._one_shot()
        elif task.prune.scope is Scope.OWL:
            windows = calibration_batches(task.tokens, task.prune, task.seed, self.device)
            activations = grams(model, task.names, windows, self.progress)
            scores = wanda(model, task.names, activations)
            self._set_plan(
                replace(self.plan, shares=owl_shares(model.config, scores, task.sparsity))
            )

    def _one_shot(self) -> None:
        self.training.keep = self.task.one_shot(self.training.model, self.progress)
        self.training.settle()

    def _saved(self) -> dict[str, Any] | None:
        if self.resume_file is None:
            return None
        task = self.whole
        settings = {"prune": asdict(task.prune), "recover": asdict(task.recover), "seed": task.seed}
        settings["quality"] = task.quality
        tensors = self.training.model.tensors()
        name = device_name(self.device)
        self.fingerprint = resume.fingerprint(settings, tensors, task.tokens, name)
        return resume.load(self.resume_file, self.fingerprint, self.device)

    def train(self) -> int:
        """All steps that are left; returns the number of steps of the whole run."""
        self.remembered = self._remember()
        end, step, last_save = self.end, self.first, time.monotonic()
        losses: dict[str, Tensor] = {}
        logged = True
        while end.goes_on(step):
            self._set_plan(end.plan)
            with end.timed("step"):
                losses = self._step(step)
                self._wait()
            if logged := end.log_due(step):
                self._log(step, losses)
            step += 1
            if end.check_due(step):
                end.judge(self._check(step))
            if time.monotonic() - last_save >= self.settings.checkpoint_seconds:
                self._refuse_divergence(step - 1, self.training.model.tensors().values())
                self._try_to_save(step)
                last_save = time.monotonic()
        if not logged:
            self._log(step - 1, losses)
        self._finish(step)
        return step

    def _finish(self, step: int) -> None:
        """The final masks, the last look at the quality, and a last save."""
        if step > 0:
            self.training.finish(step)
        elif self.plan.ramp_end > 0:
            self._one_shot()
        if step > self.first:
            self._refuse_divergence(step - 1, self.training.model.tensors().values())
            self._refuse_divergence(step - 1, self._last_loss(step - 1))
        self.end.close(step, None if self.held is None else partial(self._check, step))
        self._try_to_save(step)
        if isinstance(self.end, OpenEnd):
            self.note(self.end.end_text(step))

    def _check(self, step: int) -> Check:
        assert self.held is not None
        with self.end.timed("check"):
            return self.held.check(self.training.model, step)

    def _step(self, step: int) -> dict[str, Tensor]:
        """One step; the loss and its parts."""
        try:
            losses = self.training.step(step, self._loads(step, self._numbers(step)))
        except NotFiniteError as error:
            raise self._diverged(step) from error
        if self.device.type == "cpu":  # a GPU would have to wait for its number in every step
            self._refuse_divergence(step, [losses["loss"]])
        return losses

    @torch.no_grad()
    def _last_loss(self, step: int) -> list[Tensor]:
        """The loss after the last step, which no step has measured."""
        load = self._loads(step, self._numbers(step))[0]
        return list(self.training.losses(load()).values())

    def _refuse_divergence(self, step: int, numbers: Iterable[Tensor]) -> None:
        if not all(bool(torch.isfinite(number).all()) for number in numbers):
            raise self._diverged(step)

    def _diverged(self, step: int) -> UsageError:
        """What is said of a run whose numbers are no longer finite; nothing can go on from it."""
        if self.resume_file is not None:
            self.resume_file.unlink(missing_ok=True)
        return UsageError(
            f"recovery diverged: at step {step + 1} of {self.end.expected(step)} its numbers are "
            f"no longer finite. Lower its learning_rate, which is {self.settings.learning_rate:g}; "
            "without recovery (--recover none) nothing is trained."
        )

    def _log(self, step: int, losses: dict[str, Tensor]) -> None:
        self._refuse_divergence(step, losses.values())
        sparsity = self.training.sparsity()
        values = {key: float(value) for key, value in losses.items()}
        self.history.append({"step": step, "sparsity": sparsity, **values})
        what = f"recovery: loss {values['loss']:.4f}, sparsity {sparsity:.1%}"
        self.progress(what, step + 1, self.end.expected(step + 1))

    def _numbers(self, step: int) -> NDArray[np.int64]:
        """Numbers of the windows or samples of a step."""
        if isinstance(self.order, WindowOrder):
            return self.order.numbers(step, self.plan.batch)
        return self.order.numbers(step)

    def _loads(
        self, step: int, numbers: NDArray[np.int64]
    ) -> list[Callable[[], Batch | TaskBatch]]:
        """What loads each micro-batch of a step."""
        size = -(-len(numbers) // self.settings.accumulate)
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        if isinstance(self.order, SampleOrder):
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
        """Write what the steps after `step` of them depend on, if there is a file for it."""
        if self.resume_file is None:
            return
        training = self.training
        state = {
            "fingerprint": self.fingerprint,
            "step": step,
            "end": self.end.state(),
            "model": training.model.tensors(),
            "optimizers": [optimizer.state_dict() for optimizer in training.optimizers],
            "gradients": training.gradients,
            "keep": training.keep,
            "shares": self.plan.shares,
            "history": self.history,
            "seconds": self.earlier_seconds + time.monotonic() - self.started,
        }
        with self.end.timed("save"):
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
        total = self.plan.end if self.plan.warmup is not None else self.plan.steps
        ended = step == total
        where = "was finished before" if ended else f"goes on at step {step}"
        self.note(f"recovery: {where}")
        self.progress(f"recovery: {where}", step, max(step, self.plan.steps))
        return step
