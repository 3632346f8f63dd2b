"""The selective scan by mamba-ssm's CUDA kernels, with every sum in a fixed order.

The kernels' backward pass adds with atomics where several threads meet: gradients of A, D and
delta's bias over the batch, gradients of B and C over the channels. Run for one sequence at a time,
with a B and C of its own for every channel, each sum has one term, and PyTorch adds the terms up in
an order of its own that does not change. Two runs then agree to the byte.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def ordered_kernels() -> Callable[..., tuple[Tensor, Tensor]] | None:
    """A function like `selective_scan.selective_scan`, or None without mamba-ssm on a GPU.

    It starts from the zero state, whatever state it is given, and returns that one: training and
    calibration never look at it. It works in float32.
    """
    if not torch.cuda.is_available():
        return None
    try:
        kernels = importlib.import_module("selective_scan_cuda")
    except ImportError:
        return None

    def scan(
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
        channels_first = (_channels_first(x) for x in (u, delta, B, C, z))
        u, delta, B, C, z = channels_first
        A = A.T.contiguous()  # (d, n)
        apply: Callable[..., Tensor] = _OrderedScan.apply
        y = apply(kernels, u, delta, A, B[:, None], C[:, None], D, z, delta_bias)
        return y.transpose(1, 2), state

    return scan


def _channels_first(x: Tensor) -> Tensor:
    """(b, l, d) -> (b, d, l), contiguous."""
    return x.transpose(1, 2).contiguous()


class _OrderedScan(torch.autograd.Function):
    """u, delta, z (b, d, l); A (d, n); B, C (b, 1, n, l); D, delta_bias (d) -> y (b, d, l)."""

    @staticmethod
    def forward(ctx: Any, kernels: Any, *inputs: Tensor) -> Tensor:
        inputs = tuple(x.contiguous() for x in inputs)
        y, states, gated = kernels.fwd(*inputs, True)
        ctx.kernels = kernels
        ctx.save_for_backward(*inputs, states, y)
        gated_y: Tensor = gated
        return gated_y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, z, bias, states, y = ctx.saved_tensors
        grad = grad.contiguous()
        by_token = [torch.empty_like(x) for x in (u, delta, z)]
        by_state = [torch.empty_like(x) for x in (B, C)]
        summed = [torch.zeros_like(x) for x in (A, D, bias)]
        for i in range(len(u)):
            one = slice(i, i + 1)
            own_B, own_C = (x[one].expand(1, u.shape[1], -1, -1).contiguous() for x in (B, C))
            du, ddelta, dA, dB, dC, dD, dbias, dz = ctx.kernels.bwd(
                u[one],
                delta[one],
                A,
                own_B,
                own_C,
                D,
                z[one],
                bias,
                grad[one],
                states[one],
                y[one],
                None,
                True,
                False,
            )
            for whole, part in zip(by_token, (du, ddelta, dz), strict=True):
                whole[one] = part
            for whole, part in zip(by_state, (dB, dC), strict=True):
                whole[one] = part.sum(1, keepdim=True)
            for whole, part in zip(summed, (dA, dD, dbias), strict=True):
                whole += part
        (du, ddelta, dz), (dB, dC), (dA, dD, dbias) = by_token, by_state, summed
        return None, du, ddelta, dA, dB, dC, dD, dz, dbias
