"""A network with what networks have, its weights, and what tests say of reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssmpress.errors import BadInputError
from ssmpress.nets.stand_ins.mamba1 import Mamba
from ssmpress.nets.weights import read_weights_for

Tensors = dict[str, Tensor]


class Net(nn.Module):
    """What networks have: a 1x1 convolution, a block, norms with buffers, tables, a tied matrix."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.patch = nn.Conv1d(3, width, 1)
        self.blocks = nn.ModuleList([Mamba(width, d_state=2, d_conv=2) for _ in range(2)])
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 3, bias=False)
        self.tied = nn.Linear(width, 3, bias=False)
        self.tied.weight = self.head.weight
        self.register_buffer("order", torch.arange(4))
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("made", torch.ones(2), persistent=False)


def trained(net: nn.Module | None = None) -> Tensors:
    """A state dict of other values than a new net has."""
    state = (net or Net()).state_dict()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not name.endswith("mask"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return {name: tensor.clone() for name, tensor in state.items()} | {
        name: state["head.weight"] for name in ("head.weight", "tied.weight") if name in state
    }


def saved(value: Any, folder: Path, name: str = "weights.pt") -> Path:
    torch.save(value, folder / name)
    return folder / name


def same(tensors: Tensors, expected: Tensors) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        wide = tensor.float() if tensor.is_floating_point() else tensor
        torch.testing.assert_close(tensors[name], wide, rtol=0, atol=0, msg=name)


def refusal(path: Path, net: nn.Module | None = None, weights_of: str | None = None) -> str:
    with pytest.raises(BadInputError) as caught:
        read_weights_for(path, net or Net(), weights_of)
    return str(caught.value)


class Bomb:
    """An object that does something when it is unpickled or made."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)
