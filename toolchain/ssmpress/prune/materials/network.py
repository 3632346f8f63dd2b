"""The user's batches that a network of one's own learns from, by the user's loss and metric.

    L = w D(teacher, student) + (1 - w) T(target, student)

T is the user's loss, D the user's `distill` or the distance of the outputs. A batch is what the
user made of it: it is never cut or joined, so that a step takes one or several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssmpress.callbacks import Progress
from ssmpress.data.held_out import PART
from ssmpress.errors import UsageError
from ssmpress.prune.material import CalibrationBatch, Course, Lesson, Losses
from ssmpress.prune.materials.nested import on_device
from ssmpress.prune.order import BatchOrder
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.tasks.network_data import NetworkData
from ssmpress.tasks.task import Metric

_GPU_SAMPLES, _CPU_SAMPLES = 64, 8
"""Samples of a step, of as many batches as come nearest."""

HELD_OUT_STEPS = 8
"""Held-out batches, in those of a step."""

MIN_BATCHES = 4
"""Held-out batches below which nothing is held out: too few to judge by."""


class Taught(Protocol):
    """A network of one's own: `nets.module.NetworkModule`."""

    @property
    def module(self) -> nn.Module:
        """The user's module, in eval mode."""

    def learning(self, seed: int) -> AbstractContextManager[None]:
        """Train mode for dropout and its like; the same noise for the same seed."""


@dataclass(frozen=True)
class NetworkMaterial:
    """data: calibration, and the user's functions. metric: what the user's metric is called."""

    data: NetworkData
    metric: Metric

    def shape(self, settings: RecoverSettings, cuda: bool) -> tuple[int, int]:
        """Batches per step, and the mean number of samples of a batch."""
        samples = float(np.mean(self.data.sizes))
        wanted = settings.batch or (_GPU_SAMPLES if cuda else _CPU_SAMPLES)
        batches = round(wanted / max(1.0, samples))
        return min(max(1, batches), self.data.count), max(1, round(samples))

    def pieces(self) -> Iterator[bytes]:
        """The digest of the batches."""
        yield self.data.digest()

    def calibration(
        self, prune: PruneSettings, seed: int, device: torch.device
    ) -> list[CalibrationBatch]:
        """As many of the user's batches as there are to be, each once."""
        count = min(prune.calibration_batches, self.data.count)
        numbers = BatchOrder(self.data.count, count, seed).numbers(0)
        batches = [_loaded(self.data, int(number), device) for number in numbers]
        return [CalibrationBatch(None, partial(_loss, self.data, *batch)) for batch in batches]

    def hold_out(
        self, batch: int, window: int, seed: int
    ) -> tuple[NetworkMaterial, NetworkExam] | None:
        """Batches by lot."""
        count = min(batch * HELD_OUT_STEPS, self.data.count // PART)
        if count < MIN_BATCHES:
            return None
        order = np.random.default_rng(seed).permutation(self.data.count)
        held, rest = (self.data.some(sorted(map(int, p))) for p in np.split(order, [count]))
        return NetworkMaterial(rest, self.metric), NetworkExam(held, self.metric)

    def lessons(self, course: Course) -> NetworkLessons:
        """Batches, in an order by lot.

        Raises:
            UsageError: a setting that only Mamba checkpoints have a meaning for.
        """
        settings = course.settings
        for name in ("activation_checkpointing", "match_hidden"):
            if getattr(settings, name):
                raise UsageError(
                    f"{name}: expected none for a network of your own, whose layers and hidden "
                    f"states are not known; got {getattr(settings, name)}. Leave it out."
                )
        return NetworkLessons(self.data, course)


class NetworkLessons:
    """The user's batches, each once per epoch, and L."""

    def __init__(self, data: NetworkData, course: Course) -> None:
        self._data, self._course = data, course
        self._order = BatchOrder(data.count, course.batch, course.seed)

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Numbers of the batches of a step."""
        return self._order.numbers(step)

    def lesson(self, numbers: NDArray[np.int64], place: tuple[int, int]) -> Lesson:
        """Batches, and what the dense network makes of them, in eval mode."""
        course = self._course
        seeds = np.random.SeedSequence([course.seed, *place]).generate_state(len(numbers))
        parts = []
        for number, seed in zip(numbers, seeds, strict=True):
            inputs, target = _loaded(self._data, int(number), course.device)
            taught = None
            if course.settings.distill:
                with torch.no_grad(), _float32(course.device):
                    taught = self._data.call(course.teacher.model.module, inputs)
            parts.append((int(seed), inputs, target, taught))
        return partial(self._losses, parts)

    def _losses(self, parts: list[tuple[int, Any, Any, Any]], model: Taught) -> Losses:
        """Means over the batches of L, its D and its T; T alone without a teacher."""
        weight, terms = self._course.settings.distill, list[Losses]()
        for seed, inputs, target, taught in parts:
            with _float32(self._course.device):
                with model.learning(seed):
                    outputs = self._data.call(model.module, inputs)
                own = self._data.loss(outputs, target)
                if taught is None:
                    terms.append({"loss": own, "target": own})
                    continue
                distance = self._data.distance(outputs, taught)
            loss = weight * distance + (1 - weight) * own
            terms.append({"loss": loss, "teacher": distance, "target": own})
        return {key: torch.stack([one[key] for one in terms]).mean() for key in terms[0]}

    def remember(self, steps: int, progress: Progress) -> None:
        """Remember nothing: outputs may be as large as inputs."""


@dataclass(frozen=True)
class NetworkExam:
    """Held-out batches, scored by the user's metric."""

    data: NetworkData
    metric: Metric

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of all batches."""
        return np.arange(self.data.count)

    @property
    def independent(self) -> float:
        """All of them, as far as is known."""
        return self.data.count

    def scores(self, model: Taught, numbers: NDArray[np.int64]) -> Tensor:
        """The metric of each batch. It is computed on the CPU, where it may use NumPy."""
        device = next(model.module.parameters()).device
        scores = []
        for number in numbers:
            inputs, _ = _loaded(self.data, int(number), device)
            with _float32(device):
                outputs = on_device(self.data.call(model.module, inputs), torch.device("cpu"))
            scores.append(self.data.metric(outputs, self.data.batch(int(number))[1]))
        return torch.tensor(scores, dtype=torch.float64)


def _loss(data: NetworkData, inputs: Mapping[str, Tensor], target: Any, model: Taught) -> Tensor:
    """T without noise: the loss whose gradients say which weights matter."""
    with torch.backends.cudnn.flags(enabled=False):  # its LSTM has no gradients in eval mode
        return data.loss(data.call(model.module, inputs), target)


def _loaded(data: NetworkData, number: int, device: torch.device) -> tuple[dict[str, Tensor], Any]:
    inputs, target = data.batch(number)
    return on_device(inputs, device), on_device(target, device)


def _float32(device: torch.device) -> torch.autocast:
    """No bfloat16: a spectrum, or a loss of probabilities, of the user's own may not take it."""
    return torch.autocast(device.type, enabled=False)
