"""Calibration data in two parts that have nothing in common: to train on, and to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Training_co = TypeVar("Training_co", covariant=True)
Held_co = TypeVar("Held_co", covariant=True)

PART = 8
"""At most one sample in so many is held out."""

MIN_WINDOWS, MIN_SAMPLES = 4, 16
"""Windows of text, or a task's samples, below which nothing is held out: too few to judge by."""


@dataclass(frozen=True)
class Split(Generic[Training_co, Held_co]):
    """Calibration data in two parts.

    training: what masks and steps see. held_out: windows int64 (n, l) of a text, or samples.
    numbers: int64 (n,), which of them are judged by. independent: of how many samples the spread
    is that of a mean; windows of a series overlap.
    """

    training: Training_co
    held_out: Held_co
    numbers: NDArray[np.int64]
    independent: float


def hold_out_windows(
    text: NDArray[np.integer[Any]], count: int, window: int
) -> Split[NDArray[np.integer[Any]], NDArray[np.int64]] | None:
    """Windows that are spread evenly over a text, and the text without them.

    Args:
        text: int (n,). count: of windows, fewer where `PART` allows no more. window: tokens.

    Returns:
        None where the text is too short.
    """
    count = min(count, len(text) // (PART * window))
    if count < MIN_WINDOWS:
        return None
    starts = ((np.arange(count) + 0.5) * len(text) / count).astype(np.int64) - window // 2
    ends = [0, *(starts + window)]
    rest = [text[a:b] for a, b in zip(ends, [*starts, len(text)], strict=True)]
    held = np.asarray(text[starts[:, None] + np.arange(window)], np.int64)
    return Split(np.concatenate(rest), held, np.arange(count), count)
