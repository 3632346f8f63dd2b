"""The linear layer of every block, as the packed matrices compute it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 activations, one scale per token: the definition in docs/sparse_format.md.

    Args:
        x: float32 (..., c).

    Returns:
        Integers in [-127, 127] as float32 (..., c), and the scale (..., 1).
    """
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / 127
    return torch.round(x / scale), scale


class Projection(nn.Linear):
    """y = x Wᵀ + b; with `int8_inputs`, x is quantised first, as the int8 ops do it.

    The weights are not touched: give it the unpacked ones.
    """

    int8_inputs = False
    observer: Callable[[Tensor], None] | None = None
    """Called with every x that is multiplied, whichever way the product is asked for."""

    def product(self, x: Tensor) -> Tensor:
        """x Wᵀ without the bias. x: (..., columns) -> (..., rows)."""
        if self.observer is not None:
            self.observer(x)
        if not self.int8_inputs:
            return F.linear(x, self.weight)
        x_q, scale = quantize_activations(x.float())
        return F.linear(x_q, self.weight) * scale

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., columns) -> (..., rows)."""
        y = self.product(x)
        return y if self.bias is None else y + self.bias
