"""What guessing gives, beside the same computed by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmpress.data.series import SeriesWindows
from ssmpress.tasks.confusion import MOST_CLASSES, answers, class_metrics
from ssmpress.tasks.guess import class_guess, series_guesses, text_guesses

VOCAB = 7
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=30)


@given(TOKENS, st.integers(1, 5), st.integers(2, 6))
def test_guessing_a_text(calibration: list[int], count: int, width: int) -> None:
    windows = np.random.default_rng(count * width).integers(0, VOCAB, (count, width))
    lot, frequency = text_guesses(np.array(calibration), windows, VOCAB).values()
    targets = [token for row in windows.tolist() for token in row[1:]]
    counts = Counter(calibration)
    chances = [(counts[token] + 1) / (len(calibration) + VOCAB) for token in targets]
    assert lot.perplexity == pytest.approx(VOCAB)
    assert frequency.perplexity == pytest.approx(math.prod(chances) ** (-1 / len(chances)))
    for guess in (lot, frequency):
        assert (guess.tokens, guess.window) == (len(targets), width)
        assert len(guess.window_nll) == count
        assert math.fsum(guess.window_nll) == pytest.approx(guess.nll)


def test_guessing_a_class_and_a_series() -> None:
    (frequent,) = class_guess(np.array([2, 0, 2, 1]), 9).values()
    assert (frequent.value, frequent.scores) == (0.5, (1.0, 0.0, 1.0, 0.0))
    values = np.array([[1.0], [2.0], [4.0], [3.0], [5.0]], np.float32)
    mean, last = series_guesses(SeriesWindows(values, lookback=2, horizon=2)).values()
    assert mean.scores == pytest.approx([(4**2 + 3**2) / 2, (3**2 + 5**2) / 2])
    assert last.scores == pytest.approx([(2**2 + 1**2) / 2, (1**2 + 1**2) / 2])
    assert (last.value, last.length, last.predictions) == (pytest.approx(1.75), 2, 4)


@given(
    st.integers(2, 5).flatmap(
        lambda k: st.tuples(
            st.just(k),
            st.lists(
                st.tuples(st.integers(0, k - 1), st.integers(-1, k - 1)), min_size=1, max_size=40
            ),
        )
    )
)
def test_answers_by_class(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    """Metrics as their definitions have them, class by class; -1 is no answer."""
    classes, pairs = drawn
    found = answers(np.array([t for t, _ in pairs]), [a for _, a in pairs], classes)
    texts = [sum(t == c for t, _ in pairs) for c in range(classes)]
    assert found["predicted"] == [sum(a == c for _, a in pairs) for c in range(classes)]
    assert found["right"] == [sum(t == a == c for t, a in pairs) for c in range(classes)]
    assert found["confusion"] == [
        [pairs.count((true, answer)) for answer in range(classes)] for true in range(classes)
    ]
    recalls, f1 = [], []
    for true, said, right in zip(texts, found["predicted"], found["right"], strict=True):
        if true:
            recalls.append(right / true)
        if true + said:
            precision, recall = right / said if said else 0, right / true if true else 0
            both = precision + recall
            f1.append(2 * precision * recall / both if both else 0)
    metrics = class_metrics(texts, found["predicted"], found["right"])
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert metrics["f1_macro"] == pytest.approx(np.mean(f1))


def test_many_classes_have_counts_but_no_matrix() -> None:
    labels = np.arange(MOST_CLASSES + 1)
    found = answers(labels, labels.tolist(), MOST_CLASSES + 1)
    assert found["confusion"] is None
    assert sum(found["right"]) == MOST_CLASSES + 1
