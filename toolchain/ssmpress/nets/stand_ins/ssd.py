"""mamba_ssm.ops.triton.ssd_combined: the scan of Mamba-2, alone and with what stands around it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmpress.nets import operators
from ssmpress.nets.stand_ins.convolution import has_silu, several_sequences
from ssmpress.nets.stand_ins.norms import rmsnorm_fn

NO_LIMITS = (0.0, math.inf)


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = NO_LIMITS,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Any:
    """The scan of Mamba-2 and, with z, a gate.

    Args:
        x, z: float (b, l, h, p). dt: (b, l, h). A, dt_bias: (h,). B, C: (b, l, g, n).
        D: (h,) or (h, p). initial_states: (b, h, p, n). chunk_size: changes no number.

    Returns:
        (b, l, h, p); with return_final_states also the last states (b, h, p, n).

    Raises:
        BadInputError: the batch is of several sequences, one after the other.
    """
    packed = {"seq_idx": seq_idx, "cu_seqlens": cu_seqlens}
    for name, given in packed.items():
        if given is not None:
            raise several_sequences("mamba_chunk_scan_combined", name)
    if return_varlen_states:
        raise several_sequences("mamba_chunk_scan_combined", "return_varlen_states")
    heads = tuple(x.shape[2:])
    skip = D if D is None or D.dim() == 2 else D[:, None].expand(*heads)
    state = None if initial_states is None else initial_states.transpose(2, 3)
    own = x.dtype
    x = x if z is None else x.to(torch.promote_types(own, torch.float32))
    y, last = operators.ssd_scan(
        x, dt, dt_bias, A, B, C, skip, state, dt_softplus, *map(float, dt_limit)
    )
    y = y if z is None else (y * F.silu(z.to(y.dtype))).to(own)
    return (y, last.transpose(2, 3)) if return_final_states else y


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = NO_LIMITS,
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
) -> Any:
    """All of a Mamba-2 block after in_proj.

    Args:
        zxbcdt: float (b, l, 2 m + 2 d + 2 g n + h): an MLP's two parts, the gate z, x, B, C, dt.
        conv1d_weight: (d + 2 g n, k). D: (h,), with headdim, or (h, p).
        rmsnorm_weight: (d,), of a norm beside the gate. outproj_weight: (width, m + d).

    Returns:
        (b, l, m + d) or (b, l, width); with return_final_states also the states (b, h, p, n).
    """
    if seq_idx is not None:
        raise several_sequences("mamba_split_conv1d_scan_combined", "seq_idx")
    heads, width = (len(D), headdim) if D.dim() == 1 else D.shape
    assert width is not None, "headdim: a D with one value per head does not tell it."
    inner, mixed = heads * width, conv1d_weight.shape[0]
    mlp = (zxbcdt.shape[-1] - inner - mixed - heads) // 2
    z0, x0, z, xbc, dt = torch.split(zxbcdt, [mlp, mlp, inner, mixed, heads], dim=-1)
    xbc, _ = operators.causal_conv1d(xbc, conv1d_weight, conv1d_bias, None, has_silu(activation))
    groups = (mixed - inner) // 2
    x, B, C = torch.split(xbc, [inner, groups, groups], dim=-1)
    y = mamba_chunk_scan_combined(
        torch.unflatten(x, -1, (heads, width)),
        dt,
        A,
        torch.unflatten(B, -1, (ngroups, -1)),
        torch.unflatten(C, -1, (ngroups, -1)),
        chunk_size,
        D=D,
        z=None if rmsnorm_weight is not None else torch.unflatten(z, -1, (heads, width)),
        dt_bias=dt_bias,
        initial_states=initial_states,
        dt_softplus=True,
        dt_limit=dt_limit,
        return_final_states=return_final_states,
    )
    y, last = y if return_final_states else (y, None)
    y = y.flatten(2)
    if rmsnorm_weight is not None:
        size = inner // ngroups
        y = rmsnorm_fn(y, rmsnorm_weight, None, z, rmsnorm_eps, size, norm_before_gate)
    y = torch.cat([F.silu(z0) * x0, y], dim=-1) if mlp else y
    y = y if outproj_weight is None else F.linear(y, outproj_weight, outproj_bias)
    return (y, last) if return_final_states else y
