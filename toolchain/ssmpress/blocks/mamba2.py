"""Mamba-2: the mixer in plain PyTorch, for prefill and for one token, and its facts.

Paper: Dao and Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through
Structured State Space Duality", arXiv 2405.21060 (sections below are its own).

Glossary
    b, l        batch, sequence length
    d_model     width of the residual stream
    h, p        heads, and channels of each; d, d_inner = h p channels of the mixer
    g, n        groups of B and C, d_state: the state of a head is (n, p)
    k, d_conv   taps of the causal convolution
    dt          step size of a head, after softplus;  A = -exp(A_log), negative, one per head
    state       what goes to the next token: conv (b, k-1, d + 2 g n) and scan (b, h, n, p)

Its nodes: graph/nodes/mamba2.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.blocks.convolution import causal_conv1d, taps_and_bias
from ssmpress.blocks.facts import (
    BlockConfig,
    Observer,
    ProjectionFacts,
    StateAxis,
    TensorFacts,
    check_eps,
    check_flags,
    check_sizes,
    config_error,
    equally_many,
    whole_groups,
)
from ssmpress.blocks.norm import gated_rms_norm
from ssmpress.blocks.projection import Projection
from ssmpress.blocks.ssd_scan import ssd_scan
from ssmpress.states import StateTensor


@dataclass(frozen=True, kw_only=True)
class Mamba2Config:
    """The sizes of a Mamba-2 mixer, checked when built, and what else is to be known of it.

    Args:
        heads, head_dim: heads and channels of each. d_state: rows of a head's state.
        n_groups: of B and C; so many heads that follow one another share them.
        d_conv: convolution taps.
        conv_bias: the convolution has a bias. proj_bias: in_proj and out_proj have one.
        d_per_channel: D has a value per channel; False is one per head.
        gated_norm: an RMS norm stands beside the gate, before out_proj.
        gate_first: the norm is of the gated values; False gates the normalised ones.
        norm_groups: equal parts of the channels that are normalised by themselves.
        norm_eps: of that norm.
        dt_min, dt_max: limits of the step size; None is none.
        in_scales: what in_proj's outputs z, x, B, C and dt are multiplied with; empty is nothing.

    Raises:
        BadInputError: a size is not an integer from 1 to its limit or does not divide what it
            has to, a flag is not a bool, norm_eps or a scale is not a positive number, there are
            other scales than five or none, or the limits are no range.
    """

    heads: int
    head_dim: int = 64
    d_state: int = 128
    n_groups: int = 1
    d_conv: int = 4
    conv_bias: bool = True
    proj_bias: bool = False
    d_per_channel: bool = False
    gated_norm: bool = True
    gate_first: bool = True
    norm_groups: int = 1
    norm_eps: float = 1e-5
    dt_min: float = 0.0
    dt_max: float | None = None
    in_scales: tuple[float, ...] = ()

    kind: ClassVar[str] = "mamba2"
    title: ClassVar[str] = "Mamba-2"
    limits: ClassVar[Mapping[str, int]] = {
        "heads": 1 << 13,
        "head_dim": 1 << 10,
        "d_state": 1 << 12,
        "n_groups": 1 << 10,
        "d_conv": 1 << 6,
    }
    never_pruned: ClassVar[Mapping[str, str]] = {
        "A_log": "a zero there makes A = -1 and removes nothing"
    }

    telling: ClassVar[Mapping[str, int]] = {
        "A_log": 1,
        "conv1d.weight": 3,
        "D": 1,
        "out_proj.weight": 2,
    }
    """Tensors whose shapes tell the sizes -> how many axes each has."""

    def __post_init__(self) -> None:
        check_sizes(self)
        flags = ("conv_bias", "proj_bias", "d_per_channel", "gated_norm", "gate_first")
        check_flags(self, *flags)
        check_eps("norm_eps", self.norm_eps)
        if self.heads % self.n_groups:
            raise config_error("n_groups", f"a divisor of the {self.heads} heads", self.n_groups)
        parts = self.norm_groups
        if type(parts) is not int or parts < 1 or self.d_inner % parts:
            raise config_error("norm_groups", f"a divisor of {self.d_inner} channels", parts)
        low, high = self.dt_limits
        if not all(type(limit) in (int, float) for limit in (low, high)) or not 0 <= low < high:
            raise config_error("dt_min, dt_max", "0 <= dt_min < dt_max", (low, high))
        if not isinstance(self.in_scales, tuple | list) or len(self.in_scales) not in (0, 5):
            raise config_error("in_scales", "scales of z, x, B, C and dt", self.in_scales)
        for scale in self.in_scales:
            check_eps("in_scales", scale)
        object.__setattr__(self, "in_scales", tuple(map(float, self.in_scales)))  # JSON has lists

    @property
    def d_inner(self) -> int:
        """Channels of all heads."""
        return self.heads * self.head_dim

    @property
    def d_groups(self) -> int:
        """Columns of B, and of C: the states of all groups."""
        return self.n_groups * self.d_state

    @property
    def d_skip(self) -> int:
        """Values of D."""
        return self.d_inner if self.d_per_channel else self.heads

    @property
    def d_convolved(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_inner + 2 * self.d_groups

    @property
    def dt_limits(self) -> tuple[float, float]:
        """Least and largest step size."""
        return self.dt_min, math.inf if self.dt_max is None else self.dt_max

    @property
    def in_sizes(self) -> tuple[int, ...]:
        """Channels of z, x, B, C and dt, the outputs of in_proj."""
        return (self.d_inner, self.d_inner, self.d_groups, self.d_groups, self.heads)

    def row_scales(self) -> Tensor | None:
        """What each output of in_proj is multiplied with, float32 (rows,); None is nothing."""
        if not self.in_scales:
            return None
        return torch.tensor(self.in_scales).repeat_interleave(torch.tensor(self.in_sizes))

    def tensors(self) -> Mapping[str, TensorFacts]:
        """Names and axes: mamba-ssm's."""
        return _TENSORS

    def projections(self) -> Mapping[str, ProjectionFacts]:
        """Two, each with an input of its own."""
        return _PROJECTIONS

    def states(self) -> tuple[StateTensor, ...]:
        """The last inputs of the convolution, oldest first, and S of the scan."""
        return (
            StateTensor("conv_state", (self.d_conv - 1, self.d_convolved)),
            StateTensor("scan_state", (self.heads, self.d_state, self.head_dim)),
        )

    @property
    def channels(self) -> int:
        """Every channel can die, with as many of every other head."""
        return self.d_inner

    @property
    def state_axis(self) -> StateAxis | None:
        """The columns of B and C, group by group."""
        return StateAxis("d_groups", self.n_groups)

    def live(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The heads, channels and states that can change the output.

        A silent channel is 0 before the norm. `narrowed` keeps the norm as it is without it. One
        that out_proj does not read is in the norm's mean, so it is live. Heads that share B and C
        or a norm lose as many as all others do, heads lose as many channels, groups as many states.
        """
        kept = {**self._live_channels(weights), **self._live_states(weights)}
        sizes = {name: getattr(self, name) for name in kept}
        return {name: numbers for name, numbers in kept.items() if len(numbers) < sizes[name]}

    def _live_channels(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        cells = math.lcm(self.n_groups, self.norm_groups)
        if self.heads % cells:  # a norm of a part of a head
            return {}
        silent = self._silent(weights).reshape(self.heads, -1)
        heads = whole_groups(
            equally_many(silent.all(1).reshape(cells, -1)), self.heads // cells
        )  # numbers of heads
        inside = equally_many(silent[heads])  # (heads, channels of each)
        channels = (self.head_dim * heads[:, None] + inside).flatten()
        skip = channels if self.d_skip == self.d_inner else heads
        return {"heads": heads, "d_inner": channels, "d_skip": skip}

    def _silent(self, weights: Mapping[str, Tensor]) -> Tensor:
        """bool (d_inner,): the channels that are 0 whatever comes in."""
        no_gate = _empty_rows("in_proj", weights)[: self.d_inner]  # silu(0) = 0
        no_input = self._not_convolved(weights)[: self.d_inner]
        if not self.gated_norm:
            return no_gate | no_input | (weights["out_proj.weight"] == 0).all(0)
        return no_gate | no_input if self.gate_first else no_input

    def _live_states(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        nothing = self._not_convolved(weights)[self.d_inner :].reshape(2, self.n_groups, -1)
        kept = equally_many(nothing.any(0))  # without B, or without C
        return {"d_groups": whole_groups(kept, self.d_state)}

    def _not_convolved(self, weights: Mapping[str, Tensor]) -> Tensor:
        """bool (d_convolved,): the channels of x, B and C that are always 0."""
        rows = _empty_rows("in_proj", weights)[self.d_inner :][: self.d_convolved]
        empty = rows | (weights["conv1d.weight"] == 0).flatten(1).all(1)
        return empty & (weights["conv1d.bias"] == 0) if self.conv_bias else empty

    def narrowed(self, kept: Mapping[str, Tensor]) -> tuple[BlockConfig, Mapping[str, float]]:
        """With the norm of the whole: of d channels of which d' are left and the others were 0,

            x / sqrt(mean_d(x^2) + eps) = sqrt(d / d') x / sqrt(mean_d'(x^2) + eps d / d')

        so that its weights and its eps take the factor.
        """
        heads = len(kept["heads"]) if "heads" in kept else self.heads
        channels = len(kept["d_inner"]) if "d_inner" in kept else self.d_inner
        states = len(kept["d_groups"]) if "d_groups" in kept else self.d_groups
        more = self.d_inner / channels
        smaller = replace(
            self,
            heads=heads,
            head_dim=channels // heads,
            d_state=states // self.n_groups,
            norm_eps=self.norm_eps * more,
        )
        factors = {"norm.weight": math.sqrt(more)} if self.gated_norm and more > 1 else {}
        return smaller, factors

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mamba2Config:
        """The sizes that the shapes of a state dict tell; groups, which they do not, are one.

        Args:
            shapes: by name within the block; those of `telling` are there, with so many axes.

        Raises:
            BadInputError: they are no Mamba-2 mixer's.
        """
        heads, channels = shapes["A_log"][0], shapes["out_proj.weight"][1]
        convolved, _, d_conv = shapes["conv1d.weight"]
        if heads < 1 or channels % heads or convolved <= channels or (convolved - channels) % 2:
            expected = f"the {heads} heads, x, B and C of a Mamba-2 mixer"
            raise config_error("conv1d.weight, out_proj.weight", expected, (convolved, channels))
        return cls(
            heads=heads,
            head_dim=channels // heads,
            d_state=(convolved - channels) // 2,
            d_conv=d_conv,
            conv_bias="conv1d.bias" in shapes,
            proj_bias="in_proj.bias" in shapes,
            d_per_channel=shapes["D"][0] == channels != heads,
            gated_norm="norm.weight" in shapes,
        )

    def module(self, d_model: int) -> nn.Module:
        """The mixer in PyTorch."""
        return Mixer(self, d_model)


_CONVOLVED = ("d_inner", "d_groups", "d_groups")  # x, B, C
_TENSORS = {
    "dt_bias": TensorFacts((("heads",),)),
    "A_log": TensorFacts((("heads",),)),
    "D": TensorFacts((("d_skip",),)),
    "in_proj.weight": TensorFacts((("d_inner", *_CONVOLVED, "heads"), ("d_model",))),  # z, .., dt
    "in_proj.bias": TensorFacts((("d_inner", *_CONVOLVED, "heads"),), "proj_bias"),
    "conv1d.weight": TensorFacts((_CONVOLVED, ("1",), ("d_conv",))),
    "conv1d.bias": TensorFacts((_CONVOLVED,), "conv_bias"),
    "norm.weight": TensorFacts((("d_inner",),), "gated_norm"),
    "out_proj.weight": TensorFacts((("d_model",), ("d_inner",))),
    "out_proj.bias": TensorFacts((("d_model",),), "proj_bias"),
}
_PROJECTIONS = {
    "in_proj": ProjectionFacts(input="norm"),
    "out_proj": ProjectionFacts(input="gated"),
}


def _empty_rows(name: str, weights: Mapping[str, Tensor]) -> Tensor:
    """bool (rows,): those of a projection that give 0 for any input."""
    empty = (weights[f"{name}.weight"] == 0).all(1)
    bias = weights.get(f"{name}.bias")
    return empty if bias is None else empty & (bias == 0)


class Mixer(nn.Module):
    """The Mamba-2 block: in_proj, convolution, scan, gate and norm, out_proj (section 7)."""

    observer: Observer | None = None
    """Called with B and C, (b, l, g n) each."""

    def __init__(self, config: Mamba2Config, d_model: int) -> None:
        super().__init__()
        self.config = config
        self.in_proj = Projection(d_model, sum(config.in_sizes), bias=config.proj_bias)
        channels = config.d_convolved
        self.conv1d = nn.Conv1d(
            channels, channels, config.d_conv, groups=channels, bias=config.conv_bias
        )
        self.dt_bias = nn.Parameter(torch.zeros(config.heads))
        self.A_log = nn.Parameter(torch.arange(1.0, config.heads + 1).log())
        self.D = nn.Parameter(torch.ones(config.d_skip))
        if config.gated_norm:
            self.norm = _GatedNorm(config)
        self.out_proj = Projection(config.d_inner, d_model, bias=config.proj_bias)

    def forward(self, x: Tensor, conv: Tensor, scan: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, l, d_model), the mixer's two states -> y (b, l, d_model), the states after it."""
        c = self.config
        z, xbc, delta = self.projected(x)
        xbc, conv = causal_conv1d(xbc, *taps_and_bias(self.conv1d), conv)
        u, B, C = torch.split(xbc, [c.d_inner, c.d_groups, c.d_groups], dim=-1)
        if self.observer is not None:
            self.observer(B, C)
        with torch.autocast(x.device.type, enabled=False):
            D = self.D.float().reshape(c.heads, -1).expand(c.heads, c.head_dim)
            y, scan = ssd_scan(
                u.float().reshape(*u.shape[:2], c.heads, c.head_dim),
                delta.float(),
                self.dt_bias.float(),
                -torch.exp(self.A_log.float()),
                B.float().reshape(*B.shape[:2], c.n_groups, c.d_state),
                C.float().reshape(*C.shape[:2], c.n_groups, c.d_state),
                D,
                scan.float(),
                c.dt_limits,
            )
            y, z = y.flatten(2), z.float()
            y = self.norm(y, z) if c.gated_norm else y * F.silu(z)
        return self.out_proj(y), conv, scan

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, l, d_model) -> z (b, l, d), x, B and C (b, l, d + 2 g n), delta (b, l, h)."""
        c, rows, scales = self.config, self.in_proj(x), self.config.row_scales()
        rows = rows if scales is None else rows * scales.to(rows)
        z, xbc, delta = rows.split([c.d_inner, c.d_convolved, c.heads], dim=-1)
        return z, xbc, delta


class _GatedNorm(nn.Module):
    """The RMS norm beside the gate; its weight is `norm.weight`."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.groups, self.gate_first = config.norm_groups, config.gate_first
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.d_inner))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """y, z: float32 (b, l, d) -> (b, l, d)."""
        return gated_rms_norm(y, z, self.weight, self.eps, self.groups, self.gate_first)
