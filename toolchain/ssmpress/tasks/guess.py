"""What can be had without a model: a dense model that is no better knows nothing of the data.

Each guess is judged on the same samples as the model and comes as the quality of one, by what it
is, as a sentence names it. NumPy only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.data.series import SeriesWindows
from ssmpress.results.quality import LanguageModelQuality, TaskQuality

_BATCH = 64  # windows of a series at a time


def text_guesses(
    calibration: NDArray[np.integer[Any]], windows: NDArray[np.integer[Any]], vocab_size: int
) -> dict[str, LanguageModelQuality]:
    """Every token drawn by lot, and by its frequency in the calibration text.

        p(token) = (count + 1) / (tokens + vocab_size)

    Args:
        calibration: int (n,). windows: int (count, w), of the evaluation.
    """
    counts = np.bincount(calibration, minlength=vocab_size) + 1.0
    frequencies = -np.log(counts / counts.sum())
    return {
        "tokens drawn by lot": _text_quality(np.full(vocab_size, math.log(vocab_size)), windows),
        "tokens drawn by their frequency in the calibration text": _text_quality(
            frequencies, windows
        ),
    }


def _text_quality(
    nll: NDArray[np.float64], windows: NDArray[np.integer[Any]]
) -> LanguageModelQuality:
    """nll: of each token of the vocabulary, nats."""
    sums = nll[windows[:, 1:]].sum(axis=1)
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    total = float(sums.sum())
    return LanguageModelQuality(
        math.exp(total / tokens), total, tokens, windows.shape[1], tuple(sums.tolist())
    )


def class_guess(labels: NDArray[np.integer[Any]], longest: int) -> dict[str, TaskQuality]:
    """The most frequent class of the evaluation every time.

    Args:
        labels: int (count,). longest: tokens of the longest text.
    """
    right = (labels == np.bincount(labels).argmax()).astype(float)
    quality = TaskQuality(float(right.mean()), tuple(right.tolist()), longest, len(right))
    return {"the most frequent class every time": quality}


def series_guesses(windows: SeriesWindows) -> dict[str, TaskQuality]:
    """The mean of the training data, which is 0 once z-scored, and the last value again."""
    squared: dict[str, list[float]] = {
        "the mean of the training data": [],
        "the last value, repeated": [],
    }
    for begin in range(0, windows.count, _BATCH):
        numbers = np.arange(begin, min(begin + _BATCH, windows.count))
        inputs, targets, _ = windows.arrays(numbers)
        last = inputs[:, -1:].astype(np.float64)
        for scores, forecast in zip(squared.values(), (0 * last, last), strict=True):
            scores += ((forecast - targets) ** 2).mean(axis=(1, 2)).tolist()
    predictions = windows.count * windows.horizon * windows.values.shape[1]
    return {
        name: TaskQuality(float(np.mean(scores)), tuple(scores), windows.lookback, predictions)
        for name, scores in squared.items()
    }
