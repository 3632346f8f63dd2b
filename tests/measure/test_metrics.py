"""Metrics against their definitions in float64, and against planted damage."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import toy_onnx
from example_report import quality_of
from ssmpress.errors import BadInputError, UsageError
from ssmpress.measure.metrics import (
    PARITY_FLOOR,
    parity,
    percentiles,
    retention,
    retention_interval,
)
from ssmpress.results.quality import LanguageModelQuality
from ssmpress.runtime.loading import open_session
from ssmpress.tasks.perplexity import perplexity, token_nll

NLL_TOLERANCE = 1e-6
"""Relative to the largest logit: float32 differences and exponentials, summed in float64."""

WINDOW_TOLERANCE = 1e-5
"""Relative, of a perplexity of the toy: float32 sums of 30 terms through two layers."""


def log_softmax(x: NDArray[Any]) -> NDArray[np.float64]:
    x = x.astype(np.longdouble)
    top = x.max(axis=-1, keepdims=True)
    return np.asarray(x - top - np.log(np.exp(x - top).sum(-1, keepdims=True)), np.float64)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_token_nll_is_the_definition_at_every_scale(scale: float, rows: int) -> None:
    random = np.random.default_rng(rows)
    logits = (scale * random.normal(size=(2, rows, 37))).astype(np.float32)
    targets = random.integers(37, size=(2, rows))
    before = logits.copy()
    nll = token_nll(logits, targets)
    wanted = -np.take_along_axis(log_softmax(logits), targets[..., None], -1)[..., 0]
    assert nll.shape == (2, rows)
    assert nll.dtype == np.float64
    assert np.abs(nll - wanted).max() <= NLL_TOLERANCE * max(float(np.abs(logits).max()), 1)
    assert np.array_equal(logits, before)


def test_token_nll_is_zero_for_certainty_and_shift_invariant() -> None:
    logits = np.array([[[0, 500, 0]]], np.float32)
    assert token_nll(logits, np.array([[1]]))[0, 0] == 0
    assert token_nll(logits + 1000, np.array([[0]]))[0, 0] == 500


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_token_nll_never_hides_what_is_not_finite(bad: float) -> None:
    logits = np.zeros((1, 2, 3), np.float32)
    logits[0, 1, 2] = bad
    nll = token_nll(logits, np.zeros((1, 2), np.int64))
    assert math.isfinite(nll[0, 0])
    assert not math.isfinite(nll[0, 1])


@pytest.mark.parametrize(
    ("shape", "targets", "message"),
    [
        ((1, 2, 3), [[0, 3]], "0 to 2; got 0 to 3"),
        ((1, 2, 3), [[-1, 0]], "another tokenizer"),
        ((2, 3), [[0, 1]], r"expected \(b, p, v\)"),
        ((1, 2, 3), [[0]], r"expected \(b, p, v\)"),
    ],
)
def test_token_nll_refuses(shape: tuple[int, ...], targets: list[list[int]], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        token_nll(np.zeros(shape, np.float32), np.array(targets))


def uniform(vocab: int) -> Any:
    def predict(tokens: NDArray[np.int64], state: Any) -> Any:
        return np.zeros((*tokens.shape, vocab), np.float32), state

    return predict


def test_a_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    quality = perplexity(uniform(50), np.zeros((3, 9), np.int32))
    assert quality.perplexity == pytest.approx(50)
    assert (quality.tokens, quality.window, len(quality.window_nll)) == (24, 9, 3)
    assert quality.nll == pytest.approx(24 * math.log(50))


@pytest.mark.parametrize(("batch", "chunk"), [(1, 256), (1, 1), (1, 7), (3, 7), (10, 1000)])
def test_perplexity_is_the_definition_however_it_is_cut(
    tmp_path: Path, batch: int, chunk: int
) -> None:
    """Five windows, each from the zero state, with the toy's float64 reference as the judge."""
    session = open_session(toy_onnx.toy_model(tmp_path / "m.onnx"), threads=1, library=None)
    windows = np.random.default_rng(5).integers(50, size=(5, 30)).astype(np.int32)
    seen: list[tuple[int, int]] = []
    quality = perplexity(
        session.predict, windows, batch=batch, chunk=chunk, progress=lambda *at: seen.append(at)
    )
    wanted = [
        -log_softmax(toy_onnx.reference(row))[np.arange(29), row[1:]].sum() for row in windows
    ]
    assert np.allclose(quality.window_nll, wanted, rtol=WINDOW_TOLERANCE)
    assert quality.perplexity == pytest.approx(math.exp(sum(wanted) / 145), rel=WINDOW_TOLERANCE)
    assert seen[-1] == (5, 5)


def test_a_lost_state_would_show(tmp_path: Path) -> None:
    session = open_session(toy_onnx.toy_model(tmp_path / "m.onnx"), threads=1, library=None)
    windows = np.random.default_rng(5).integers(50, size=(2, 30))
    right = perplexity(session.predict, windows, chunk=7)
    forgetful = perplexity(lambda tokens, _: session.predict(tokens), windows, chunk=7)
    assert abs(forgetful.perplexity / right.perplexity - 1) > 1000 * WINDOW_TOLERANCE


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits_give_no_number(bad: float) -> None:
    def predict(tokens: NDArray[np.int64], state: Any) -> Any:
        return np.full((*tokens.shape, 5), bad, np.float32), state

    assert not math.isfinite(perplexity(predict, np.zeros((2, 4), np.int32)).perplexity)


@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (5,), (1, 2, 3)])
def test_windows_that_predict_nothing_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInputError, match="longer evaluation text"):
        perplexity(uniform(5), np.zeros(shape, np.int32))


def test_batch_and_chunk_are_checked() -> None:
    with pytest.raises(UsageError, match="got 0 and 1"):
        perplexity(uniform(5), np.zeros((1, 5), np.int32), batch=0, chunk=1)


def test_retention_is_dense_over_compressed() -> None:
    assert retention(quality_of(30.0), quality_of(31.0)) == pytest.approx(30 / 31)
    with pytest.raises(BadInputError, match="same text"):
        retention(quality_of(30.0, windows=3), quality_of(31.0))
    assert math.isnan(retention(quality_of(30.0), quality_of(float("nan"))))


def test_retention_interval_covers_and_needs_windows() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        sums = [300 + random.normal(size=20) * 20 for _ in range(2)]
        sums[1] = sums[0] + 4 + random.normal(size=20) * 2  # the true retention is exp(-4/100)
        both = [_with_nll(s) for s in sums]
        interval = retention_interval(both[0], both[1], seed=trial)
        assert interval is not None
        assert interval.low <= retention(both[0], both[1]) <= interval.high
        covered += interval.low <= math.exp(-0.04) <= interval.high
    assert covered >= 85
    assert retention_interval(quality_of(30.0, 7), quality_of(31.0, 7)) is None
    broken = _with_nll(np.array([float("nan")] * 20))
    assert retention_interval(broken, broken) is None


def _with_nll(sums: NDArray[np.float64]) -> LanguageModelQuality:
    tokens = 100 * len(sums)
    mean = float(sums.sum()) / tokens
    return LanguageModelQuality(math.exp(mean), mean * tokens, tokens, 101, tuple(sums.tolist()))


def test_parity_reports_the_largest_and_names_the_first_bad() -> None:
    expected = {f"layer.{i}": np.array([1.0, -4.0, 2.0]) for i in range(4)}
    good = {name: array * (1 + 1e-6) for name, array in expected.items()}
    result = parity(expected, good)
    assert result.ok
    assert result.max_abs == pytest.approx(4e-6)
    assert result.max_rel == pytest.approx(1e-6)
    assert result.tensors == 4
    worse = {**good, "layer.3": expected["layer.3"] + 1, "layer.2": expected["layer.2"] * 1.001}
    result = parity(expected, worse)
    assert not result.ok
    assert result.first_bad == "layer.2"
    assert "layer.2: differs by 1.00e-03" in result.reason
    assert result.max_abs == 1
    assert result.max_rel == 0.25


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (None, "is missing"),
        (np.ones((2, 2)), r"has shape \(2, 2\), expected \(3,\)"),
        (np.array([1, np.nan, 1]), "not finite in ONNX Runtime"),
        (np.array([1, np.inf, 1]), "not finite in ONNX Runtime"),
    ],
)
def test_parity_fails_closed(damage: Any, reason: str) -> None:
    expected = {"a": np.ones(3), "b": np.ones(3)}
    actual = {"a": np.ones(3)} | ({} if damage is None else {"b": damage})
    result = parity(expected, actual)
    assert result.first_bad == "b"
    assert re.search(reason, result.reason)
    assert math.isinf(result.max_abs)
    assert math.isinf(result.max_rel)


def test_parity_of_nothing_or_of_a_broken_reference_fails() -> None:
    assert not parity({}, {"a": np.ones(3)}).ok
    nan = {"a": np.array([np.nan])}
    assert not parity(nan, nan).ok
    assert "PyTorch" in parity(nan, nan).reason


def test_parity_floor_forgives_rounding_noise_only() -> None:
    zero = {"a": np.zeros(3)}
    assert parity(zero, {"a": np.full(3, PARITY_FLOOR * 1e-5)}).ok
    assert not parity(zero, {"a": np.full(3, PARITY_FLOOR)}).ok
    assert parity({"empty": np.zeros((0, 3))}, {"empty": np.zeros((0, 3))}).ok


def test_percentiles() -> None:
    result = percentiles([float(value) for value in range(1, 102)], tokens=10)
    assert (result.p50_ms, result.p90_ms, result.p99_ms) == (51, 91, 100)
    assert result.tokens_per_s == pytest.approx(10 / 0.051)
    for bad in ([], [0.0], [-1.0], [1.0, float("nan")], [float("inf")]):
        with pytest.raises(BadInputError, match="positive milliseconds"):
            percentiles(bad)
