"""The gated MLP of hybrids, SwiGLU: in plain PyTorch, and its facts.

    y = fc2(up * silu(gate_scale * gate)), up and gate the halves of fc1(x)

Source: Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202. Its nodes:
graph/nodes/gated_mlp.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.blocks.facts import ProjectionFacts, TensorFacts, check_eps, check_flags
from ssmpress.blocks.mlp import MlpConfig
from ssmpress.blocks.projection import Projection


@dataclass(frozen=True, kw_only=True)
class GatedMlpConfig(MlpConfig):
    """The sizes of a gated MLP, checked when built.

    Args:
        gate_first: the first half of fc1 is the gate, as in Hugging Face's models; False is
            mamba-ssm's order.
        proj_bias: both projections have a bias.
        gate_scale: what the gate is multiplied with.

    Raises:
        BadInputError: as of `MlpConfig`; a flag is no bool, or gate_scale no positive number.
    """

    gate_first: bool = False
    proj_bias: bool = False
    gate_scale: float = 1.0

    kind: ClassVar[str] = "gated_mlp"
    title: ClassVar[str] = "MLP"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "gate_first", "proj_bias")
        check_eps("gate_scale", self.gate_scale)

    def tensors(self) -> Mapping[str, TensorFacts]:
        """Names and axes: mamba-ssm's."""
        return _TENSORS

    def projections(self) -> Mapping[str, ProjectionFacts]:
        """Two, each with an input of its own."""
        return _PROJECTIONS

    def live(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The channels whose two halves are open and that fc2 reads."""
        rows = (weights["fc1.weight"] == 0).all(1)
        if "fc1.bias" in weights:
            rows &= weights["fc1.bias"] == 0
        closed = rows.reshape(2, self.d_intermediate).any(0)  # 0 * silu(gate) = up * silu(0) = 0
        return self.live_channels(closed, weights)

    def module(self, d_model: int) -> nn.Module:
        """The MLP in PyTorch."""
        return GatedMlp(self, d_model)


_BOTH = ("d_intermediate", "d_intermediate")
_TENSORS = {
    "fc1.weight": TensorFacts((_BOTH, ("d_model",))),
    "fc1.bias": TensorFacts((_BOTH,), "proj_bias"),
    "fc2.weight": TensorFacts((("d_model",), ("d_intermediate",))),
    "fc2.bias": TensorFacts((("d_model",),), "proj_bias"),
}
_PROJECTIONS = {
    "fc1": ProjectionFacts(input="norm"),
    "fc2": ProjectionFacts(input="gated"),
}


class GatedMlp(nn.Module):
    """The MLP; see above."""

    def __init__(self, config: GatedMlpConfig, d_model: int) -> None:
        super().__init__()
        self.gate_first, self.gate_scale = config.gate_first, config.gate_scale
        width = config.d_intermediate
        self.fc1 = Projection(d_model, 2 * width, bias=config.proj_bias)
        self.fc2 = Projection(width, d_model, bias=config.proj_bias)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """x (b, l, d_model) -> (y,), of the same shape."""
        first, second = self.fc1(x).chunk(2, dim=-1)
        gate, up = (first, second) if self.gate_first else (second, first)
        scaled = gate if self.gate_scale == 1 else self.gate_scale * gate
        return (self.fc2(up * F.silu(scaled)),)
