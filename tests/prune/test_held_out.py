"""Held-out calibration data shares nothing with what is trained on, and judges as the gate does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_checkpoint, small_config
from ssmpress.blocks.model import Mamba
from ssmpress.data.held_out import MIN_SAMPLES, MIN_WINDOWS, PART, hold_out_windows
from ssmpress.data.labelled import LabelledTexts
from ssmpress.data.series import SeriesWindows
from ssmpress.measure.metrics import retention
from ssmpress.prune.held_out import HeldOut, quality_kept
from ssmpress.prune.materials.text import WindowExam
from ssmpress.results.quality import LanguageModelQuality, TaskQuality
from ssmpress.tasks import Classification, Forecasting, LanguageModel, Task


@given(n=st.integers(0, 3000), count=st.integers(1, 40), window=st.integers(1, 40))
def test_every_token_is_trained_on_or_held_out(n: int, count: int, window: int) -> None:
    split = hold_out_windows(np.arange(n, dtype=np.int32), count, window)
    most = n // (PART * window)
    if min(count, most) < MIN_WINDOWS:
        assert split is None
        return
    assert split is not None
    assert split.held_out.shape == (min(count, most), window)
    assert (np.diff(split.held_out, axis=1) == 1).all(), "a window is one piece of the text"
    assert sorted([*split.training, *split.held_out.flatten()]) == list(range(n))
    gaps = np.diff(split.held_out[:, 0])
    assert gaps.max() - gaps.min() <= 1, "evenly over the text"


@given(
    lengths=st.lists(st.integers(1, 5), max_size=200),
    count=st.integers(1, 30),
    seed=st.integers(0, 9),
)
def test_every_text_is_trained_on_or_held_out(lengths: list[int], count: int, seed: int) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    texts = LabelledTexts(
        np.repeat(np.arange(len(lengths)), lengths), starts, np.arange(len(lengths))
    )
    split = texts.hold_out(count, seed)
    expected = min(count, len(lengths) // PART)
    if expected < MIN_SAMPLES:
        assert split is None
        return
    assert split is not None
    assert split.held_out.count == expected
    assert sorted([*split.training.labels, *split.held_out.labels]) == list(range(len(lengths)))
    for part in (split.training, split.held_out):
        for i, label in enumerate(part.labels):
            assert part.text(i).tolist() == texts.text(label).tolist()


@given(
    steps=st.integers(1, 600),
    lookback=st.integers(1, 20),
    horizon=st.integers(1, 20),
    count=st.integers(1, 50),
)
def test_windows_of_a_series_share_no_time_step(
    steps: int, lookback: int, horizon: int, count: int
) -> None:
    steps = max(steps, lookback + horizon)
    values = np.arange(steps, dtype=np.float32)[:, None]
    split = SeriesWindows(values, lookback, horizon).hold_out(count, seed=0)
    room = steps // PART - lookback - horizon + 1
    assert (split is None) == (room < MIN_SAMPLES)
    if split is not None:
        trained, held = (
            np.concatenate([part.ravel() for part in data.arrays(numbers)[:2]])
            for data, numbers in (
                (split.training, np.arange(split.training.count)),
                (split.held_out, split.numbers),
            )
        )
        assert trained.max() < held.min()
        assert len(split.numbers) <= count
        assert split.independent <= len(split.numbers)


TASKS = (
    LanguageModel(),
    Classification(classes=("a", "b"), max_length=9),
    Forecasting(lookback=4, horizon=2, variates=("a",), mean=(0.0,), std=(1.0,), patch=2, stride=2),
)

scores = st.lists(st.floats(0.01, 9), min_size=6, max_size=6).map(np.array)


@given(dense=scores, pruned=scores)
def test_kept_is_the_retention_of_the_gate(dense: np.ndarray, pruned: np.ndarray) -> None:
    def text(nll: np.ndarray) -> LanguageModelQuality:
        total = float(nll.sum())
        return LanguageModelQuality(np.exp(total / 6), total, 6, 2, tuple(nll))

    def task(values: np.ndarray) -> TaskQuality:
        return TaskQuality(float(values.mean()), tuple(values), 1, 6)

    right = (dense > 4).astype(float), (pruned > 4).astype(float)
    language_model, classification, forecasting = TASKS
    accuracy = right[1].sum() / right[0].sum() if right[0].any() else 1.0
    for each, expected, given_scores in (
        (language_model, retention(text(dense), text(pruned)), (dense, pruned)),
        (
            forecasting,
            retention(task(dense), task(pruned), forecasting.metric),
            (dense, pruned),
        ),
        (classification, accuracy, right),
    ):
        kept, low = quality_kept(*given_scores, each.metric, independent=6)
        assert kept == pytest.approx(expected, rel=1e-9)
        assert low <= kept


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_the_lower_end_is_seldom_above_the_truth(task: Task) -> None:
    """Samples of models whose true retention is known."""
    random = np.random.default_rng(0)
    truth, above = 0.9, 0
    for _ in range(2000):
        if isinstance(task, Classification):
            dense = (random.random(64) < 0.8).astype(float)
            pruned = np.where(dense > 0, random.random(64) < 0.9, 0.0)
        elif isinstance(task, Forecasting):
            dense = random.gamma(4, 1, 64)
            pruned = dense / 0.9 * random.uniform(0.8, 1.2, 64)
        else:
            dense = random.normal(3, 1, 64)
            pruned = dense - np.log(truth) + random.normal(0, 0.1, 64)
        above += quality_kept(dense, pruned, task.metric, independent=64)[1] > truth
    assert above <= 0.05 * 2000


def test_a_model_that_diverged_keeps_nothing() -> None:
    dense = np.ones(4)
    for task in TASKS:
        assert quality_kept(dense, np.array([1, 2, np.nan, 1]), task.metric, independent=4) == (
            0,
            0,
        )


def test_the_dense_model_keeps_everything() -> None:
    model = Mamba.from_checkpoint(random_checkpoint(small_config()))
    tokens = np.random.default_rng(0).integers(0, 61, 2000)
    split = hold_out_windows(tokens, 10, 16)
    assert split is not None
    for batch in (3, 10):
        check = HeldOut(WindowExam(split), model, batch).check(model, step=7)
        assert (check.step, check.kept, check.low) == (7, 1.0, 1.0)
