"""Metrics from a runtime's outputs that every task has. NumPy only: the same code runs on a
device. Perplexity, accuracy and errors are in `tasks/`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.errors import BadInputError
from ssmpress.measure.bootstrap import CONFIDENCE, MIN_WINDOWS, mean_interval
from ssmpress.results.devices import Parity
from ssmpress.results.measured import Percentiles
from ssmpress.results.quality import Guess, Interval, VariantQuality
from ssmpress.tasks.language_model import LanguageModel
from ssmpress.tasks.task import Metric

PARITY_TOLERANCE = 1e-4
"""Of max |a - b| / max |expected| per tensor, for float32 activations (docs/ops.md)."""

PARITY_FLOOR = 1e-6
"""The least max |expected| that a difference is divided by: a state that is zero in one runtime
and rounding noise in the other is not an error."""

_RESAMPLES = 2000


def retention(
    dense: VariantQuality, compressed: VariantQuality, metric: Metric = LanguageModel.metric
) -> float:
    """Quality kept: compressed / dense where higher is better, else dense / compressed; 1 is all.

    Raises:
        BadInputError: the two were not measured on the same samples.
    """
    if dense.extent != compressed.extent:
        raise BadInputError(
            f"retention: expected the same {dense.judged_on} for both; got {dense.extent} (dense) "
            f"and {compressed.extent} (compressed)."
        )
    over, under = (compressed, dense) if metric.higher_is_better else (dense, compressed)
    return over.value / under.value if under.value > 0 else float("nan")


def retention_interval(
    dense: VariantQuality,
    compressed: VariantQuality,
    metric: Metric = LanguageModel.metric,
    *,
    block: int = 1,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Interval of `retention` over the samples, paired: both models saw the same ones.

    Args:
        block: consecutive samples that are drawn together. Windows of a series that overlap are no
            independent ones, so a forecaster's blocks are as long as a window.

    Returns:
        None with fewer than `bootstrap.MIN_WINDOWS` blocks or a score that is not finite: too
        little to resample.
    """
    if metric.logarithmic:
        return _logarithmic(dense, compressed, confidence, seed)
    pair = (compressed, dense) if metric.higher_is_better else (dense, compressed)
    scores = np.array([quality.scores for quality in pair])
    interval = _ratio_interval(scores, block, confidence, seed)
    value = retention(dense, compressed, metric)  # with the scores that fill no block
    return interval and Interval(min(interval.low, value), max(interval.high, value), confidence)


def best_guess(
    guesses: Mapping[str, VariantQuality], dense: VariantQuality, metric: Metric, *, block: int = 1
) -> Guess:
    """The best of what can be had without a model, beside the dense one.

    Args:
        guesses: from `Task.guesses`. block: as of `retention_interval`.
    """
    best = max if metric.higher_is_better else min
    how = best(guesses, key=lambda name: guesses[name].value)
    guess = guesses[how]
    interval = retention_interval(guess, dense, metric, block=block, confidence=CONFIDENCE)
    return Guess(how, guess.value, retention(guess, dense, metric), interval)


def _logarithmic(
    dense: VariantQuality, compressed: VariantQuality, confidence: float, seed: int
) -> Interval | None:
    """The logarithm of the retention is the mean of the differences of the scores."""
    difference = np.array(dense.scores) - np.array(compressed.scores)
    per_sample = dense.predictions / max(1, len(difference))
    interval = mean_interval(difference / per_sample, seed=seed, confidence=confidence)
    return interval and Interval(math.exp(interval.low), math.exp(interval.high), confidence)


def _ratio_interval(
    scores: NDArray[np.float64], block: int, confidence: float, seed: int
) -> Interval | None:
    """Bootstrap interval of the ratio of two means. scores: (2, samples), numerator first."""
    blocks = scores.shape[1] // block
    if blocks < MIN_WINDOWS or not np.isfinite(scores).all():
        return None
    sums = scores[:, : blocks * block].reshape(2, blocks, block).sum(axis=2)
    random = np.random.default_rng(seed)
    drawn = random.integers(blocks, size=(_RESAMPLES, blocks))
    over, under = sums[0][drawn].sum(axis=1), sums[1][drawn].sum(axis=1)
    if not (under > 0).all():
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(over / under, [tail, 1 - tail])
    value = float(scores[0].sum() / scores[1].sum())  # with the scores that fill no block
    return Interval(min(float(low), value), max(float(high), value), confidence)


def parity(
    expected: Mapping[str, NDArray[Any]],
    actual: Mapping[str, NDArray[Any]],
    *,
    tolerance: float = PARITY_TOLERANCE,
) -> Parity:
    """Compare tensors by name; anything missing, misshapen or not finite is a failure.

    rel = max |a - b| / max(max |expected|, PARITY_FLOOR), per tensor.

    Args:
        expected: arrays in layer order; the first beyond the tolerance is named.
        actual: arrays with the same names; others are ignored.
        tolerance: of rel.

    Returns:
        The largest distances. Nothing to compare is a failure too.
    """
    worst_abs = worst_rel = 0.0
    first_bad, reason = None, ""
    for name, reference in expected.items():
        absolute, relative, problem = _distance(reference, actual.get(name))
        worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
        if not problem and relative > tolerance:
            problem = f"differs by {relative:.2e} of its largest value"
        if problem and first_bad is None:
            first_bad, reason = name, f"{name}: {problem}; expected at most {tolerance:.0e}."
    if not expected:
        worst_abs = worst_rel = math.inf
        first_bad, reason = "(none)", "no tensor was compared; expected at least one."
    return Parity(worst_abs, worst_rel, tolerance, len(expected), first_bad, reason)


def _distance(expected: NDArray[Any], got: NDArray[Any] | None) -> tuple[float, float, str]:
    """(max |a - b|, the same relative, what is wrong besides the distance)."""
    if got is None:
        return math.inf, math.inf, "is missing from the outputs"
    if expected.shape != got.shape:
        return math.inf, math.inf, f"has shape {got.shape}, expected {expected.shape}"
    for array, side in ((expected, "PyTorch"), (got, "ONNX Runtime")):
        if not np.isfinite(array).all():
            return math.inf, math.inf, f"has values that are not finite in {side}"
    if expected.size == 0:
        return 0.0, 0.0, ""
    difference = float(np.abs(expected.astype(np.float64) - got.astype(np.float64)).max())
    return difference, difference / max(float(np.abs(expected).max()), PARITY_FLOOR), ""


def percentiles(samples_ms: Sequence[float], *, tokens: int = 1) -> Percentiles:
    """p50, p90 and p99 of raw samples, linear between neighbours.

    Args:
        samples_ms: milliseconds, at least one.
        tokens: tokens per sample, for tokens_per_s at the median.

    Raises:
        BadInputError: no sample, or one that is not a positive finite number.
    """
    samples = np.asarray(samples_ms, np.float64)
    if samples.size == 0 or not np.isfinite(samples).all() or (samples <= 0).any():
        raise BadInputError(
            f"latency samples: expected positive milliseconds, at least one; got "
            f"{samples.size} samples, smallest {samples.min() if samples.size else 'none'}."
        )
    p50, p90, p99 = (float(value) for value in np.percentile(samples, [50, 90, 99]))
    return Percentiles(p50, p90, p99, tokens_per_s=1000 * tokens / p50)
