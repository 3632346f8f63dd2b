"""Small networks with Mamba blocks in them, as people write them: each another design.

`ZOO` has a Network for each, with random weights; `drawn` gives its inputs of any sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.nets.network import Network
from ssmpress.nets.stand_ins import stand_ins

with stand_ins(always=True):
    from mamba_ssm import Mamba, Mamba2
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    from mamba_ssm.ops.triton.layer_norm import RMSNorm
    from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

D = 12  # channels of every network here


class Residual(nn.Module):
    """x + block(norm(x))."""

    def __init__(self, block: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.block = norm or nn.LayerNorm(D), block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.block(self.norm(x))
        return y


class BothWays(nn.Module):
    """One block over the sequence and its reverse, side by side."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.out = block, nn.Linear(2 * D, D)

    def forward(self, x: Tensor) -> Tensor:
        backwards = self.block(x.flip(1)).flip(1)
        y: Tensor = self.out(torch.cat([self.block(x), backwards], -1))
        return y


class TwoScans(nn.Module):
    """Two directions summed, after a convolution that looks ahead, with softplus and an offset."""

    def __init__(self, states: int = 16, rank: int = 3) -> None:
        super().__init__()
        self.states, self.rank = states, rank
        self.in_proj, self.out_proj = nn.Linear(D, 2 * D), nn.Linear(D, D)
        self.conv = nn.Conv1d(D, D, 4, groups=D, padding="same")
        self.x_proj, self.dt_proj = nn.Linear(D, rank + 2 * states), nn.Linear(rank, D)
        self.A_log = nn.Parameter(torch.randn(D, states))
        self.D = nn.Parameter(torch.randn(D))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.in_proj(x).chunk(2, -1)
        u = F.silu(self.conv(u.mT)).mT
        delta, B, C = self.x_proj(u).split([self.rank, self.states, self.states], -1)
        delta, A = F.softplus(self.dt_proj(delta)) + 1e-4, -torch.exp(self.A_log)
        forwards = selective_scan_fn(u.mT, delta.mT, A, B.mT, C.mT, self.D)
        flipped = (t.flip(1).mT for t in (u, delta, B, C))
        u_, delta_, B_, C_ = flipped
        backwards = selective_scan_fn(u_, delta_, A, B_, C_, self.D).flip(2)
        y: Tensor = self.out_proj((forwards + backwards).mT * F.silu(gate))
        return y


class BareScan(nn.Module):
    """No convolution, gate, D or softplus; steps are exponentials; many states."""

    def __init__(self, states: int, reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse
        self.steps = nn.Linear(D, D)
        self.B, self.C = nn.Linear(D, states, bias=False), nn.Linear(D, states, bias=False)
        self.A = nn.Parameter(-torch.rand(D, states))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flip(1) if self.reverse else x
        delta = torch.exp(self.steps(x) - 2)
        y: Tensor = selective_scan_fn(
            x.transpose(1, 2), delta.transpose(1, 2), self.A, self.B(x).mT, self.C(x).mT
        ).mT
        return y.flip(1) if self.reverse else y


class ConstantMatrices(nn.Module):
    """B and C that are the same at every step, of each channel its own; a bias under softplus."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.randn(D))
        self.A, self.B = nn.Parameter(-torch.rand(D, 5)), nn.Parameter(torch.randn(D, 5))
        self.C, self.gate = nn.Parameter(torch.randn(D, 5)), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        u, z = x.mT, self.gate(x).mT
        zeros = torch.zeros_like(u)
        y: Tensor = selective_scan_fn(
            u, zeros, self.A, self.B, self.C, z=z, delta_bias=self.steps, delta_softplus=True
        )
        return y.mT


class AsWritten(nn.Module):
    """The block as mamba-ssm's own file has it: products from the left, axes turned to and fro."""

    def __init__(self, inner: int = 16, states: int = 5, rank: int = 2) -> None:
        super().__init__()
        self.states, self.rank = states, rank
        self.in_proj, self.out_proj = nn.Linear(D, 2 * inner), nn.Linear(inner, D, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log, self.D = (
            nn.Parameter(torch.randn(inner, states)),
            nn.Parameter(torch.ones(inner)),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        columns = x.permute(2, 0, 1).reshape(D, batch * length)
        xz = (self.in_proj.weight @ columns).reshape(-1, batch, length).permute(1, 0, 2)
        xz = xz + self.in_proj.bias.to(dtype=xz.dtype)[:, None]
        u, z = xz.chunk(2, dim=1)
        u = F.silu(self.conv1d(u)[..., :length])
        parts = self.x_proj(u.permute(0, 2, 1).reshape(batch * length, -1))
        delta, B, C = torch.split(parts, [self.rank, self.states, self.states], dim=-1)
        delta = (self.dt_proj.weight @ delta.t()).reshape(-1, batch, length).permute(1, 0, 2)
        B, C = (t.reshape(batch, length, -1).permute(0, 2, 1).contiguous() for t in (B, C))
        bias = self.dt_proj.bias.float()
        y = selective_scan_fn(
            u, delta, -torch.exp(self.A_log.float()), B, C, self.D.float(), z, bias, True
        )
        out: Tensor = self.out_proj(y.permute(0, 2, 1))
        return out


class GivenSteps(nn.Module):
    """Mamba-2's scan of steps that are computed before it, within limits; two groups; a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.B, self.C = nn.Linear(D, 4), nn.Linear(D, 2 * 5), nn.Linear(D, 2 * 5)
        self.A, self.D = nn.Parameter(-torch.rand(4)), nn.Parameter(torch.randn(4))
        self.state, self.norm = nn.Parameter(torch.randn(1, 4, 3, 5)), nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        B, C = (part(x).unflatten(-1, (2, 5)) for part in (self.B, self.C))
        y: Tensor = mamba_chunk_scan_combined(
            x.unflatten(-1, (4, 3)),
            self.steps(x).exp(),
            self.A,
            B,
            C,
            chunk_size=4,
            D=self.D,
            initial_states=self.state.expand(x.shape[0], -1, -1, -1),
            dt_limit=(0.01, 2.0),
        ).flatten(2)
        flat: Tensor = rmsnorm_fn(y.flatten(0, 1), self.norm, None, z=x.flatten(0, 1), eps=1e-5)
        return flat.unflatten(0, x.shape[:2])


class Products(nn.Module):
    """Parameters multiplied with in every spelling, whole, in part and twice."""

    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Parameter(torch.randn(D, 7) / 3)
        self.left = nn.Parameter(torch.randn(D, 7) / 3)
        self.summed = nn.Parameter(torch.randn(D, 5) / 3)
        self.stacked = nn.Parameter(torch.randn(5, D) / 3)
        self.fused = nn.Linear(D, 3 * D)
        self.twice = nn.Linear(D, D)
        self.tied = nn.Linear(D, D, bias=False)
        self.tied_too = nn.Linear(D, D, bias=False)
        self.tied_too.weight = self.tied.weight

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.right  # (b, l, 7)
        y = (self.left @ y.transpose(1, 2)).transpose(1, 2)  # (b, l, D)
        z = torch.einsum("bld,dr->brl", y, self.summed)
        y = y + torch.bmm(z.mT, self.stacked.expand(x.shape[0], 5, D))
        q, k, _ = self.fused.weight.chunk(3)
        y = y + F.linear(x, q) * F.linear(x, k)
        y = self.twice(torch.tanh(self.twice(y)))
        y = self.tied(y) + self.tied_too(x)
        bias = self.fused.bias[:7]
        return torch.addmm(bias, y.flatten(0, 1), self.right.relu()).unflatten(0, y.shape[:2])


class Pooled(nn.Module):
    """1x1 convolutions, BatchNorm, a Mamba block, attention pooling; scores of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv1d(3, D, 1), nn.BatchNorm1d(D), nn.ReLU())
        self.blocks = nn.ModuleList([Residual(Mamba(D, d_state=8)) for _ in range(2)])
        self.attention, self.head = nn.Conv1d(D, 1, 1), nn.Linear(D, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.embed(x).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        weights = self.attention(x.mT).softmax(-1)  # (b, 1, l)
        return {"scores": self.head((weights @ x).squeeze(1)), "attention": weights.squeeze(1)}


class Vision(nn.Module):
    """Patches, a class token amid them, positions, two directions; 1x1 convolutions in 2-D."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.GELU(), nn.Conv2d(6, D, 1))
        self.token = nn.Parameter(torch.randn(1, 1, D))
        self.positions = nn.Parameter(torch.randn(1, 17, D))
        self.layers = nn.Sequential(Residual(Mamba(D, d_state=8, bimamba_type="v2"), RMSNorm(D)))
        self.head = nn.Linear(D, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).mT  # (b, 16, D)
        token = self.token.expand(x.shape[0], -1, -1)
        x = torch.cat([x[:, :8], token, x[:, 8:]], 1) + self.positions
        scores: Tensor = self.head(self.layers(x)[:, 8])
        return scores


class Spectrogram(nn.Module):
    """Time and frequency: blocks along either axis, an LSTM's place taken by scans; a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2, D, (1, 3), padding=(0, 1))
        self.time, self.frequency = Residual(Mamba(D)), Residual(BothWays(Mamba(D)))
        self.leave = nn.Conv2d(D, 2, 1)

    def forward(self, spectrum: Tensor) -> Tensor:
        x = self.enter(spectrum)  # (b, D, t, f)
        b, d, t, f = x.shape
        x = x.permute(0, 3, 2, 1).reshape(b * f, t, d)
        x = self.time(x).reshape(b, f, t, d).transpose(1, 2).reshape(b * t, f, d)
        x = self.frequency(x).reshape(b, t, f, d).permute(0, 3, 1, 2)
        return spectrum * torch.sigmoid(self.leave(x))


class Streaming(nn.Module):
    """A convolution whose last inputs come in and go out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv1d(D, D, 3, groups=D), nn.Linear(D, D)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([past, x], 1)
        return self.mix(self.conv(x.mT).mT), x[:, -2:]


def sequence(build: Callable[[], nn.Module], length: int = 9, channels: int = D) -> Network:
    """A network of float32 (batch, length, channels)."""
    return network(build, {"x": torch.zeros(1, length, channels)}, {"x": {0: "batch", 1: "length"}})


def network(
    build: Callable[[], nn.Module],
    inputs: Mapping[str, Tensor],
    dynamic: Mapping[str, Mapping[int, str]],
    **settings: Any,
) -> Network:
    """A network whose samples nobody asks for."""
    return Network(
        build=build,
        inputs=inputs,
        dynamic=dynamic,
        samples=lambda split: [],
        loss=lambda outputs, target: outputs.sum(),
        metric=lambda outputs, target: 0.0,
        **settings,
    )


def built(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The same module at every call, statistics of its norms included."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        module = build().eval()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d):
                nn.init.uniform_(part.running_mean, -1, 1)  # type: ignore[arg-type]
                nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
        return module

    return make


def two(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Two residual blocks."""
    return built(lambda: nn.Sequential(Residual(make()), Residual(make())))


ZOO: dict[str, Network] = {
    "mamba": sequence(two(lambda: Mamba(D, d_state=16, bias=True))),
    "mamba2": sequence(built(lambda: Residual(Mamba2(D, d_state=8, headdim=8), RMSNorm(D)))),
    "both ways, one block": sequence(two(lambda: BothWays(Mamba(D, d_state=8)))),
    "two scans summed": sequence(two(TwoScans)),
    "64 states, bare": sequence(two(lambda: BareScan(64, reverse=False))),
    "bare, backwards": sequence(two(lambda: BareScan(5, reverse=True))),
    "constant B and C": sequence(built(ConstantMatrices)),
    "as mamba-ssm writes it": sequence(two(AsWritten)),
    "given steps": sequence(two(GivenSteps)),
    "products": sequence(built(Products)),
    "tokens": network(
        built(
            lambda: nn.Sequential(nn.Embedding(20, D), Residual(TwoScans(7, 1)), nn.Linear(D, 3))
        ),
        {"input": torch.zeros(1, 9, dtype=torch.int64)},
        {"input": {0: "batch", 1: "length"}},
        outputs=["scores"],
    ),
    "pooled": network(built(Pooled), {"x": torch.zeros(1, 3, 9)}, {"x": {0: "batch", 2: "length"}}),
    "vision": network(built(Vision), {"image": torch.zeros(1, 3, 16, 16)}, {"image": {0: "batch"}}),
    "spectrogram": network(
        built(Spectrogram), {"spectrum": torch.zeros(1, 2, 6, 5)}, {"spectrum": {2: "frames"}}
    ),
    "streaming": network(
        built(Streaming),
        {"x": torch.zeros(1, 4, D), "past": torch.zeros(1, 2, D)},
        {"x": {1: "length"}},
        outputs=["y", "last"],
        states={"past": "last"},
    ),
}


def drawn(net: Network, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """Random inputs. sizes: of those that vary, by name; the example's where they are left out."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, example in net.inputs.items():
        axes = net.dynamic.get(name, {})
        shape = [sizes.get(axes.get(i, ""), size) for i, size in enumerate(example.shape)]
        if example.is_floating_point():
            tensors[name] = torch.randn(shape, generator=generator)
        else:
            tensors[name] = torch.randint(0, 20, shape, generator=generator)
    return tensors
