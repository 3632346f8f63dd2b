"""Which windows of text each step sees: a function of (seed, step), so that a run can go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.errors import BadInputError

Tokens = NDArray[np.integer[Any]]
"""Token ids (n,), any integer type; np.load(..., mmap_mode="r") will do."""


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
        places = np.arange(step * batch, (step + 1) * batch)
        epochs = {int(epoch): self._shuffled(int(epoch)) for epoch in set(places // self.count)}
        return np.array([epochs[int(at // self.count)][at % self.count] for at in places])

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def windows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens (len(numbers), length)."""
        spare = len(self.tokens) - self.count * self.length
        phase = int(np.random.default_rng(self.seed).integers(spare + 1))
        starts = phase + self.length * numbers
        return np.asarray(self.tokens[starts[:, None] + np.arange(self.length)], np.int64)
