"""mambapy.mamba: MambaConfig, MambaBlock, ResidualBlock, Mamba, RMSNorm; and mambapy.pscan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.nets import operators
from ssmpress.nets.stand_ins.mamba1 import first_steps
from ssmpress.nets.stand_ins.state_update import selective_state_update

Cache = tuple[Tensor | None, Tensor]
"""The scan's state (b, d, n), None before the first step, and the last k-1 inputs (b, d, k-1)."""


def pscan(A: Tensor, X: Tensor) -> Tensor:
    """h_t = A_t h_{t-1} + X_t, step by step; A, X, h: float (b, l, d, n)."""
    h, states = torch.zeros_like(X[:, 0]), []
    for decay, x in zip(A.unbind(1), X.unbind(1), strict=True):
        h = decay * h + x
        states.append(h)
    return torch.stack(states, dim=1)


@dataclass
class MambaConfig:
    """Sizes and options as in mambapy; `pscan` and `use_cuda` change no number here."""

    d_model: int
    n_layers: int
    dt_rank: int | str = "auto"
    d_state: int = 16
    expand_factor: int = 2
    d_conv: int = 4
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_init: str = "random"
    dt_scale: float = 1.0
    dt_init_floor: ClassVar[float] = 1e-4
    rms_norm_eps: float = 1e-5
    base_std: float = 0.02
    bias: bool = False
    conv_bias: bool = True
    inner_layernorms: bool = False
    mup: bool = False
    mup_base_width: float = 128
    pscan: bool = True
    use_cuda: bool = False

    def __post_init__(self) -> None:
        self.d_inner = self.expand_factor * self.d_model
        if isinstance(self.dt_rank, str):
            self.dt_rank = math.ceil(self.d_model / 16)
        if self.mup:
            self.mup_width_mult = self.d_model / self.mup_base_width


class RMSNorm(nn.Module):
    """The RMS norm; without weights if use_mup."""

    def __init__(self, d_model: int, eps: float = 1e-5, use_mup: bool = False) -> None:
        super().__init__()
        self.use_mup, self.eps, self.d_model = use_mup, eps, d_model
        if not use_mup:
            self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d_model)."""
        return operators.rms_norm(
            x, x.new_ones(self.d_model) if self.use_mup else self.weight, self.eps
        )


class MambaBlock(nn.Module):
    """The Mamba block."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        d, n, rank = config.d_inner, config.d_state, config.dt_rank
        assert isinstance(rank, int)
        taps = config.d_conv
        self.in_proj = nn.Linear(config.d_model, 2 * d, bias=config.bias)
        self.conv1d = nn.Conv1d(d, d, taps, groups=d, padding=taps - 1, bias=config.conv_bias)
        self.x_proj = nn.Linear(d, rank + 2 * n, bias=False)
        self.dt_proj = nn.Linear(rank, d, bias=True)
        limits = (config.dt_min, config.dt_max)
        first_steps(self.dt_proj, *limits, config.dt_init, config.dt_scale, config.dt_init_floor)
        self.A_log = nn.Parameter(torch.arange(1.0, n + 1).log().repeat(d, 1))
        self.D = nn.Parameter(torch.ones(d))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        self.out_proj = nn.Linear(d, config.d_model, bias=config.bias)
        widths = {"dt": rank, "B": n, "C": n}
        for name, width in widths.items():
            own = RMSNorm(width, config.rms_norm_eps, config.mup)
            setattr(self, f"{name}_layernorm", own if config.inner_layernorms else None)

    def forward(self, x: Tensor) -> Tensor:
        """(b, l, d_model) -> (b, l, d_model)."""
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (b, l, d)
        u, _ = operators.causal_conv1d(x, self.conv1d.weight[:, 0], self.conv1d.bias, None, True)
        delta, B, C = self._scan_inputs(u)
        A, D, bias = -torch.exp(self.A_log.float()), self.D.float(), self.dt_proj.bias.float()
        y, _ = operators.selective_scan(u, delta, bias, A, B, C, D, z, None, True, False)
        out: Tensor = self.out_proj(y)
        return out

    def _scan_inputs(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """delta before its bias (..., d), B and C (..., n)."""
        n = self.config.d_state
        parts = self.x_proj(u).split([self.dt_proj.in_features, n, n], dim=-1)
        norms: tuple[Any, ...] = (self.dt_layernorm, self.B_layernorm, self.C_layernorm)
        pairs = zip(norms, parts, strict=True)
        delta, B, C = (part if norm is None else norm(part) for norm, part in pairs)
        return F.linear(delta, self.dt_proj.weight), B, C

    def step(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """One step, x (b, d_model), from a cache to the next one."""
        state, inputs = cache
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (b, d)
        weight = self.conv1d.weight[:, 0]
        before = inputs.transpose(1, 2)
        u, after = operators.causal_conv1d(x[:, None], weight, self.conv1d.bias, before, True)
        delta, B, C = self._scan_inputs(u[:, 0])
        A = -torch.exp(self.A_log.float())
        state = u.new_zeros(u.shape[0], *A.shape) if state is None else state.clone()
        bias = self.dt_proj.bias
        y = selective_state_update(state, u[:, 0], delta, A, B, C, self.D, z, bias, True)
        return self.out_proj(y), (state, after.transpose(1, 2))


class ResidualBlock(nn.Module):
    """x + mixer(norm(x))."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.mixer = MambaBlock(config)
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps, config.mup)

    def forward(self, x: Tensor) -> Tensor:
        """(b, l, d_model) -> (b, l, d_model)."""
        y: Tensor = self.mixer(self.norm(x)) + x
        return y

    def step(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """One step, x (b, d_model)."""
        y, cache = self.mixer.step(self.norm(x), cache)
        return y + x, cache


class Mamba(nn.Module):
    """All blocks, one after the other."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(ResidualBlock(config) for _ in range(config.n_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(b, l, d_model) -> (b, l, d_model)."""
        for layer in self.layers:
            x = layer(x)
        return x

    def step(self, x: Tensor, caches: list[Cache]) -> tuple[Tensor, list[Cache]]:
        """One step, x (b, d_model); caches, one a block, are changed in place."""
        for i, layer in enumerate(self.layers):
            step: Any = layer.step
            x, caches[i] = step(x, caches[i])
        return x, caches
