"""A small network of one's own: two directions of Mamba, a 1x1 convolution, dropout, BatchNorm and
two layers that share a weight; and the batches that it learns from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.blocks.tensors import MatrixSpec, Role
from ssmpress.nets.module import NetworkModule
from ssmpress.nets.network import Network
from ssmpress.nets.samples import NetworkSamples, read_samples
from ssmpress.nets.stand_ins import stand_ins
from ssmpress.prune.materials import NetworkMaterial
from ssmpress.tasks.task import Metric

with stand_ins(always=True):
    from mamba_ssm import Mamba

WIDTH, CLASSES, LENGTH = 12, 3, 10
METRIC = Metric("accuracy", "an accuracy", higher_is_better=True)


class TwoWays(nn.Module):
    """(b, l, 2) -> logits (b, 3): which of three waves a series is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(2, WIDTH, 1)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.layers = nn.ModuleList(
            nn.ModuleDict({way: Mamba(WIDTH, d_state=4, expand=1) for way in ("ahead", "back")})
            for _ in range(2)
        )
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x.transpose(1, 2))).transpose(1, 2)
        for layer in self.layers:
            x = x + layer["ahead"](x) + layer["back"](x.flip(1)).flip(1)
        x = self.second(F.silu(self.first(self.dropout(x))))
        return self.head(x.mean(1))


def batches(seed: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Waves of three lengths with noise, eight at a time."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        kind = torch.randint(CLASSES, (8,), generator=generator)
        time = torch.arange(LENGTH) + 6 * torch.rand(8, 1, generator=generator)
        wave = torch.sin(time / (kind[:, None] + 1))
        x = torch.stack([wave, wave.roll(1, 1)], -1)
        yield x + 0.1 * torch.randn(x.shape, generator=generator), kind


def network(**changes: Any) -> Network:
    """What ssmpress is told of it."""
    plain = Network(
        build=TwoWays,
        inputs={"x": torch.zeros(1, LENGTH, 2)},
        dynamic={"x": {0: "batch"}},
        samples=lambda split: batches(1 if split == "calibration" else 2, 40),
        loss=F.cross_entropy,
        metric=lambda outputs, target: (outputs.argmax(-1) == target).float().mean(),
        metric_name="accuracy",
    )
    return replace(plain, **changes)


def specs_of(module: nn.Module) -> dict[str, MatrixSpec]:
    """Every linear layer and 1x1 convolution, as tracing finds them."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    specs = {}
    for name, part in module.named_modules():
        if isinstance(part, kinds) and all(size == 1 for size in part.weight.shape[2:]):
            words = name.split(".")
            layer = next((int(word) for word in words if word.isdigit()), None)
            specs[f"{name}.weight"] = MatrixSpec(Role.PROJECTION, words[-1], layer)
    return specs


@cache
def trained() -> dict[str, Tensor]:
    """Weights that know the waves."""
    torch.manual_seed(0)
    module = TwoWays()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for x, kind in batches(0, 60):
        optimizer.zero_grad()
        F.cross_entropy(module(x), kind).backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def dense() -> NetworkModule:
    """The trained network."""
    module = TwoWays()
    module.load_state_dict(trained())
    return NetworkModule(module, specs_of(module))


def samples(net: Network | None = None, split: str = "calibration") -> NetworkSamples:
    """The batches of a split, as they are read."""
    return read_samples(net or network(), split, dense().module)


def material(net: Network | None = None) -> NetworkMaterial:
    """What it learns from."""
    return NetworkMaterial(samples(net), METRIC)
