"""What an error of the head's weights costs, measured on calibration tokens.

A tied matrix is used twice: its rows score the next token and are the first layer's input. Rounding
moves row i by e_i, which costs, to second order, a Kullback-Leibler divergence per token of

    1/2 sum_i f_i e_i (H + G) e_iᵀ
    H = mean_t of (1 - sum_i p_ti²) x_t x_tᵀ     the head reads x_t and predicts p_t
    G = mean_t of g_t g_tᵀ                       g_t = d loss / d (the embedding of token t)

with f_i the frequency of token i. All rows share one H + G, so f_i does not change how a row is
rounded; but few rows have most of the frequency, and what rounding took from those is stored as
well. Occurrences of a token within a window err alike: their g are added up first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.blocks.model import Mamba
from ssmpress.callbacks import Progress
from ssmpress.prune.order import Tokens, WindowOrder

HEAD_TEXT = 1 << 16
"""Tokens of calibration text that are looked at, from its beginning: every way to the same weights,
with training or without, reads at least as many, and then packs the same bytes."""
WINDOW = 512
"""Tokens of a window of calibration text."""
LEAST, MOST = 8, 16
"""Windows. Half as many cost 4 % more of the divergence on mamba-31m-70."""
WORK = 1_000_000_000
"""Parameters times windows, between these limits: with a model of 130 million about two minutes of
two cores, the rounding included."""


FREQUENT_SHARE = 1 / 16
"""Of the vocabulary: rows whose rounding errors are stored too. On WikiText-103 two thirds of all
tokens are among them."""


def frequent_tokens(text: Tokens, vocab_size: int) -> NDArray[np.int64]:
    """The tokens that occur most often in text (n,), at most `FREQUENT_SHARE` of all, ascending."""
    counts = np.bincount(text, minlength=vocab_size)
    first = np.argsort(-counts, kind="stable")[: int(vocab_size * FREQUENT_SHARE)]
    tokens: NDArray[np.int64] = np.sort(first[counts[first] > 0])
    return tokens


def head_hessian(
    model: Mamba, text: Tokens, seed: int, progress: Progress | None = None
) -> NDArray[np.float64]:
    """H of an untied head, H + G of a tied one: float64 (d_model, d_model).

    Args:
        model: a language model, on a CPU. text: int32 (n,), at least two tokens.
        seed: decides which windows are read.
    """
    order = WindowOrder(text, min(WINDOW, len(text)), seed)
    total = torch.zeros(model.config.d_model, model.config.d_model, dtype=torch.float64)
    model.requires_grad_(False)
    read = 0
    parameters = sum(p.numel() for p in model.parameters())
    windows = min(order.count, MOST, max(LEAST, WORK // parameters))
    for i in range(windows):
        tokens = torch.from_numpy(order.windows(order.numbers(i, 1)))
        total += _window_hessian(model, tokens)
        read += tokens.shape[1] - 1
        if progress:
            progress("head's error", i + 1, windows)
    hessian: NDArray[np.float64] = (total / read).numpy()
    return hessian


def _window_hessian(model: Mamba, tokens: Tensor) -> Tensor:
    """Sums over the tokens of one window (1, l)."""
    hidden: list[Tensor] = []

    def follow(module: object, args: object, rows: Tensor) -> Tensor:
        hidden.append(rows.detach().requires_grad_(model.config.tie_embeddings))
        return hidden[0]

    handle: Any = model.backbone.embedding.register_forward_hook(follow)
    try:
        x = model.hidden(tokens[:, :-1])[0]  # (l - 1, d_model)
    finally:
        handle.remove()
    logits = model.lm_head(x)
    with torch.no_grad():
        unsure = 1 - logits.softmax(-1).square().sum(-1, keepdim=True)
        total: Tensor = ((unsure * x).T @ x).double()
    if model.config.tie_embeddings:
        loss = F.cross_entropy(logits, tokens[0, 1:], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, hidden)
        rows = torch.zeros_like(model.backbone.embedding.weight)
        rows.index_add_(0, tokens[0, :-1], gradient[0])
        total += (rows.T @ rows).double()
    return total
