"""mamba_ssm.modules.mamba_simple: Mamba, with one or two directions.

The two directions are Vision Mamba's (`bimamba_type`): v1 shares all but A, v2 nothing but the
outer projections; v3, SegMamba's, has a third direction through slices of the sequence. Sources:
arXiv 2401.09417, section 3.3; arXiv 2401.13560, section 2.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.errors import BadInputError
from ssmpress.nets import operators
from ssmpress.nets.stand_ins.cache import states_of
from ssmpress.nets.stand_ins.convolution import causal_conv1d_update, window_after
from ssmpress.nets.stand_ins.state_update import selective_state_update

_SUFFIXES = {"none": ("",), "v1": ("", "_b"), "v2": ("", "_b"), "v3": ("", "_b", "_s")}
"""What stands behind the names of each direction's tensors."""


class Mamba(nn.Module):
    """The Mamba block; arguments, names and first values as in mamba_ssm.

    bimamba_type, if_divide_out (once if_devide_out), init_layer_scale: of Vision Mamba's fork.
    nslices: of SegMamba's. bimamba: of VideoMamba's, which calls v2 so.
    """

    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter
    D: nn.Parameter

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        bimamba_type: str | None = "none",
        if_divide_out: bool = False,
        init_layer_scale: float | None = None,
        nslices: int = 5,
        bimamba: bool = False,
        if_devide_out: bool = False,
    ) -> None:
        super().__init__()
        bimamba_type = "v2" if bimamba else bimamba_type or "none"
        if bimamba_type not in _SUFFIXES:
            raise BadInputError(
                f"Mamba: bimamba_type: expected {', '.join(_SUFFIXES)}; got {bimamba_type!r}. "
                "Write the block's class into your own file, with selective_scan_fn."
            )
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.use_fast_path, self.layer_idx = use_fast_path, layer_idx
        self.bimamba_type, self.if_divide_out = bimamba_type, if_divide_out or if_devide_out
        self.nslices, self.init_layer_scale = nslices, init_layer_scale
        self.activation, self.act = "silu", nn.SiLU()
        where = {"device": device, "dtype": dtype}
        if init_layer_scale is not None:
            self.gamma = nn.Parameter(torch.full((d_model,), float(init_layer_scale)))
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **where)
        for suffix in _SUFFIXES[bimamba_type]:
            if suffix == "" or bimamba_type != "v1":
                self._add_direction(suffix, conv_bias, where)
            self._keep(f"A{suffix}_log", _first_decays(self.d_inner, d_state, device))
        # Only the first direction's steps begin between dt_min and dt_max, there as here.
        first_steps(self.dt_proj, dt_min, dt_max, dt_init, dt_scale, dt_init_floor)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **where)

    def _add_direction(self, suffix: str, conv_bias: bool, where: dict[str, Any]) -> None:
        d, taps = self.d_inner, self.d_conv
        padding = taps - 1
        conv = nn.Conv1d(d, d, taps, groups=d, padding=padding, bias=conv_bias, **where)
        width = self.dt_rank + 2 * self.d_state
        setattr(self, f"conv1d{suffix}", conv)
        setattr(self, f"x_proj{suffix}", nn.Linear(d, width, bias=False, **where))
        setattr(self, f"dt_proj{suffix}", nn.Linear(self.dt_rank, d, bias=True, **where))
        self._keep(f"D{suffix}", torch.ones(d, device=where["device"]))

    def _keep(self, name: str, values: Tensor) -> None:
        """A parameter in float32 without weight decay."""
        parameter = nn.Parameter(values)
        parameter._no_weight_decay = True  # type: ignore[attr-defined]
        setattr(self, name, parameter)

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """(b, l, d_model) -> (b, l, d_model); inference_params: mamba_ssm's cache."""
        if inference_params is not None:
            return self._with_cache(hidden_states, inference_params)
        xz = self.in_proj(hidden_states)  # (b, l, 2 d)
        if self.bimamba_type == "none":
            y, _ = self._scanned(*self._convolved(xz, ""), "")
        elif self.bimamba_type == "v1":
            u, z = self._convolved(xz, "")
            y = self._scanned(u, z, "")[0] + self._scanned(u, z, "", "_b", reverse=True)[0]
        else:
            y, _ = self._scanned(*self._convolved(xz, ""), "")
            turned = self._scanned(*self._convolved(xz.flip(1), "_b"), "_b")[0]
            y = y + turned.flip(1)
            y = y + self._through_slices(xz) if self.bimamba_type == "v3" else y
            y = y / 2 if self.if_divide_out else y
        return self._left(y)

    def _left(self, y: Tensor) -> Tensor:
        out: Tensor = self.out_proj(y)
        return out if self.init_layer_scale is None else out * self.gamma

    def _convolved(self, xz: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
        """xz (b, l, 2 d) -> the scan's input and its gate, (b, l, d) each."""
        x, z = xz.chunk(2, dim=-1)
        conv = getattr(self, f"conv1d{suffix}")
        u, _ = operators.causal_conv1d(x, conv.weight[:, 0], conv.bias, None, True)
        return u, z

    def _scanned(
        self,
        u: Tensor,
        z: Tensor,
        suffix: str,
        A_suffix: str | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """u, z (b, l, d) -> the gated scan (b, l, d), and its last state (b, n, d)."""
        delta, B, C = self._scan_inputs(u, suffix)
        dt_proj, D = getattr(self, f"dt_proj{suffix}"), getattr(self, f"D{suffix}")
        A_log = getattr(self, f"A{suffix if A_suffix is None else A_suffix}_log")
        A = -torch.exp(A_log.float())  # (d, n)
        bias = dt_proj.bias.float()
        return operators.selective_scan(u, delta, bias, A, B, C, D.float(), z, None, True, reverse)

    def _scan_inputs(self, u: Tensor, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
        """delta before its bias, which belongs to the scan, (..., d); B and C (..., n)."""
        parts = [self.dt_rank, self.d_state, self.d_state]
        delta, B, C = getattr(self, f"x_proj{suffix}")(u).split(parts, dim=-1)
        return F.linear(delta, getattr(self, f"dt_proj{suffix}").weight), B, C

    def _through_slices(self, xz: Tensor) -> Tensor:
        """The third direction: the first steps of all slices, then their second steps, and on."""
        if xz.shape[1] % self.nslices:
            raise BadInputError(
                f"Mamba: expected a length that nslices ({self.nslices}) divides; got "
                f"{xz.shape[1]}."
            )
        each = torch.unflatten(xz, 1, (self.nslices, -1)).transpose(1, 2).flatten(1, 2)
        y, _ = self._scanned(*self._convolved(each, "_s"), "_s")
        return torch.unflatten(y, 1, (-1, self.nslices)).transpose(1, 2).flatten(1, 2)

    # ---- step by step ----

    def _with_cache(self, x: Tensor, inference_params: Any) -> Tensor:
        if self.bimamba_type != "none":
            raise BadInputError(
                "Mamba: expected a block with one direction for inference_params, which goes on "
                f"step by step; got bimamba_type {self.bimamba_type!r}."
            )
        conv_state, ssm_state = self._get_states_from_cache(inference_params, x.shape[0])
        if inference_params.seqlen_offset > 0:
            return self.step(x, conv_state, ssm_state)[0]
        xz = self.in_proj(x)
        conv_state.copy_(window_after(xz[..., : self.d_inner], self.d_conv))
        y, last = self._scanned(*self._convolved(xz, ""), "")
        ssm_state.copy_(last.transpose(1, 2))
        return self._left(y)

    def step(
        self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step (b, 1, d_model); conv_state (b, d, k), ssm_state (b, d, n) change in place."""
        x, z = self.in_proj(hidden_states.squeeze(1)).chunk(2, dim=-1)  # (b, d)
        u = causal_conv1d_update(
            x, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, self.activation
        )
        delta, B, C = self._scan_inputs(u, "")
        A = -torch.exp(self.A_log.float())
        bias = self.dt_proj.bias
        y = selective_state_update(ssm_state, u, delta, A, B, C, self.D, z, bias, True)
        return self._left(y)[:, None], conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: Any = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """conv_state (b, d, k) and ssm_state (b, d, n), zeros; max_seqlen changes nothing."""
        conv = self.conv1d.weight.new_zeros(batch_size, self.d_inner, self.d_conv, dtype=dtype)
        weight = self.dt_proj.weight
        return conv, weight.new_zeros(batch_size, self.d_inner, self.d_state, dtype=dtype)

    def _get_states_from_cache(
        self, inference_params: Any, batch_size: int, initialize_states: bool = False
    ) -> tuple[Tensor, Tensor]:
        return states_of(self, inference_params, batch_size, initialize_states)


def _first_decays(channels: int, states: int, device: Any) -> Tensor:
    """log 1 to log n of every channel."""
    return torch.arange(1.0, states + 1, device=device).log().repeat(channels, 1)


def first_steps(
    dt_proj: nn.Linear, low: float, high: float, init: str, scale: float, floor: float
) -> None:
    """First values of dt_proj: a step size softplus(bias) between low and high, log-uniform.

    Raises:
        NotImplementedError: init is neither constant nor random.
    """
    spread = dt_proj.in_features**-0.5 * scale
    if init == "constant":
        nn.init.constant_(dt_proj.weight, spread)
    elif init == "random":
        nn.init.uniform_(dt_proj.weight, -spread, spread)
    else:
        raise NotImplementedError(f"dt_init: expected constant or random; got {init!r}.")
    with torch.no_grad():
        dt_proj.bias.copy_(bias_of_steps(torch.rand_like(dt_proj.bias), low, high, floor))
    dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]


def bias_of_steps(uniform: Tensor, low: float, high: float, floor: float) -> Tensor:
    """The bias whose softplus is low (high / low)^uniform, at least floor."""
    steps = torch.exp(uniform * math.log(high / low) + math.log(low)).clamp(min=floor)
    return steps + torch.log(-torch.expm1(-steps))
