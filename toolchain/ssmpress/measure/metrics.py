"""Metrics from a runtime's outputs. NumPy only: the same code runs on a device.

Perplexity is exp(mean negative log likelihood per token) over windows that do not overlap; each
window starts from the zero state and predicts its tokens 1 .. w-1, so a window of w tokens gives
w-1 predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.callbacks import Steps
from ssmpress.data.labelled import LabelledTexts
from ssmpress.data.series import SeriesWindows
from ssmpress.errors import BadInputError, UsageError
from ssmpress.measure.bootstrap import mean_interval
from ssmpress.results import (
    Interval,
    LanguageModelQuality,
    Parity,
    Percentiles,
    TaskQuality,
)

Predict = Callable[[NDArray[np.int64], Any], tuple[NDArray[np.float32], Any]]
"""tokens (b, l), state or None (the zero state) -> logits (b, l, vocab), state afterwards."""

CHUNK_TOKENS = 256
"""Tokens per call of the model: 256 x a vocabulary of 50,280 are 51 MB of logits, a window of
1024 would be 206 MB. The state carries the window across calls."""

PARITY_TOLERANCE = 1e-4
"""Of max |a - b| / max |expected| per tensor, for float32 activations (docs/ops.md)."""

PARITY_FLOOR = 1e-6
"""The least max |expected| that a difference is divided by: a state that is zero in one runtime
and rounding noise in the other is not an error."""

_ROWS = 64  # rows of logits per block: 64 x 50,280 floats of scratch are 13 MB


def token_nll(
    logits: NDArray[np.float32], targets: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Negative log likelihood of each target: log(sum_j exp(x_j)) - x_target, stable.

    Args:
        logits: float32 (b, p, v).
        targets: int (b, p), 0 .. v-1.

    Returns:
        float64 (b, p), nats. NaN where the logits are not finite: it is never hidden.

    Raises:
        BadInputError: shapes disagree, or a target is outside the vocabulary.
    """
    if logits.ndim != 3 or targets.shape != logits.shape[:2]:
        raise BadInputError(
            f"logits and targets: expected (b, p, v) and (b, p); got {logits.shape} and "
            f"{targets.shape}."
        )
    vocab = logits.shape[2]
    if targets.size and (int(targets.min()) < 0 or int(targets.max()) >= vocab):
        raise BadInputError(
            f"targets: expected token numbers 0 to {vocab - 1}; got {int(targets.min())} to "
            f"{int(targets.max())}. The text was made with another tokenizer than the model's."
        )
    rows = logits.reshape(-1, vocab)
    chosen = targets.reshape(-1)
    nll = np.empty(len(rows), np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        for begin in range(0, len(rows), _ROWS):
            block = slice(begin, begin + _ROWS)
            nll[block] = _block_nll(rows[block], chosen[block])
    return nll.reshape(targets.shape)


def _block_nll(x: NDArray[np.float32], targets: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    top = x.max(axis=1, keepdims=True)
    picked = np.take_along_axis(x, targets[:, None].astype(np.int64), axis=1)[:, 0]
    total = np.exp(x - top).sum(axis=1, dtype=np.float64)
    result: NDArray[np.float64] = np.log(total) + top[:, 0].astype(np.float64) - picked
    return result


def perplexity(
    predict: Predict,
    windows: NDArray[np.integer[Any]],
    *,
    batch: int = 1,
    chunk: int = CHUNK_TOKENS,
    progress: Steps | None = None,
) -> LanguageModelQuality:
    """Perplexity of a model over windows that do not overlap.

    Args:
        predict: the model, for example `run.Session.predict`.
        windows: int (count, w), w >= 2, from `data.windows`.
        batch: windows per call, >= 1. chunk: tokens per call and window, >= 1.
        progress: called with (windows done, windows).

    Returns:
        The quality over count x (w - 1) predictions. Infinite or NaN logits give a perplexity
        that is not finite, which no gate passes.

    Raises:
        BadInputError: no window, or windows of fewer than 2 tokens.
        UsageError: batch or chunk below 1.
    """
    _check_cut(windows, batch, chunk)
    sums: list[float] = []
    for begin in range(0, len(windows), batch):
        rows = windows[begin : begin + batch].astype(np.int64)
        sums += [float(value) for value in _window_nll(predict, rows, chunk)]
        if progress is not None:
            progress(len(sums), len(windows))
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    nll = math.fsum(sums) if all(map(math.isfinite, sums)) else float("nan")
    return LanguageModelQuality(
        perplexity=_exp(nll / tokens),
        nll=nll,
        tokens=tokens,
        window=windows.shape[1],
        window_nll=tuple(sums),
    )


def _check_cut(windows: NDArray[np.integer[Any]], batch: int, chunk: int) -> None:
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise BadInputError(
            f"windows: expected (count, length) with at least 1 window of 2 tokens; got "
            f"{windows.shape}. Give a longer evaluation text."
        )
    if batch < 1 or chunk < 1:
        raise UsageError(f"expected batch and chunk of at least 1; got {batch} and {chunk}.")


def _window_nll(predict: Predict, rows: NDArray[np.int64], chunk: int) -> NDArray[np.float64]:
    """Sum of each row's negative log likelihoods. rows (b, w) -> (b,)."""
    inputs, targets = rows[:, :-1], rows[:, 1:]
    total = np.zeros(len(rows), np.float64)
    state: Any = None
    for begin in range(0, inputs.shape[1], chunk):
        part = slice(begin, begin + chunk)
        logits, state = predict(np.ascontiguousarray(inputs[:, part]), state)
        total += token_nll(logits, targets[:, part]).sum(axis=1)
    return total


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def retention(dense: LanguageModelQuality, compressed: LanguageModelQuality) -> float:
    """Quality kept: dense perplexity / compressed perplexity; 1 is all of it.

    Raises:
        BadInputError: the two were not measured on the same number of predictions.
    """
    if (dense.tokens, dense.window) != (compressed.tokens, compressed.window):
        raise BadInputError(
            f"retention: expected the same text for both; got {dense.tokens:,} predictions in "
            f"windows of {dense.window} (dense) and {compressed.tokens:,} in windows of "
            f"{compressed.window} (compressed)."
        )
    if not compressed.perplexity > 0:
        return float("nan")
    return dense.perplexity / compressed.perplexity


def retention_interval(
    dense: LanguageModelQuality,
    compressed: LanguageModelQuality,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Interval of `retention` over the windows, paired: both models saw the same ones.

    Returns:
        None with fewer than `bootstrap.MIN_WINDOWS` windows or a value that is not finite.
    """
    difference = np.array(dense.window_nll) - np.array(compressed.window_nll)
    per_window = dense.tokens / max(1, len(difference))
    interval = mean_interval(difference / per_window, seed=seed, confidence=confidence)
    return interval and Interval(math.exp(interval.low), math.exp(interval.high), confidence)


def accuracy(
    classify: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    samples: LabelledTexts,
    *,
    progress: Steps | None = None,
) -> TaskQuality:
    """Share of texts whose highest logit is their class's; of equal ones the first counts.

    Args:
        classify: tokens (1, l) -> logits (1, classes), for example `run.Session.classify`.
        samples: the texts; each runs by itself, whole.

    Returns:
        The accuracy. A text whose logits are not finite is wrong.
    """
    right = []
    for number in range(samples.count):
        logits = classify(samples.text(number)[None])[0]
        found = bool(np.isfinite(logits).all()) and int(logits.argmax()) == samples.labels[number]
        right.append(float(found))
        if progress is not None and (number % 64 == 0 or number == samples.count - 1):
            progress(number + 1, samples.count)
    longest = int(samples.lengths.max())
    return TaskQuality(math.fsum(right) / len(right), tuple(right), longest, len(right))


def forecast_error(
    forecast: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    windows: SeriesWindows,
    *,
    batch: int = 64,
    progress: Steps | None = None,
) -> TaskQuality:
    """Mean squared error over every window, time step and variate; the mean absolute one beside it.

    Args:
        forecast: (b, lookback, variates) -> (b, horizon, variates), both z-scored, for example
            `run.Session.forecast`.
        windows: all of them are evaluated. batch: windows per call.

    Returns:
        The error; not finite where a forecast is not, which no gate passes.
    """
    squared, absolute, predictions = [], [], 0
    for begin in range(0, windows.count, batch):
        numbers = np.arange(begin, min(begin + batch, windows.count))
        inputs, targets, _ = windows.arrays(numbers)
        difference = forecast(inputs).astype(np.float64) - targets
        squared += (difference**2).mean(axis=(1, 2)).tolist()
        absolute += np.abs(difference).mean(axis=(1, 2)).tolist()
        predictions += difference.size
        if progress is not None:
            progress(len(squared), windows.count)
    mse, mae = (float(np.mean(values)) for values in (squared, absolute))
    return TaskQuality(mse, tuple(squared), windows.lookback, predictions, {"mae": mae})


def task_retention(dense: TaskQuality, compressed: TaskQuality, *, error: bool) -> float:
    """Quality kept: compressed / dense accuracy, or dense / compressed error; 1 is all of it.

    Raises:
        BadInputError: the two were not measured on the same number of samples.
    """
    if len(dense.scores) != len(compressed.scores):
        raise BadInputError(
            f"retention: expected the same samples for both; got {len(dense.scores):,} (dense) "
            f"and {len(compressed.scores):,} (compressed)."
        )
    over, under = (dense, compressed) if error else (compressed, dense)
    return over.value / under.value if under.value > 0 else float("nan")


def task_retention_interval(
    dense: TaskQuality, compressed: TaskQuality, *, error: bool, block: int = 1,
    confidence: float = 0.95, resamples: int = 2000, seed: int = 0,
) -> Interval | None:  # fmt: skip
    """Bootstrap interval of `task_retention`, paired over blocks of consecutive samples.

    Args:
        block: samples that are drawn together: windows of a series that overlap are no independent
            ones, so a forecaster's blocks are as long as a window.

    Returns:
        None with fewer than 8 blocks or a score that is not finite: too little to resample.
    """
    table = np.array([dense.scores, compressed.scores])  # (2, samples)
    blocks = table.shape[1] // block
    if blocks < 8 or not np.isfinite(table).all():
        return None
    sums = table[:, : blocks * block].reshape(2, blocks, block).sum(axis=2)
    random = np.random.default_rng(seed)
    drawn = random.integers(blocks, size=(resamples, blocks))
    first, second = sums[0][drawn].sum(axis=1), sums[1][drawn].sum(axis=1)
    over, under = (first, second) if error else (second, first)
    if not (under > 0).all():
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(over / under, [tail, 1 - tail])
    value = task_retention(dense, compressed, error=error)  # with the scores that fill no block
    return Interval(min(float(low), value), max(float(high), value), confidence)


def text_metrics(quality: LanguageModelQuality, text: str) -> dict[str, float]:
    """Metrics of a language model that do not depend on its tokenizer.

        word perplexity = exp(nll / words)       bits per byte = nll / (ln 2 * bytes)

    Args:
        text: what was predicted, decoded; words stand between white space.
    """
    words, size = len(text.split()), len(text.encode())
    if not words:
        return {}
    return {
        "word_perplexity": _exp(quality.nll / words),
        "bits_per_byte": quality.nll / (math.log(2) * size),
    }


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
    for name, wanted in expected.items():
        absolute, relative, problem = _distance(wanted, actual.get(name))
        worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
        if not problem and relative > tolerance:
            problem = f"differs by {relative:.2e} of its largest value"
        if problem and first_bad is None:
            first_bad, reason = name, f"{name}: {problem}; expected at most {tolerance:.0e}."
    if not expected:
        worst_abs = worst_rel = math.inf
        first_bad, reason = "(none)", "no tensor was compared; expected at least one."
    return Parity(worst_abs, worst_rel, tolerance, len(expected), first_bad, reason)


def _distance(wanted: NDArray[Any], got: NDArray[Any] | None) -> tuple[float, float, str]:
    """(max |a - b|, the same relative, what is wrong besides the distance)."""
    if got is None:
        return math.inf, math.inf, "is missing from the outputs"
    if wanted.shape != got.shape:
        return math.inf, math.inf, f"has shape {got.shape}, expected {wanted.shape}"
    for array, side in ((wanted, "PyTorch"), (got, "ONNX Runtime")):
        if not np.isfinite(array).all():
            return math.inf, math.inf, f"has values that are not finite in {side}"
    if wanted.size == 0:
        return 0.0, 0.0, ""
    difference = float(np.abs(wanted.astype(np.float64) - got.astype(np.float64)).max())
    return difference, difference / max(float(np.abs(wanted).max()), PARITY_FLOOR), ""


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
