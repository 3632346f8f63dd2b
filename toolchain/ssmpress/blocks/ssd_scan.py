"""The scan of Mamba-2, state space duality, in plain PyTorch: in chunks, as matrix products.

A head has one decay for all of its state, so that what the tokens of a chunk give each other is a
masked product of C and B, like attention, and only the state goes from chunk to chunk:

    dt_t = clip(softplus(delta_t + delta_bias))
    S_t  = exp(dt_t A) S_{t-1} + (dt_t B_t) x_tᵀ          (n, p) of each head
    y_t  = C_tᵀ S_t + D x_t

Source: Dao and Gu, "Transformers are SSMs", arXiv 2405.21060, section 6.

    b, l        batch, sequence length          h, p    heads, channels of a head (d = h p)
    g, n        groups of B and C, state size   c, q    chunks, tokens of a chunk
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64
"""Tokens: the products within a chunk grow with it, what the chunks carry shrinks. Of
16 to 256, 64 is the fastest or next to it on one core, with 128 states and heads of 32 or 64."""

NO_LIMITS = (0.0, float("inf"))


def ssd_scan(
    x: Tensor,
    delta: Tensor,
    delta_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
    dt_limits: tuple[float, float] = NO_LIMITS,
    chunk: int = CHUNK,
    *,
    softplus: bool = True,
) -> tuple[Tensor, Tensor]:
    """The scan over a sequence; differentiable.

    Args:
        x: float32 (b, l, h, p). delta: (b, l, h), before softplus. delta_bias, A: (h,), A negative.
        B, C: (b, l, g, n); g divides h. D: (h, p). state: (b, h, n, p), before the first token.
        dt_limits: least and largest step size. chunk: tokens.
        softplus: False takes delta + delta_bias for the step size.

    Returns:
        y (b, l, h, p) and the state after the last token (b, h, n, p).
    """
    batch, length, heads, width = x.shape
    groups, size = B.shape[2:]
    each = heads // groups
    dt = F.softplus(delta + delta_bias) if softplus else delta + delta_bias
    if dt_limits != NO_LIMITS:
        dt = dt.clamp(*dt_limits)
    q = min(chunk, length)
    chunks, missing = -(-length // q), -length % q

    def chunked(t: Tensor, *heads: int) -> Tensor:
        """(b, l, ...) -> (b, c, *heads, q, ...), heads of a group after groups; what is missing is
        a step of 0, which decays nothing and adds nothing."""
        padded = F.pad(t, (0, 0, 0, 0, 0, missing))
        return padded.reshape(batch, chunks, q, *heads, t.shape[-1]).permute(0, 1, 3, 4, 2, 5)

    # Differences of sums that may be large: in float32 a decay after a strong one would be inexact.
    steps = chunked((dt * A)[..., None], groups, each)[..., 0]  # (b, c, g, e, q)
    total = steps.cumsum(-1, dtype=torch.float64)
    given = chunked(x * dt[..., None], groups, each)  # (b, c, g, e, q, p)
    keys, queries = chunked(B, groups, 1), chunked(C, groups, 1)  # (b, c, g, 1, q, n)

    between = (total[..., :, None] - total[..., None, :]).to(x.dtype)  # (.., q, q): from s to t
    later = torch.ones(q, q, dtype=torch.bool, device=x.device).triu(1)
    weights = (queries @ keys.mT) * between.masked_fill(later, -torch.inf).exp()
    y = weights @ given

    left = (total[..., -1:] - total).to(x.dtype).exp()[..., None]  # stays until the chunk's end
    added = keys.mT @ (given * left)  # (b, c, g, e, n, p)
    kept = total[..., -1].to(x.dtype).exp()[..., None, None]
    state = state.reshape(batch, groups, each, size, width)
    before = []
    for i in range(chunks):
        before.append(state)
        state = kept[:, i] * state + added[:, i]
    y = y + (queries @ torch.stack(before, 1)) * total.to(x.dtype).exp()[..., None]
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, -1, heads, width)[:, :length]
    return y + D * x, state.flatten(1, 2)
