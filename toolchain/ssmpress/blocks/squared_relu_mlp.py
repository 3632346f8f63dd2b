"""The MLP of Nemotron-H, without a gate: in plain PyTorch, and its facts.

    y = fc2(relu(fc1(x))^2)

Source: So et al., "Primer: Searching for Efficient Transformers for Language Modeling", arXiv
2109.08668. Its nodes: graph/nodes/squared_relu_mlp.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.blocks.facts import ProjectionFacts, TensorFacts, check_flags
from ssmpress.blocks.mlp import MlpConfig
from ssmpress.blocks.projection import Projection


@dataclass(frozen=True, kw_only=True)
class SquaredReluMlpConfig(MlpConfig):
    """The size of an MLP with a squared ReLU, checked when built.

    Args:
        proj_bias: both projections have a bias.

    Raises:
        BadInputError: as of `MlpConfig`; proj_bias is no bool.
    """

    proj_bias: bool = False

    kind: ClassVar[str] = "squared_relu_mlp"
    title: ClassVar[str] = "squared-ReLU MLP"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "proj_bias")

    def tensors(self) -> Mapping[str, TensorFacts]:
        """Names and axes: those of the gated MLP, with one half."""
        return _TENSORS

    def projections(self) -> Mapping[str, ProjectionFacts]:
        """Two, each with an input of its own."""
        return _PROJECTIONS

    def live(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The channels that some input opens and that fc2 reads."""
        closed = (weights["fc1.weight"] == 0).all(1)
        if "fc1.bias" in weights:
            closed &= weights["fc1.bias"] <= 0  # relu(b) = 0
        return self.live_channels(closed, weights)

    def module(self, d_model: int) -> nn.Module:
        """The MLP in PyTorch."""
        return SquaredReluMlp(self, d_model)


_TENSORS = {
    "fc1.weight": TensorFacts((("d_intermediate",), ("d_model",))),
    "fc1.bias": TensorFacts((("d_intermediate",),), "proj_bias"),
    "fc2.weight": TensorFacts((("d_model",), ("d_intermediate",))),
    "fc2.bias": TensorFacts((("d_model",),), "proj_bias"),
}
_PROJECTIONS = {
    "fc1": ProjectionFacts(input="norm"),
    "fc2": ProjectionFacts(input="squared"),
}


class SquaredReluMlp(nn.Module):
    """The MLP; see above."""

    def __init__(self, config: SquaredReluMlpConfig, d_model: int) -> None:
        super().__init__()
        width = config.d_intermediate
        self.fc1 = Projection(d_model, width, bias=config.proj_bias)
        self.fc2 = Projection(width, d_model, bias=config.proj_bias)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """x (b, l, d_model) -> (y,), of the same shape."""
        return (self.fc2(F.relu(self.fc1(x)).square()),)
