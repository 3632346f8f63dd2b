"""The RMS norm, with and without weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32.

    Args:
        x: float (..., width). weight: float (width,), or None.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467.
    """
    return F.rms_norm(x.float(), (x.shape[-1],), weight, eps)


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
