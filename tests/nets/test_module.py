"""NetworkModule: names, ties, modes, copies."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import small_network as small
from ssmpress.blocks.tensors import MatrixSpec, Role
from ssmpress.nets.module import NetworkModule, copy_of


def test_tensors_have_the_users_names_each_once() -> None:
    model = small.dense()
    names = set(model.module.state_dict())
    assert set(model.tensors()) == names - {"second.weight"}
    assert {name for name, _ in model.named_parameters()} == {
        name for name, _ in model.module.named_parameters()
    }
    assert model.shapes["embed.weight"] == (small.WIDTH, 2, 1)
    assert model.shapes["norm.num_batches_tracked"] == ()
    assert model.matrices["first.weight"].component == "first"
    model.tensors()["head.bias"].fill_(7)
    assert bool((model.module.head.bias == 7).all())


def test_a_tie_holds_through_copies_loads_and_other_hands() -> None:
    model = small.dense()
    copy = deepcopy(model)
    assert copy.module.second.weight is copy.module.first.weight
    assert copy.module.first.weight is not model.module.first.weight
    other = {name: tensor + 1 for name, tensor in model.tensors().items()}
    copy.load(other)
    assert torch.equal(copy.module.second.weight, other["first.weight"])
    assert torch.equal(copy.module.norm.num_batches_tracked, other["norm.num_batches_tracked"])
    copy.module.second.weight = nn.Parameter(torch.zeros(small.WIDTH, small.WIDTH))
    copy.tie_weights()
    assert copy.module.second.weight is copy.module.first.weight


def test_only_what_makes_noise_learns_in_train_mode() -> None:
    model = small.dense()
    x = torch.randn(4, small.LENGTH, 2, generator=torch.Generator().manual_seed(0))

    def outputs(seed: int) -> Tensor:
        with model.learning(seed), torch.no_grad():
            on = [part for part in model.module.modules() if part.training]
            assert {type(part) for part in on} == {nn.Dropout, nn.SiLU}
            return model.module(x)

    before = torch.random.get_rng_state()
    means = model.module.norm.running_mean.clone()
    assert torch.equal(outputs(1), outputs(1))
    assert not torch.equal(outputs(1), outputs(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(model.module.norm.running_mean, means)
    with torch.no_grad():
        assert torch.equal(model.module(x), deepcopy(model).module(x))
    with pytest.raises(ZeroDivisionError), model.learning(0):
        raise ZeroDivisionError
    assert not any(part.training for part in model.module.modules())


class Parts(nn.Module):
    """What networks have besides: a frozen weight, an LSTM, an older weight norm, a plain basis."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.fixed = nn.Linear(3, 3), nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        self.fixed.requires_grad_(False)
        self.memory = nn.LSTM(3, 3, batch_first=True)
        self.old = torch.nn.utils.weight_norm(nn.Linear(3, 3))
        self.register_buffer("basis", torch.eye(3), persistent=False)

    def forward(self, x: Tensor) -> Any:
        return self.old(self.memory(self.fixed(self.frozen(x)))[0]) @ self.basis


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_frozen_weights_learn_only_where_they_are_pruned_and_odd_parts_are_copied() -> None:
    module = Parts()
    spec = MatrixSpec(Role.PROJECTION, "frozen")
    model = NetworkModule(module, {"frozen.weight": spec, "basis": spec})
    assert module.frozen.weight.requires_grad
    assert not module.frozen.bias.requires_grad
    assert not module.fixed.weight.requires_grad
    assert list(model.matrices) == ["frozen.weight"]  # a buffer is no weight that is pruned
    assert "basis" in model.tensors()
    with model.learning(0):
        assert [n for n, part in module.named_modules() if part.training] == ["memory"]
    x = torch.ones(1, 2, 3)
    module(x).sum().backward()
    with torch.no_grad():
        assert torch.equal(deepcopy(model).module(x), module(x))
    module(x)  # the old weight norm keeps what it computed, with its graph
    with torch.no_grad():
        assert torch.equal(copy_of(module)(x), module(x))
