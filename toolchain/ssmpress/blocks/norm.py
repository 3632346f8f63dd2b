"""The norms before and in the blocks: RMS norm, with and without weights or a gate, LayerNorm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32 or, if x is, float64.

    Args:
        x: float (..., width). weight: float (width,), or None.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(wide, (x.shape[-1],), weight, eps)


def gated_rms_norm(
    x: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int, gate_first: bool
) -> Tensor:
    """The RMS norm of each of `groups` equal parts of the last axis, and a gate.

        norm(x silu(z)) weight    with gate_first
        norm(x) weight silu(z)    without

    Args:
        x, z: float (..., d). weight: float (d,). groups: divides d.

    Source: arXiv 2405.21060, section 7.2.
    """
    inside = x * F.silu(z) if gate_first else x
    parts = inside.reshape(*x.shape[:-1], groups, -1)
    normal = rms_norm(parts, eps).flatten(-2) * weight
    return normal if gate_first else normal * F.silu(z)


class RMSNorm(nn.Module):
    """`rms_norm` with trained weights, times `scale`. x: (..., width)."""

    def __init__(self, width: int, eps: float, scale: float = 1.0) -> None:
        super().__init__()
        self.eps, self.scale = eps, scale
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, float (..., width); the result is float32."""
        normal = rms_norm(x, self.eps, self.weight)
        return normal if self.scale == 1 else normal * self.scale


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis, times `scale`.

    Source: Ba et al., "Layer Normalization", arXiv 1607.06450.
    """

    def __init__(self, width: int, eps: float, scale: float = 1.0) -> None:
        super().__init__()
        self.eps, self.scale = eps, scale
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, float (..., width); the result is float32."""
        normal = F.layer_norm(x.float(), (x.shape[-1],), self.weight, self.bias, self.eps)
        return normal if self.scale == 1 else normal * self.scale


NORMS: Mapping[str, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}
"""Every norm by the name that a configuration gives it."""
