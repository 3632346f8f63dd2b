"""Samples of a task that a model learns from: whole texts with a class, windows of a series, ..."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.blocks.model import Mamba
from ssmpress.callbacks import Progress
from ssmpress.data.held_out import Split
from ssmpress.prune.batches import Batch, autocast, load_batch, noisy, predict, task_loss
from ssmpress.prune.material import CalibrationBatch, Course, Lesson, Losses
from ssmpress.prune.order import SampleOrder
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.tasks.task import Metric, Samples, SampleTask

_BATCH, _LONG_BATCH = 64, 16
"""Samples of a step; on a CPU of samples that are long."""

HELD_OUT_STEPS = 8
"""Held-out samples, in batches of a step: checked every 32 steps they take 6 % more time."""


@dataclass(frozen=True)
class SampleMaterial:
    """The task has the losses and the metric of its samples."""

    task: SampleTask
    samples: Samples

    def shape(self, settings: RecoverSettings, cuda: bool) -> tuple[int, int]:
        """Samples per step, and the mean length of all."""
        usual = _LONG_BATCH if self.task.long_samples and not cuda else _BATCH
        batch = min(settings.batch or usual, self.samples.count)
        return batch, round(float(self.samples.lengths.mean()))

    def pieces(self) -> Iterator[bytes]:
        """The digest of the samples."""
        yield self.samples.digest()

    def calibration(
        self, prune: PruneSettings, seed: int, device: torch.device
    ) -> list[CalibrationBatch]:
        """Samples in the order of a run."""
        order = SampleOrder(self.samples, min(prune.calibration_batch, self.samples.count), seed)
        batches = (
            load_batch(self.samples, order.numbers(i), device)
            for i in range(prune.calibration_batches)
        )
        return [CalibrationBatch(batch.first(), partial(task_loss, batch)) for batch in batches]

    def hold_out(
        self, batch: int, window: int, seed: int
    ) -> tuple[SampleMaterial, SampleExam] | None:
        """Hold out a part, as the samples themselves are divided."""
        split = self.samples.hold_out(batch * HELD_OUT_STEPS, seed)
        if split is None:
            return None
        return SampleMaterial(self.task, split.training), SampleExam(self.task, split)

    def lessons(self, course: Course) -> SampleLessons:
        """Batches of samples, in an order by lot."""
        return SampleLessons(self.task, self.samples, course)


class SampleLessons:
    """Samples with noise, each once per epoch, and L of `tasks.task.SampleTask`."""

    def __init__(self, task: SampleTask, samples: Samples, course: Course) -> None:
        self._task, self._course = task, course
        self._order = SampleOrder(samples, course.batch, course.seed)

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Numbers of the samples of a step."""
        return self._order.numbers(step)

    def lesson(self, numbers: NDArray[np.int64], place: tuple[int, int]) -> Lesson:
        """Samples, and what the dense model predicts for the same with the same noise."""
        course, dense = self._course, self._course.teacher.model
        batch = load_batch(self._order.samples, numbers, course.device)
        seed = int(np.random.SeedSequence([course.seed, *place]).generate_state(1)[0])
        batch = noisy(batch, course.settings.token_noise, dense.config.vocab_size, seed)
        taught = None
        if course.settings.distill:
            with autocast(course.device), torch.no_grad():
                taught = predict(dense, batch)
        return partial(self._losses, batch, taught)

    def _losses(self, batch: Batch, teacher: Tensor | None, model: Mamba) -> Losses:
        """L, its D and its T; T alone without a teacher."""
        s, task, weight = self._course.settings, self._task, self._course.settings.distill
        outputs = predict(model, batch, s.activation_checkpointing, s.deterministic)
        own = task.target_loss(outputs, batch.targets)
        if teacher is None:
            return {"loss": own, "target": own}
        taught = task.teacher_loss(outputs, teacher)
        return {"loss": weight * taught + (1 - weight) * own, "teacher": taught, "target": own}

    def remember(self, steps: int, progress: Progress) -> None:
        """Remember nothing: the teacher sees other noise each time."""


@dataclass(frozen=True)
class SampleExam:
    """Held-out samples, scored by their task."""

    task: SampleTask
    split: Split[Samples, Samples]

    @property
    def metric(self) -> Metric:
        """The task's metric."""
        return self.task.metric

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the samples judged, as they were divided."""
        return self.split.numbers

    @property
    def independent(self) -> float:
        """Fewer than there are where they overlap."""
        return self.split.independent

    def scores(self, model: Mamba, numbers: NDArray[np.int64]) -> Tensor:
        """The metric of each."""
        batch = load_batch(self.split.held_out, numbers, next(model.parameters()).device)
        return self.task.scores(predict(model, batch), batch.targets)
