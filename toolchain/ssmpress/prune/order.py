"""Which windows or samples each step sees: a function of (seed, step), so that a run can go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.errors import BadInputError
from ssmpress.tasks.task import Samples

Tokens = NDArray[np.integer[Any]]
"""Token ids (n,), any integer type; np.load(..., mmap_mode="r") will do."""

BUCKET_BATCHES = 32
"""Batches whose texts are sorted by length together: little padding, and still a random order."""


@dataclass(frozen=True)
class WindowOrder:
    """Windows that do not overlap, each used once per epoch, shuffled anew every epoch.

    Args:
        tokens: the text. length: tokens per window. seed: of the phase and the order.
    """

    tokens: Tokens
    length: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.tokens) < self.length:
            raise BadInputError(
                f"the calibration text has {len(self.tokens):,} tokens, one window needs "
                f"{self.length:,}. Give a longer text (--calibration)."
            )

    @property
    def count(self) -> int:
        """Windows in one epoch."""
        return len(self.tokens) // self.length

    def numbers(self, step: int, batch: int) -> NDArray[np.int64]:
        """Numbers (batch,) of the windows of a step, each 0 .. count - 1."""
        return _numbers(step, batch, self.count, self._shuffled)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def windows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens (len(numbers), length)."""
        spare = len(self.tokens) - self.count * self.length
        phase = int(np.random.default_rng(self.seed).integers(spare + 1))
        starts = phase + self.length * numbers
        return np.asarray(self.tokens[starts[:, None] + np.arange(self.length)], np.int64)


@dataclass(frozen=True)
class SampleOrder:
    """Samples of a task, each used once per epoch, shuffled anew every epoch.

    Texts of one batch are of about the same length: within `BUCKET_BATCHES` batches they are sorted
    by length, and the batches then take turns at random.

    Args:
        samples: what is drawn from. batch: samples per step. seed: of the order.
    """

    samples: Samples
    batch: int
    seed: int
    _epochs: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """Samples in one epoch."""
        return self.samples.count

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Numbers (batch,) of the samples of a step, each 0 .. count - 1."""
        return _numbers(step, self.batch, self.count, self._shuffled)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            self._epochs.clear()
            random = np.random.default_rng([self.seed, epoch])
            order = random.permutation(self.count)
            lengths = self.samples.lengths
            alike = int(lengths.min()) == int(lengths.max())
            self._epochs[epoch] = order if alike else _bucketed(order, lengths, self.batch, random)
        return self._epochs[epoch]


@dataclass(frozen=True)
class BatchOrder:
    """Batches that are given as such, each used once per epoch, shuffled anew every epoch.

    Args:
        count: batches in one epoch. batch: of them per step. seed: of the order.
    """

    count: int
    batch: int
    seed: int

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Numbers (batch,) of the batches of a step, each 0 .. count - 1."""
        return _numbers(step, self.batch, self.count, self._shuffled)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)


def _numbers(
    step: int, batch: int, count: int, shuffled: Callable[[int], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """The step's part of one epoch's order after another, each of `count` numbers."""
    places = np.arange(step * batch, (step + 1) * batch)
    epochs = {int(epoch): shuffled(int(epoch)) for epoch in set(places // count)}
    return np.array([epochs[int(at // count)][at % count] for at in places])


def _bucketed(
    order: NDArray[np.int64], lengths: NDArray[np.int64], batch: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """The same numbers; each full batch of them has texts of about the same length."""
    parts = []
    for start in range(0, len(order), BUCKET_BATCHES * batch):
        bucket = order[start : start + BUCKET_BATCHES * batch]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        full = len(bucket) // batch * batch
        batches = bucket[:full].reshape(-1, batch)
        parts += [batches[random.permutation(len(batches))].reshape(-1), bucket[full:]]
    return np.concatenate(parts)
