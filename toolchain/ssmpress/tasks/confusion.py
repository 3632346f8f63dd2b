"""What a classifier answered, class by class. NumPy only: the same code runs on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CLASSES = 64
"""Classes up to which every pair is counted: a thousand would make a million numbers."""


def answers(
    labels: NDArray[np.integer[Any]], chosen: Sequence[int], classes: int
) -> dict[str, Any]:
    """How often each class was answered, and how often rightly.

    Args:
        labels: int (count,), the true classes. chosen: the answered ones, -1 where there is none,
            since a logit is not finite.

    Returns:
        predicted, right: a count per class. confusion: texts by true class (rows) and answer
        (columns), None beyond MOST_CLASSES.
    """
    answered = np.asarray(chosen, np.int64)
    known = answered >= 0
    predicted = np.bincount(answered[known], minlength=classes)
    right = np.bincount(labels[labels == answered], minlength=classes)
    table = None
    if classes <= MOST_CLASSES:
        pairs = labels[known] * classes + answered[known]
        table = np.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist()
    return {"predicted": predicted.tolist(), "right": right.tolist(), "confusion": table}


def class_metrics(
    texts: Sequence[int], predicted: Sequence[int], right: Sequence[int]
) -> dict[str, float]:
    """Metrics in which every class counts the same, however many texts it has.

        balanced accuracy = mean of right / texts, over the classes that have texts
        F1 (macro) = mean of 2 right / (texts + predicted), over those that have texts or answers

    Args:
        texts, predicted, right: counts per class.
    """
    n, answered, hits = (np.asarray(counts, np.float64) for counts in (texts, predicted, right))
    there, either = n > 0, n + answered > 0
    return {
        "balanced_accuracy": float((hits[there] / n[there]).mean()),
        "f1_macro": float((2 * hits[either] / (n + answered)[either]).mean()),
    }
