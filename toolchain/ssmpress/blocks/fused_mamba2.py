"""The Mamba-2 mixer from the zero state by mamba-ssm's and causal-conv1d's GPU kernels.

The kernels multiply in bfloat16, and float32 as TF32. They therefore stand in for the definition
only where mixed precision is asked for, by autocast, and are as exact as that: see
toolchain/experiments/gpu_kernels.py, which measures it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmpress.blocks import mamba2

CHUNK = 256
"""Tokens of a chunk of the scan: mamba-ssm's own choice."""


@dataclass(frozen=True)
class Mamba2Kernels:
    """conv: `causal_conv1d_fn`. scan: `mamba_chunk_scan_combined`. norm: `rmsnorm_fn`."""

    conv: Callable[..., Tensor]
    scan: Callable[..., Tensor]
    norm: Callable[..., Tensor]


def mamba2_kernels() -> Mamba2Kernels | None:
    """The kernels; None without a GPU, without one of the two optional packages, or in float32."""
    if not torch.cuda.is_available() or not torch.is_autocast_enabled("cuda"):
        return None
    try:
        conv, scan, norm = (
            importlib.import_module(name)
            for name in (
                "causal_conv1d",
                "mamba_ssm.ops.triton.ssd_combined",
                "mamba_ssm.ops.triton.layernorm_gated",
            )
        )
    except ImportError:
        return None
    return Mamba2Kernels(conv.causal_conv1d_fn, scan.mamba_chunk_scan_combined, norm.rmsnorm_fn)


def fits_kernels(config: mamba2.Mamba2Config) -> bool:
    """Whether the convolution is as short, and no shorter, than its kernel can."""
    return 2 <= config.d_conv <= 4


def fused_mamba2(mixer: mamba2.Mixer, x: Tensor, kernels: Mamba2Kernels) -> Tensor:
    """`Mixer.forward` from the zero state. x: (b, l, d_model) -> the same shape."""
    c = mixer.config
    by_head = (*x.shape[:2], c.heads, c.head_dim)
    by_group = (*x.shape[:2], c.n_groups, c.d_state)
    z, xbc, delta = mixer.projected(x)
    conv = mixer.conv1d
    xbc = kernels.conv(_channels_first(xbc), conv.weight[:, 0], conv.bias, activation="silu").mT
    u, B, C = torch.split(xbc, [c.d_inner, c.d_groups, c.d_groups], dim=-1)
    D = mixer.D.float()
    y = kernels.scan(
        u.reshape(by_head),
        delta,
        -torch.exp(mixer.A_log.float()),
        B.reshape(by_group),
        C.reshape(by_group),
        chunk_size=CHUNK,
        D=D.reshape(c.heads, c.head_dim) if c.d_per_channel else D,
        z=None if c.gated_norm else z.reshape(by_head),
        dt_bias=mixer.dt_bias.float(),
        dt_softplus=True,
        dt_limit=c.dt_limits,
    ).flatten(2)
    if c.gated_norm:
        y = kernels.norm(
            y,
            mixer.norm.weight,
            None,  # no bias
            z=z,
            eps=c.norm_eps,
            group_size=c.d_inner // c.norm_groups,
            norm_before_gate=not c.gate_first,
        )
    projected: Tensor = mixer.out_proj(y)
    return projected


def _channels_first(xbc: Tensor) -> Tensor:
    """(b, l, channels) -> (b, channels, l), a view where the convolution's kernel takes it: with
    channels, and elements from token to token, in eights."""
    transposed = xbc.mT
    eights = xbc.shape[-1] % 8 == 0 and xbc.stride(1) % 8 == 0
    return transposed if eights else transposed.contiguous()
