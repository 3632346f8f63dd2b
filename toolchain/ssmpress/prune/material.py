"""What a model is pruned and recovered on: the Protocol of the classes in materials/.

A material is data, and how a model is scored, taught and examined by it. All that a run knows of
its data it asks here:

    material.calibration -> batches whose gradients and inputs score the weights
    material.hold_out    -> the material that is trained on, and an exam on the rest
    material.lessons     -> which samples each step sees, and a student's losses on them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.callbacks import Progress
from ssmpress.prune.distill import Teacher
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.tasks.task import Metric

Student = Any
"""A model as the material takes it: a `Mamba`, or a network of one's own around its module."""

Losses = dict[str, Tensor]
"""`loss`, which has a gradient, and its parts, the same ones in every lesson: scalars."""

Lesson = Callable[[Student], Losses]
"""A micro-batch on the device, with what the dense model says about it: a student's losses."""


@dataclass(frozen=True)
class CalibrationBatch:
    """A batch that scores weights.

    inputs: as `Backbone.embed` takes them, as far as nothing is padded; None where the model is no
        `Mamba`.
    loss: of a model on the batch, a scalar; its gradients say which weights matter.
    """

    inputs: Tensor | None
    loss: Callable[[Student], Tensor]


@dataclass(frozen=True)
class Course:
    """How a run learns.

    batch: samples per step. window: steps of a sample, where the data is not cut already.
    seed: of their order, and of noise. settings: the loss and its weights.
    teacher: the dense model, on `device`.
    """

    batch: int
    window: int
    seed: int
    settings: RecoverSettings
    teacher: Teacher
    device: torch.device


class Lessons(Protocol):
    """What each step sees: a function of the course and the step, so that a run can go on."""

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Numbers of the samples of a step, int64 (batch,); parts of them make a lesson each."""

    def lesson(self, numbers: NDArray[np.int64], place: tuple[int, int]) -> Lesson:
        """The samples with these numbers, and what the dense model says about them.

        Args:
            place: the step, and the number of the micro-batch within it: the seed of any noise.
        """

    def remember(self, steps: int, progress: Progress) -> None:
        """Let the teacher say everything once, before the first of `steps` steps, if it pays."""


class Exam(Protocol):
    """Held-out samples, which no mask and no step sees.

    metric: what their scores are those of.
    numbers: int64 (n,), which of the samples are judged by.
    independent: of how many samples the spread is that of a mean.
    """

    @property
    def metric(self) -> Metric: ...

    @property
    def numbers(self) -> NDArray[np.int64]: ...

    @property
    def independent(self) -> float: ...

    def scores(self, model: Student, numbers: NDArray[np.int64]) -> Tensor:
        """The metric of each of the samples with these numbers, float (b,), without gradients."""


class Material(Protocol):
    """Data, and how a model learns from it."""

    def shape(self, settings: RecoverSettings, cuda: bool) -> tuple[int, int]:
        """Samples per step, and the mean number of steps (tokens, time steps) of a sample: those of
        the settings, or the usual ones of a GPU or a CPU."""

    def pieces(self) -> Iterator[bytes | memoryview]:
        """What makes it different from others: for fingerprints."""

    def calibration(
        self, prune: PruneSettings, seed: int, device: torch.device
    ) -> list[CalibrationBatch]:
        """`prune.calibration_batches` batches on the device, the same ones for the same seed.

        Raises:
            BadInputError: there is too little data for one.
        """

    def hold_out(self, batch: int, window: int, seed: int) -> tuple[Material, Exam] | None:
        """Some of it set aside, the same for the same seed; None where there is too little.

        Args:
            batch, window: of `shape`.

        Returns:
            What is left to learn from, and the exam: they have nothing in common.
        """

    def lessons(self, course: Course) -> Lessons:
        """What the steps of a run see.

        Raises:
            BadInputError: there is too little data for one sample.
        """
