"""mamba_ssm.modules.mamba2: Mamba2."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.errors import BadInputError
from ssmpress.nets import operators
from ssmpress.nets.stand_ins.cache import states_of
from ssmpress.nets.stand_ins.convolution import (
    causal_conv1d_update,
    has_silu,
    several_sequences,
    window_after,
)
from ssmpress.nets.stand_ins.mamba1 import bias_of_steps
from ssmpress.nets.stand_ins.norms import GatedRMSNorm
from ssmpress.nets.stand_ins.ssd import NO_LIMITS, mamba_chunk_scan_combined
from ssmpress.nets.stand_ins.state_update import selective_state_update


class Mamba2(nn.Module):
    """The Mamba-2 block; arguments, names and first values as in mamba_ssm."""

    dt_bias: nn.Parameter
    A_log: nn.Parameter
    D: nn.Parameter

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: float = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = NO_LIMITS,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        process_group: Any = None,
        sequence_parallel: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if process_group is not None:
            raise BadInputError(
                "Mamba2: process_group: expected None; got a group of processes, each with a part "
                "of the weights. Build the whole block."
            )
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.conv_init, self.headdim, self.ngroups = conv_init, headdim, ngroups
        self.d_inner = int(expand * d_model)
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        if self.d_ssm % headdim or (self.d_ssm // headdim) % ngroups:
            raise BadInputError(
                f"Mamba2: expected headdim to divide {self.d_ssm} channels into heads, and ngroups "
                f"the heads; got headdim {headdim}, ngroups {ngroups}."
            )
        self.nheads = self.d_ssm // headdim
        self.D_has_hdim, self.rmsnorm = D_has_hdim, rmsnorm
        self.norm_before_gate, self.dt_limit = norm_before_gate, dt_limit
        self.chunk_size, self.use_mem_eff_path, self.layer_idx = (
            chunk_size,
            use_mem_eff_path,
            layer_idx,
        )
        self.process_group, self.sequence_parallel = process_group, sequence_parallel
        self.world_size, self.local_rank = 1, 0
        self.activation, self.act = "silu", nn.SiLU()
        where = {"device": device, "dtype": dtype}
        mixed = self.d_ssm + 2 * ngroups * d_state
        rows = 2 * self.d_inner + 2 * ngroups * d_state + self.nheads
        self.in_proj = nn.Linear(d_model, rows, bias=bias, **where)
        self.conv1d = nn.Conv1d(
            mixed, mixed, d_conv, groups=mixed, padding=d_conv - 1, bias=conv_bias, **where
        )
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        uniform = torch.rand(self.nheads, **where)
        self._keep("dt_bias", bias_of_steps(uniform, dt_min, dt_max, dt_init_floor))
        A = torch.empty(self.nheads, device=device).uniform_(*A_init_range)
        self._keep("A_log", A.log().to(dtype=dtype))
        self._keep("D", torch.ones(self.d_ssm if D_has_hdim else self.nheads, device=device))
        if rmsnorm:
            size = self.d_ssm // ngroups
            self.norm = GatedRMSNorm(self.d_ssm, 1e-5, size, norm_before_gate, **where)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **where)

    def _keep(self, name: str, values: Tensor) -> None:
        """A parameter without weight decay."""
        parameter = nn.Parameter(values)
        parameter._no_weight_decay = True  # type: ignore[attr-defined]
        setattr(self, name, parameter)

    def forward(
        self,
        u: Tensor,
        seqlen: int | None = None,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        inference_params: Any = None,
    ) -> Tensor:
        """(b, l, d_model) -> (b, l, d_model), or with seqlen both (b l, d_model)."""
        for name, given in (("seq_idx", seq_idx), ("cu_seqlens", cu_seqlens)):
            if given is not None:
                raise several_sequences("Mamba2", name)
        u = u if seqlen is None else torch.unflatten(u, 0, (-1, seqlen))
        states = None
        if inference_params is not None:
            states = self._get_states_from_cache(inference_params, u.shape[0])
            if inference_params.seqlen_offset > 0:
                return self.step(u, *states)[0]
        z0, x0, z, xbc, dt = self._parts(self.in_proj(u))
        if states is not None:
            states[0].copy_(window_after(xbc, self.d_conv))
        xbc, _ = operators.causal_conv1d(
            xbc, self.conv1d.weight[:, 0], self.conv1d.bias, None, True
        )
        x, B, C = self._scan_inputs(xbc)
        scanned = mamba_chunk_scan_combined(
            x,
            dt,
            -torch.exp(self.A_log.float()),
            B,
            C,
            self.chunk_size,
            D=self._skip(),
            z=None if self.rmsnorm else torch.unflatten(z, -1, (self.nheads, -1)),
            dt_bias=self.dt_bias,
            initial_states=self._first_states(u.shape[0]),
            dt_softplus=True,
            dt_limit=self.dt_limit,
            return_final_states=states is not None,
        )
        y = scanned if states is None else scanned[0]
        if states is not None:
            states[1].copy_(scanned[1])
        out = self._left(y.flatten(2), z, z0, x0)
        return out if seqlen is None else out.flatten(0, 1)

    def _first_states(self, batch: int) -> Tensor | None:
        """The states before the first step (b, h, p, n); None is zeros."""
        return None

    def _parts(self, projected: Tensor) -> tuple[Tensor, ...]:
        """An MLP's two parts, the gate, the convolution's channels, the steps before softplus."""
        mlp, mixed = self.d_inner - self.d_ssm, self.conv1d.in_channels
        parts = torch.split(projected, [mlp, mlp, self.d_ssm, mixed, self.nheads], dim=-1)
        return tuple(parts)

    def _scan_inputs(self, xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., channels) -> x (..., h, p), B and C (..., g, n)."""
        groups = self.ngroups * self.d_state
        x, B, C = torch.split(xbc, [self.d_ssm, groups, groups], dim=-1)
        B, C = (torch.unflatten(t, -1, (self.ngroups, -1)) for t in (B, C))
        return torch.unflatten(x, -1, (self.nheads, -1)), B, C

    def _skip(self) -> Tensor:
        return torch.unflatten(self.D, 0, (self.nheads, -1)) if self.D_has_hdim else self.D

    def _left(self, y: Tensor, z: Tensor, z0: Tensor, x0: Tensor) -> Tensor:
        y = self.norm(y, z) if self.rmsnorm else y
        y = torch.cat([F.silu(z0) * x0, y], dim=-1) if z0.shape[-1] else y
        out: Tensor = self.out_proj(y)
        return out

    # ---- step by step ----

    def step(
        self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step (b, 1, d_model); conv_state (b, channels, k), ssm_state (b, h, p, n) change in
        place."""
        z0, x0, z, xbc, dt = self._parts(self.in_proj(hidden_states.squeeze(1)))
        xbc = causal_conv1d_update(
            xbc, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, self.activation
        )
        x, B, C = self._scan_inputs(xbc)
        heads = (self.nheads, self.headdim)
        A = -torch.exp(self.A_log.float())[:, None, None].expand(*heads, self.d_state)
        dt = dt.float() + self.dt_bias.float()
        dt = F.softplus(dt).clamp(*self.dt_limit)[..., None].expand(-1, *heads)
        D = self._skip().reshape(self.nheads, -1).expand(*heads)
        gate = None if self.rmsnorm else torch.unflatten(z, -1, heads)
        y = selective_state_update(ssm_state, x, dt, A, B, C, D, gate)
        return self._left(y.flatten(1), z, z0, x0)[:, None], conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: Any = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """conv_state (b, channels, k) and ssm_state (b, h, p, n), zeros; max_seqlen changes
        nothing."""
        channels, weight = self.conv1d.in_channels, self.in_proj.weight
        conv = self.conv1d.weight.new_zeros(batch_size, channels, self.d_conv, dtype=dtype)
        shape = (batch_size, self.nheads, self.headdim, self.d_state)
        return conv, weight.new_zeros(shape, dtype=dtype)

    def _get_states_from_cache(
        self, inference_params: Any, batch_size: int, initialize_states: bool = False
    ) -> tuple[Tensor, Tensor]:
        return states_of(self, inference_params, batch_size, initialize_states)


class Mamba2Simple(Mamba2):
    """mamba2_simple.Mamba2Simple: fewer options, other sizes by default, and first states that may
    be trained (`init_states`)."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: float = 2,
        headdim: int = 128,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = NO_LIMITS,
        learnable_init_states: bool = False,
        activation: str = "swish",
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            d_model,
            d_state,
            d_conv,
            conv_init,
            expand,
            headdim,
            ngroups=ngroups,
            A_init_range=A_init_range,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_init_floor=dt_init_floor,
            dt_limit=dt_limit,
            bias=bias,
            conv_bias=conv_bias,
            chunk_size=chunk_size,
            use_mem_eff_path=use_mem_eff_path,
            layer_idx=layer_idx,
            device=device,
            dtype=dtype,
        )
        has_silu(activation)  # or raises
        self.activation, self.learnable_init_states = activation, learnable_init_states
        if not use_mem_eff_path:  # which leaves their norm without groups
            self.norm = GatedRMSNorm(self.d_ssm, 1e-5, None, False, device=device, dtype=dtype)
        if learnable_init_states:
            shape = (self.nheads, headdim, d_state)
            self._keep("init_states", torch.zeros(shape, device=device, dtype=dtype))

    def forward(self, u: Tensor, seq_idx: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """(b, l, d_model) -> (b, l, d_model)."""
        return super().forward(u, seq_idx=seq_idx)

    def _first_states(self, batch: int) -> Tensor | None:
        if not self.learnable_init_states:
            return None
        states: Any = self.init_states
        first: Tensor = states.expand(batch, *states.shape)
        return first
