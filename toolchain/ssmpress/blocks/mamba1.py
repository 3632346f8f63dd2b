"""Mamba-1: the mixer in plain PyTorch, for prefill and for one token, and its facts.

Paper: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
arXiv 2312.00752 (sections and equations below are its own).

Glossary
    b, l        batch, sequence length
    d_model     width of the residual stream
    d, d_inner  channels of the mixer (expand * d_model)
    n, d_state  state size per channel
    r, dt_rank  rank of the delta projection
    k, d_conv   taps of the causal convolution
    delta       step size after softplus;  A = -exp(A_log), negative
    state       what the mixer carries to the next token: conv (b, k-1, d) and scan (b, n, d)

Tensors are channel-last, the scan state is (b, n, d) and A is (n, d): the layout of the ONNX ops.
Its nodes: graph/nodes/mamba1.py. How it runs on a GPU: blocks/gpu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
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
    resized,
    without,
)
from ssmpress.blocks.norm import RMSNorm, rms_norm
from ssmpress.blocks.projection import Projection
from ssmpress.blocks.selective_scan import selective_scan
from ssmpress.states import StateTensor

ScanFunction = Callable[..., tuple[Tensor, Tensor]]
"""Takes and returns what `selective_scan` does."""


@dataclass(frozen=True, kw_only=True)
class Mamba1Config:
    """The sizes of a Mamba-1 mixer, checked when built, and what else is to be known of it.

    Args:
        d_inner: channels. d_state: state per channel. d_conv: convolution taps.
        dt_rank: rank of the delta projection.
        conv_bias: the convolution has a bias. proj_bias: in_proj and out_proj have one.
        dbc_norm_eps: of RMS norms over delta, B and C, between x_proj and what reads them. None is
            Mamba, without norms.
        dbc_norm_weights: those norms have weights: Jamba (arXiv 2403.19887). False is FalconMamba
            (arXiv 2410.05355).

    Raises:
        BadInputError: a size is not an integer from 1 to its limit, a flag not a bool,
            dbc_norm_eps not a positive number, or there are weights of norms and no norms.
    """

    d_inner: int
    d_state: int = 16
    d_conv: int = 4
    dt_rank: int
    conv_bias: bool = True
    proj_bias: bool = False
    dbc_norm_eps: float | None = None
    dbc_norm_weights: bool = False

    kind: ClassVar[str] = "mamba1"
    limits: ClassVar[Mapping[str, int]] = {
        "d_state": 1 << 10,
        "d_conv": 1 << 6,
        "d_inner": 1 << 18,
        "dt_rank": 1 << 16,
    }
    never_pruned: ClassVar[Mapping[str, str]] = {
        "A_log": "a zero there makes A = -1 and removes nothing"
    }
    telling: ClassVar[Mapping[str, int]] = {"A_log": 2, "conv1d.weight": 3, "dt_proj.weight": 2}
    """Tensors whose shapes tell the sizes -> how many axes each has."""

    def __post_init__(self) -> None:
        check_sizes(self)
        check_flags(self, "conv_bias", "proj_bias", "dbc_norm_weights")
        if self.dbc_norm_eps is not None or self.dbc_norm_weights:
            check_eps("dbc_norm_eps", self.dbc_norm_eps)

    @property
    def title(self) -> str:
        """Mamba-1, or FalconMamba's or Jamba's with their norms."""
        if self.dbc_norm_weights:
            return "Jamba's Mamba-1"
        return "Mamba-1" if self.dbc_norm_eps is None else "FalconMamba"

    def tensors(self) -> Mapping[str, TensorFacts]:
        """Names and axes: mamba-ssm's."""
        return _TENSORS

    def projections(self) -> Mapping[str, ProjectionFacts]:
        """Four, each with an input of its own; dt_proj's bias belongs to the scan."""
        return _PROJECTIONS

    def states(self) -> tuple[StateTensor, ...]:
        """The last inputs of the convolution, oldest first, and h of the selective scan."""
        return (
            StateTensor("conv_state", (self.d_conv - 1, self.d_inner)),
            StateTensor("scan_state", (self.d_state, self.d_inner)),
        )

    @property
    def channels(self) -> int:
        """Every channel can die: each may lose its ways to the output."""
        return self.d_inner

    @property
    def state_axis(self) -> StateAxis | None:
        """d_state; not of FalconMamba and Jamba, whose norms are means over it."""
        return StateAxis("d_state") if self.dbc_norm_eps is None else None

    def live(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The channels that reach the output, and the states that are written and read.

        A channel does by out_proj, through its gate, and by x_proj, which makes delta, B and C of
        all channels from it. Where both ways are closed, its convolution, its state and its rows
        and columns of the projections can go. So can a state without a row of B or C.
        """
        states = self._dead_states(weights["x_proj.weight"])
        gate_closed = (weights["in_proj.weight"][self.d_inner :] == 0).all(1)  # silu(0) = 0
        if "in_proj.bias" in weights:
            gate_closed &= weights["in_proj.bias"][self.d_inner :] == 0
        silent = gate_closed | (weights["out_proj.weight"] == 0).all(0)
        of_dead = torch.cat([torch.zeros(self.dt_rank, dtype=torch.bool), states, states])
        unread = (weights["x_proj.weight"][~of_dead] == 0).all(0)
        return {**without("d_inner", silent & unread), **without("d_state", states)}

    def _dead_states(self, x_proj: Tensor) -> Tensor:
        """bool (d_state,): those that nothing is written to, or that nobody reads."""
        if self.dbc_norm_eps is not None:  # the norms' means are over the dead ones too
            return torch.zeros(self.d_state, dtype=torch.bool)
        empty = (x_proj[self.dt_rank :] == 0).all(1)  # B, then C
        return empty.reshape(2, self.d_state).any(0)

    def narrowed(self, kept: Mapping[str, Tensor]) -> tuple[BlockConfig, Mapping[str, float]]:
        """Its sizes are fields."""
        return resized(self, kept)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mamba1Config:
        """The sizes that the shapes of a state dict tell.

        Args:
            shapes: by name within the block; those of `telling` are there, with so many axes.
        """
        d_inner, d_state = shapes["A_log"]
        return cls(
            d_inner=d_inner,
            d_state=d_state,
            d_conv=shapes["conv1d.weight"][2],
            dt_rank=shapes["dt_proj.weight"][1],
            conv_bias="conv1d.bias" in shapes,
            proj_bias="in_proj.bias" in shapes,
        )

    def module(self, d_model: int) -> nn.Module:
        """The mixer in PyTorch."""
        return Mixer(self, d_model)


_TENSORS = {
    "A_log": TensorFacts((("d_inner",), ("d_state",))),
    "D": TensorFacts((("d_inner",),)),
    "in_proj.weight": TensorFacts((("d_inner", "d_inner"), ("d_model",))),  # x, then the gate z
    "in_proj.bias": TensorFacts((("d_inner", "d_inner"),), "proj_bias"),
    "conv1d.weight": TensorFacts((("d_inner",), ("1",), ("d_conv",))),
    "conv1d.bias": TensorFacts((("d_inner",),), "conv_bias"),
    "x_proj.weight": TensorFacts((("dt_rank", "d_state", "d_state"), ("d_inner",))),  # delta, B, C
    "dt_norm.weight": TensorFacts((("dt_rank",),), "dbc_norm_weights"),
    "B_norm.weight": TensorFacts((("d_state",),), "dbc_norm_weights"),
    "C_norm.weight": TensorFacts((("d_state",),), "dbc_norm_weights"),
    "dt_proj.weight": TensorFacts((("d_inner",), ("dt_rank",))),
    "dt_proj.bias": TensorFacts((("d_inner",),)),
    "out_proj.weight": TensorFacts((("d_model",), ("d_inner",))),
    "out_proj.bias": TensorFacts((("d_model",),), "proj_bias"),
}
_PROJECTIONS = {
    "in_proj": ProjectionFacts(input="norm"),
    "x_proj": ProjectionFacts(input="conv1d"),
    "dt_proj": ProjectionFacts(input="delta", adds_bias=False),
    "out_proj": ProjectionFacts(input="scan"),
}


class Mixer(nn.Module):
    """The Mamba block: in_proj, convolution, selective scan, out_proj (figure 3 of the paper)."""

    observer: Observer | None = None
    """Called with B and C, (b, l, n) each; not in mamba-ssm's kernels."""

    def __init__(self, config: Mamba1Config, d_model: int) -> None:
        super().__init__()
        d, n, r = config.d_inner, config.d_state, config.dt_rank
        self.dt_rank, self.d_state, self.dbc_norm_eps = r, n, config.dbc_norm_eps
        self.dbc_norm_weights = config.dbc_norm_weights
        self.in_proj = Projection(d_model, 2 * d, bias=config.proj_bias)
        self.conv1d = nn.Conv1d(d, d, config.d_conv, groups=d, bias=config.conv_bias)
        self.x_proj = Projection(d, r + 2 * n, bias=False)
        if config.dbc_norm_weights:
            eps = config.dbc_norm_eps or 0.0
            self.dt_norm, self.B_norm, self.C_norm = (RMSNorm(width, eps) for width in (r, n, n))
        self.dt_proj = Projection(r, d, bias=True)
        self.A_log = nn.Parameter(torch.arange(1.0, n + 1).log().repeat(d, 1))  # (d, n)
        self.D = nn.Parameter(torch.ones(d))
        self.out_proj = Projection(d, d_model, bias=config.proj_bias)

    def forward(
        self, x: Tensor, conv: Tensor, scan: Tensor, scan_by: ScanFunction = selective_scan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, l, d_model), the mixer's two states -> y (b, l, d_model), the states after it."""
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (b, l, d) each
        u, conv = causal_conv1d(u, *taps_and_bias(self.conv1d), conv)
        delta, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        if self.dbc_norm_weights:
            delta, B, C = self.dt_norm(delta), self.B_norm(B), self.C_norm(C)
        elif self.dbc_norm_eps is not None:
            delta, B, C = (rms_norm(part, self.dbc_norm_eps) for part in (delta, B, C))
        if self.observer is not None:
            self.observer(B, C)
        delta = self.dt_proj.product(delta)  # its bias belongs to the scan
        A = -torch.exp(self.A_log.float()).T  # (n, d)
        with torch.autocast(x.device.type, enabled=False):
            tensors = (t.float() for t in (u, delta, self.dt_proj.bias, A, B, C, self.D, z, scan))
            y, scan = scan_by(*tensors)
        return self.out_proj(y), conv, scan
