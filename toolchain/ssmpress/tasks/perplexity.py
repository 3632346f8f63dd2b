"""Perplexity of a language model from its logits. NumPy only: the same code runs on a device.

Perplexity is exp(mean negative log likelihood per token) over windows that do not overlap; each
window starts from the zero state and predicts its tokens 1 .. w-1, so a window of w tokens gives
w-1 predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.callbacks import Steps, silent
from ssmpress.errors import BadInputError, UsageError
from ssmpress.results.quality import LanguageModelQuality

Predict = Callable[[NDArray[np.int64], Any], tuple[NDArray[np.float32], Any]]
"""tokens (b, l), state or None (the zero state) -> logits (b, l, vocab), state afterwards."""

CHUNK_TOKENS = 256
"""Tokens per call of the model: 256 x a vocabulary of 50,280 are 51 MB of logits, a window of
1024 would be 206 MB. The state carries the window across calls."""

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
    progress: Steps = silent,
) -> LanguageModelQuality:
    """Perplexity of a model over windows that do not overlap.

    Args:
        predict: the model, for example `run.Session.predict`.
        windows: int (count, w), w >= 2, from `data.tokens.cut_windows`.
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
        progress(len(sums), len(windows))
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    nll = math.fsum(sums) if all(map(math.isfinite, sums)) else float("nan")
    return LanguageModelQuality(
        perplexity=exp(nll / tokens),
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


def exp(value: float) -> float:
    """Infinite where it overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


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
        "word_perplexity": exp(quality.nll / words),
        "bits_per_byte": quality.nll / (math.log(2) * size),
    }
