"""The causal convolution before a scan, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, *, silu: bool = True
) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution over time, then SiLU.

        y_t = silu(bias + sum_j weight_j x_{t - (k-1) + j})

    Args:
        x: float (b, l, d). weight: float (k, d), the last row meets the newest token.
        bias: float (d,). state: float (b, k-1, d), the inputs before x, oldest first.
        silu: False is the convolution alone.

    Returns:
        y (b, l, d) and the last k-1 inputs (b, k-1, d).

    Source: arXiv 2312.00752, section 3.4.
    """
    taps, length = weight.shape[0], x.shape[1]
    padded = torch.cat([state.to(x.dtype), x], dim=1)  # (b, k-1+l, d)
    y = bias.expand_as(x)
    for j in range(taps):
        y = torch.addcmul(y, padded[:, j : j + length], weight[j])
    return F.silu(y) if silu else y, padded[:, length:]


def taps_and_bias(conv: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Weight (k, d) and bias (d,) of a depthwise convolution; zeros where it has no bias."""
    weight = conv.weight[:, 0].T
    return weight, torch.zeros_like(weight[0]) if conv.bias is None else conv.bias
