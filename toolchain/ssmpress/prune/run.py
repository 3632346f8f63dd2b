"""One run: masks that tighten while the dense model teaches, checked, logged and saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.callbacks import Note, Progress
from ssmpress.errors import UsageError
from ssmpress.prune import resume
from ssmpress.prune.baselines import owl_shares, wanda
from ssmpress.prune.device import device_name
from ssmpress.prune.distill import Teacher
from ssmpress.prune.ending import USUAL_STEPS, Ceiling, FixedEnd, OpenEnd
from ssmpress.prune.held_out import Check, HeldOut
from ssmpress.prune.mask import NotFiniteError
from ssmpress.prune.material import Course, Exam, Lesson, Losses
from ssmpress.prune.model import Model
from ssmpress.prune.one_shot import check_combination, grams
from ssmpress.prune.plan import Assignment, Plan
from ssmpress.prune.training import Training
from ssmpress.recipe.settings.prune import Scope

CHECK_EVERY, CHECK_BATCHES = 16, 4
"""Steps between two checks of so many held-out batches; of twice as many twice the steps."""

CHECKED_STEPS = 32
"""Steps that the time must buy for any check."""

MEASURED_PART = 0.05
"""Part of the time that measuring the cost of a step may take."""

SAVE_BYTES_PER_SECOND = 1e8
"""Of a slow disk, until a save was timed."""


@dataclass(frozen=True)
class Watch:
    """How a run tells what it does, and the clock that its ceiling goes by.

    progress: called with what is done, steps done, steps. note: called with a sentence.
    """

    progress: Progress
    note: Note
    clock: Callable[[], float]


class Run:
    """A run with at least one step, or without a number of steps.

    history: loss, its parts and sparsity at some of the steps. earlier_seconds: of processes whose
    run this one goes on with. end: why it goes no further.
    """

    end: FixedEnd | OpenEnd

    def __init__(
        self,
        model: Model,
        teacher: Teacher,
        assignment: Assignment,
        watch: Watch,
        resume_file: Path | None,
    ) -> None:
        self.settings, self.watch = assignment.recover, watch
        self.started, self.earlier_seconds = time.monotonic(), 0.0
        self.teacher, self.device = teacher, next(model.parameters()).device
        self.held: HeldOut | None = None
        self.history: list[dict[str, float]] = []
        check_combination(model.matrices, assignment.names, assignment.prune, assignment.sparsity)
        whole, exam, ceiling = assignment, None, self.settings.ceiling(self.cuda)
        if ceiling is not None:
            divided = whole.material.hold_out(*self._shape(whole), whole.seed)
            if divided is not None:
                assignment, exam = replace(whole, material=divided[0]), divided[1]
        self.assignment = assignment
        usual = self.settings.gpu_steps if ceiling is None else USUAL_STEPS
        plan = assignment.plan(self.settings.steps or usual, self.cuda)
        course = Course(
            plan.batch, plan.window, assignment.seed, self.settings, teacher, self.device
        )
        self.lessons = assignment.material.lessons(course)
        self.training = Training(model, assignment.names, plan, self.settings)
        self.keeper = resume.Keeper(resume_file, partial(self._fingerprint, whole), watch.note)
        saved = self.keeper.load(self.device)
        if ceiling is None:
            self._begin_fixed(saved)
        else:
            self._begin_open(saved, ceiling, exam)

    @property
    def cuda(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device.type == "cuda"

    @property
    def plan(self) -> Plan:
        """The present plan."""
        return self.training.plan

    def _shape(self, assignment: Assignment) -> tuple[int, int]:
        return assignment.material.shape(self.settings, self.cuda)

    def _fingerprint(self, whole: Assignment) -> str:
        name = device_name(self.device)
        tensors = self.training.model.tensors()
        return resume.fingerprint(whole.settings(), tensors, whole.material, name)

    def _begin_fixed(self, saved: dict[str, Any] | None) -> None:
        """Begin at the first step, or at the one after the last that was saved."""
        self.first = 0 if saved is None else self._go_on(saved)
        if saved is None:
            self._first_masks()
        self.end = FixedEnd(self.plan)

    def _begin_open(self, saved: dict[str, Any] | None, seconds: float, exam: Exam | None) -> None:
        """The same of a run that ends by itself; what a step costs is measured first."""
        state = {} if saved is None else saved["end"]
        ceiling = Ceiling(seconds, state.get("spent", 0.0), self.watch.clock)
        if saved is None:
            ceiling.expect("step", self._step_seconds(seconds))
        else:
            ceiling.expect("step", state["step_seconds"])
        if self.keeper.path is not None:
            ceiling.expect("save", self._state_bytes() / SAVE_BYTES_PER_SECOND)
        steps = max(1, ceiling.steps_left())
        plan = self.assignment.plan(min(USUAL_STEPS, steps), self.cuda)
        self.training.plan = replace(plan, warmup=min(self.settings.warmup_steps, plan.steps // 5))
        every = state.get("every", _check_every(exam, steps, plan.batch))
        if every and exam is not None:
            with ceiling.timed("check"):
                self.held = HeldOut(exam, self.teacher.model, plan.batch)
        if saved is None:
            self.first = 0
            with ceiling.paused():
                self._first_masks()
        else:
            self.first = self._go_on(saved)
        self.end = OpenEnd(self.plan, ceiling, self.assignment.quality, every)
        if saved is None:
            self.watch.note(self.end.plan_text())
        else:
            self.end.restore(state)
            self.training.plan = self.end.plan

    def _step_seconds(self, ceiling: float) -> float:
        """What a step will cost, from one sequence; from a whole step if that is cheap."""
        numbers = self.lessons.numbers(0)
        seconds = 0.0
        for part in (numbers[:1], numbers):
            if seconds * len(numbers) > MEASURED_PART * ceiling:
                return seconds * len(numbers)
            start = self.watch.clock()
            for load in self._loads(0, part):
                self.training.backward(load(), self.settings.accumulate)
            self._wait()
            seconds = 1.1 * (self.watch.clock() - start)  # AdamW and the masks come on top
            self.training.model.zero_grad(set_to_none=True)
        return seconds

    def _wait(self) -> None:
        """Let the GPU finish where time matters: it takes longer than asking it to."""
        if self.cuda and self.settings.ceiling(cuda=True) is not None:
            torch.cuda.synchronize()

    def _state_bytes(self) -> int:
        """The bytes of a save, roughly: weights, two moments and a running gradient."""
        return 16 * sum(p.numel() for p in self.training.model.parameters())

    def _first_masks(self) -> None:
        """Make all of the masks if there is no ramp, else the budgets that it needs."""
        model, assignment = self.training.model, self.assignment
        if self.plan.ramp_end == 0:
            self._one_shot()
        elif assignment.prune.scope is Scope.OWL:
            batches = assignment.material.calibration(
                assignment.prune, assignment.seed, self.device
            )
            activations = grams(model, assignment.names, batches, self.watch.progress)
            scores = wanda(model, assignment.names, activations)
            shares = owl_shares(model.matrices, scores, assignment.sparsity)
            self.training.plan = replace(self.plan, shares=shares)

    def _one_shot(self) -> None:
        self.training.keep = self.assignment.one_shot(self.training.model, self.watch.progress)
        self.training.settle()

    def train(self) -> int:
        """Take all steps that are left; returns the number of steps of the whole run."""
        self.lessons.remember(self.plan.steps, self.watch.progress)
        end, step, last_save = self.end, self.first, time.monotonic()
        losses: Losses = {}
        logged = True
        while end.goes_on(step):
            self.training.plan = end.plan
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
                self._save(step)
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
        self._save(step)
        if text := self.end.end_text(step):
            self.watch.note(text)

    def _check(self, step: int) -> Check:
        assert self.held is not None
        with self.end.timed("check"):
            return self.held.check(self.training.model, step)

    def _step(self, step: int) -> Losses:
        """One step; the loss and its parts."""
        try:
            losses = self.training.step(step, self._loads(step, self.lessons.numbers(step)))
        except NotFiniteError as error:
            raise self._diverged(step) from error
        if not self.cuda:  # a GPU would have to wait for its number in every step
            self._refuse_divergence(step, [losses["loss"]])
        return losses

    def _loads(self, step: int, numbers: NDArray[Any]) -> list[Callable[[], Lesson]]:
        """What loads each micro-batch of a step."""
        size = -(-len(numbers) // self.settings.accumulate)
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return [partial(self.lessons.lesson, part, (step, i)) for i, part in enumerate(parts)]

    @torch.no_grad()
    def _last_loss(self, step: int) -> list[Tensor]:
        """The loss after the last step, which no step has measured."""
        load = self._loads(step, self.lessons.numbers(step))[0]
        return list(self.training.losses(load()).values())

    def _refuse_divergence(self, step: int, numbers: Iterable[Tensor]) -> None:
        if not all(bool(torch.isfinite(number).all()) for number in numbers):
            raise self._diverged(step)

    def _diverged(self, step: int) -> UsageError:
        """What is said of a run whose numbers are no longer finite; nothing can go on from it."""
        self.keeper.discard()
        return UsageError(
            f"recovery diverged: at step {step + 1} of {self.end.expected(step)} its numbers are "
            f"no longer finite. Lower its learning_rate, which is {self.settings.learning_rate:g}; "
            "without recovery (--recover none) nothing is trained."
        )

    def _log(self, step: int, losses: Losses) -> None:
        self._refuse_divergence(step, losses.values())
        sparsity = self.training.sparsity()
        values = {key: float(value) for key, value in losses.items()}
        self.history.append({"step": step, "sparsity": sparsity, **values})
        what = f"recovery: loss {values['loss']:.4f}, sparsity {sparsity:.1%}"
        self.watch.progress(what, step + 1, self.end.expected(step + 1))

    def _save(self, step: int) -> None:
        if self.keeper.path is None:
            return
        with self.end.timed("save"):
            self.keeper.save(
                {
                    "step": step,
                    "end": self.end.state(),
                    **self.training.state(),
                    "history": self.history,
                    "seconds": self.earlier_seconds + time.monotonic() - self.started,
                }
            )

    def _go_on(self, saved: dict[str, Any]) -> int:
        """Take over a saved state; returns the step to go on with."""
        self.training.restore(saved)
        self.history = saved["history"]
        step = int(saved["step"])
        self.earlier_seconds = float(saved.get("seconds", 0.0))
        total = saved["end"].get("schedule", {}).get("end", self.plan.steps)
        where = "was finished before" if step == total else f"goes on at step {step}"
        self.watch.note(f"recovery: {where}")
        self.watch.progress(f"recovery: {where}", step, max(step, self.plan.steps))
        return step


def _check_every(exam: Exam | None, steps: int, batch: int) -> int:
    """Steps between two checks; 0 where nothing is held out, or `steps` are too few for any."""
    if exam is None or steps < CHECKED_STEPS:
        return 0
    return CHECK_EVERY * max(1, len(exam.numbers) // batch // CHECK_BATCHES)
