"""What pruning asks of a model: its matrices, their shapes, and to be an nn.Module.

`blocks.model.Mamba` answers it, and `nets.module.NetworkModule` around a network of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssmpress.blocks.tensors import MatrixSpec


class Weights(Protocol):
    """What the tensors of a model are; of a configuration, `blocks.tensors.weights_of`.

    matrices: name of a parameter -> what it is, of every matrix, in the model's order. A weight of
        a 1x1 convolution is one too, (rows, columns, 1) or (rows, columns, 1, 1).
    shapes: of every tensor by name, each once, however many names it has.
    never_pruned: what somebody may ask to prune and no model can lose, by name, and why.
    """

    @property
    def matrices(self) -> Mapping[str, MatrixSpec]: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def never_pruned(self) -> Mapping[str, str]: ...


class Model(Weights, Protocol):
    """A model that can be pruned and trained: an nn.Module in float32."""

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by the names of `shapes`. They share its storage."""

    def tie_weights(self) -> None:
        """Make one again what is one tensor under several names."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As nn.Module: each parameter once."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As nn.Module."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As nn.Module."""

    def to(self, device: torch.device) -> Any:
        """As nn.Module: in place."""
