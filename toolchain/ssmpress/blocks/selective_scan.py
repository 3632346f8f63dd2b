"""The selective scan of Mamba-1 in PyTorch: its definition, and the same blocked for speed.

Symbols: b batch, l sequence length, d channels, n state size. Tensors are channel-last, the state
is (b, n, d) and A is (n, d): the layout of the ONNX op and of the kernels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ELEMENTS = 1 << 18
"""Elements (b * segments * n * channels) of one step of the blocked scan. The few float32
arrays of this size stay in the caches, and are large enough for two threads; 2^17 to 2^19 measured
within 10 % of each other, 2^15 and 2^21 worse."""


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    delta_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """The selective scan, token by token: the definition that everything else is tested against.

        dt_t = softplus(delta_t + delta_bias)
        h_t  = exp(dt_t A) h_{t-1} + dt_t u_t B_t        (eq. 2a with the simplified ZOH of 3.6)
        y_t  = (C_t h_t + D u_t) * silu(z_t)             (eq. 2b, gate of section 3.4)

    Args:
        u, delta, z: float (b, l, d). delta_bias, D: float (d,). A: float (n, d), negative.
        B, C: float (b, l, n). state: float (b, n, d), h before the first token.

    Returns:
        y (b, l, d) and the state after the last token (b, n, d).

    Source: arXiv 2312.00752, section 3.2, algorithm 2.
    """
    h = state
    outputs = []
    for t in range(u.shape[1]):
        dt = F.softplus(delta[:, t] + delta_bias)  # (b, d)
        h = torch.exp(dt[:, None] * A) * h + (dt * u[:, t])[:, None] * B[:, t, :, None]  # (b, n, d)
        y = torch.einsum("bnd,bn->bd", h, C[:, t]) + D * u[:, t]
        outputs.append(y * F.silu(z[:, t]))
    return (torch.stack(outputs, dim=1) if outputs else torch.zeros_like(u)), h


def selective_scan(
    u: Tensor,
    delta: Tensor,
    delta_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """`selective_scan_reference`, blocked: about 2 sqrt(l) steps in Python instead of l.

    Arguments and results as there. Differentiable in every argument; the backward pass recomputes
    the states block by block instead of storing (b, l, n, d) of them.
    """
    y, last = scan_of_steps(F.softplus(delta + delta_bias), u, A, B, C, state)
    return (y + D * u) * F.silu(z), last


def scan_of_steps(
    dt: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence alone, blocked: y_t = C_t h_t with h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t.

    Args:
        dt: float (b, l, d), the step sizes themselves, not negative. The rest as there.
    """
    scanned: tuple[Tensor, Tensor] = _Scan.apply(dt, u, A, B, C, state)  # type: ignore[no-untyped-call]
    return scanned


def _channel_blocks(u: Tensor, A: Tensor) -> list[slice]:
    """Slices of the channels, so that one step works on about BLOCK_ELEMENTS elements."""
    channels = u.shape[2]
    if u.is_cuda:
        return [slice(0, channels)]  # launches cost more than cache misses
    per_channel = u.shape[0] * _segments(u.shape[1])[0] * A.shape[0]
    width = max(16, BLOCK_ELEMENTS // max(1, per_channel))
    return [slice(i, min(i + width, channels)) for i in range(0, channels, width)]


def _segments(length: int) -> tuple[int, int]:
    """Number of segments and their length, so that both loops of the scan are short."""
    steps = max(1, math.isqrt(length))
    return -(-length // steps), steps


def _split(x: Tensor, segments: int, steps: int) -> Tensor:
    """(b, l, *) -> (steps, b, segments, *), zero-padded at the end: dt = 0 leaves h as it is."""
    pad = segments * steps - x.shape[1]
    if pad:
        x = torch.cat([x, x.new_zeros(x.shape[0], pad, *x.shape[2:])], dim=1)
    x = x.reshape(x.shape[0], segments, steps, *x.shape[2:])
    return x.movedim(2, 0).contiguous()


def _join(x: Tensor, length: int) -> Tensor:
    """(steps, b, segments, *) -> (b, l, *)."""
    return x.movedim(0, 2).flatten(1, 2)[:, :length]


class _Block:
    """The recurrence h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t for one block of channels.

    The sequence is cut into segments that run side by side. `carries` runs them from the zero
    state and passes their ends on; after that every segment runs again from its true first state.
    No product exceeds 1, so nothing can overflow, and only (b, segments, n, d) is held.
    """

    def __init__(self, dt: Tensor, u: Tensor, A: Tensor, B: Tensor) -> None:
        """dt, u: (steps, b, segments, d). A: (n, d). B: (steps, b, segments, n)."""
        self.dt, self.A, self.B = dt[..., None, :], A, B[..., None]
        self.x = (dt * u)[..., None, :]
        self.a = torch.empty(*dt.shape[1:3], *A.shape, dtype=dt.dtype, device=dt.device)

    def decay(self, t: int) -> Tensor:
        """exp(dt_t A), (b, segments, n, d), in a buffer that the next call overwrites."""
        return torch.mul(self.dt[t], self.A, out=self.a).exp_()

    def advance_(self, h: Tensor, t: int) -> Tensor:
        """h_{t-1} -> h_t, in place; (b, segments, n, d)."""
        return h.mul_(self.decay(t)).addcmul_(self.x[t], self.B[t])

    def total_decay(self) -> Tensor:
        """Product of the decays of each segment, (b, segments, n, d)."""
        return torch.exp(self.dt.sum(0) * self.A)

    def carries(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The state that enters each segment (b, segments, n, d), and the last one (b, n, d)."""
        h = torch.zeros_like(self.a)
        if h.shape[1] > 1:
            for t in range(self.dt.shape[0]):
                self.advance_(h, t)
        return _pass_on(h, self.total_decay(), state, range(h.shape[1]))


def _pass_on(ends: Tensor, decay: Tensor, state: Tensor, order: range) -> tuple[Tensor, Tensor]:
    """What enters each segment when each adds `ends` to what it passes on, decayed."""
    entering = torch.empty_like(ends)
    for s in order:
        entering[:, s] = state
        state = torch.addcmul(ends[:, s], decay[:, s], state)
    return entering, state


class _Scan(torch.autograd.Function):
    """y_t = C_t h_t with h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t, in blocks of channels."""

    @staticmethod
    def forward(
        ctx: Any, dt: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(dt, u, A, B, C, state)
        length = u.shape[1]
        y, last = torch.empty_like(u), state.clone()
        if length == 0:
            return y, last
        cut = _segments(length)
        B, C = _split(B, *cut), _split(C, *cut)[..., None, :]
        for block in _channel_blocks(u, A):
            scan = _Block(_split(dt[..., block], *cut), _split(u[..., block], *cut), A[:, block], B)
            h, last[..., block] = scan.carries(state[..., block])
            y_t = [torch.matmul(C[t], scan.advance_(h, t)).squeeze(-2) for t in range(len(C))]
            y[..., block] = _join(torch.stack(y_t), length)
            if cut[0] == 1:
                last[..., block] = h[:, 0]
        return y, last

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        dt, u, A, B, C, state = ctx.saved_tensors
        length = u.shape[1]
        grads = [torch.zeros_like(t) for t in (dt, u, A, B, C)]
        grad_state = grad_last.clone()
        if length == 0:
            return (*grads, grad_state)
        cut = _segments(length)
        B, C = _split(B, *cut), _split(C, *cut)
        for block in _channel_blocks(u, A):
            dt_, u_, grad_y_ = (_split(t[..., block], *cut) for t in (dt, u, grad_y))
            parts, grad_state[..., block] = _backward_block(
                dt_, u_, grad_y_, A[:, block], B, C, state[..., block], grad_last[..., block]
            )
            for grad, part in zip(grads[:2], parts[:2], strict=True):
                grad[..., block] = _join(part, length)
            grads[2][:, block] = parts[2]
            for grad, part in zip(grads[3:], parts[3:], strict=True):
                grad += _join(part, length)
        return (*grads, grad_state)


def _backward_block(
    dt: Tensor,
    u: Tensor,
    grad_y: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    grad_last: Tensor,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Gradients of dt, u, A, B, C (parts that this block of channels adds) and of the state.

    With g_t the gradient of h_t and q_t = exp(dt_t A) g_t what flows to h_{t-1}:
    g_t = C_t grad_y_t + q_{t+1}. Segments run side by side backwards as in the forward pass.
    """
    steps = range(dt.shape[0])
    scan = _Block(dt, u, A, B)
    grad_dt, grad_u = torch.empty_like(dt), torch.empty_like(u)
    grad_B, grad_C = torch.empty_like(B), torch.empty_like(C)
    entering, _ = scan.carries(state)
    states = [entering]  # h before token t, for every t
    for t in steps:
        states.append(scan.advance_(states[t].clone(), t))
        grad_C[t] = torch.matmul(states[t + 1], grad_y[t][..., None]).squeeze(-1)
    C, grad_y = C[..., None], grad_y[..., None, :]
    q = torch.zeros_like(entering)
    for t in reversed(steps):
        q.addcmul_(C[t], grad_y[t]).mul_(scan.decay(t))
    backwards = range(dt.shape[2] - 1, -1, -1)
    q, grad_state = _pass_on(q, scan.total_decay(), grad_last, backwards)

    grad_A = torch.zeros_like(entering)
    for t in reversed(steps):
        g = q.addcmul_(C[t], grad_y[t])
        grad_B[t] = torch.matmul(g, scan.x[t].transpose(-1, -2)).squeeze(-1)
        grad_x = torch.matmul(B[t][..., None, :], g).squeeze(-2)  # of x = dt u
        q = g.mul_(scan.decay(t))
        grad_log = states[t].mul_(q)  # of log(decay) = dt A
        grad_A.addcmul_(grad_log, scan.dt[t])
        grad_dt[t] = grad_log.mul_(A).sum(-2).addcmul_(grad_x, u[t])
        grad_u[t] = grad_x.mul_(dt[t])
    return (grad_dt, grad_u, grad_A.sum((0, 1)), grad_B, grad_C), grad_state
