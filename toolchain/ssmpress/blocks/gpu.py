"""How layers run where gradients are wanted; what they compute stands in the blocks' own files.

On a GPU with the optional package mamba-ssm its kernels run the mixers: a Mamba-1 mixer fused into
one, or, where gradients must add up in a fixed order, by `ordered_scan`; a Mamba-2 mixer by
`fused_mamba2`. Attention starts from no tokens there and needs no mask. Recomputation trades work
for memory on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssmpress.blocks import mamba1, mamba2
from ssmpress.blocks.attention import Attention
from ssmpress.blocks.fused_mamba2 import Mamba2Kernels, fits_kernels, fused_mamba2, mamba2_kernels
from ssmpress.blocks.ordered_scan import ordered_kernels
from ssmpress.blocks.selective_scan import selective_scan

BlockCall = Callable[..., tuple[Tensor, ...]]
"""Runs a block's module: (module, x, *states) -> (y, *states)."""


@dataclass(frozen=True)
class How:
    """How `Mamba.hidden` runs the layers; the result is the same to rounding.

    recompute: keep only each layer's input for the backward pass and run the layer again there: a
        third more work, a fraction of the memory.
    ordered: add gradients up in a fixed order on a GPU too; on a CPU it is always fixed.
    checkpoint_level: of mamba-ssm's kernel of Mamba-1; 0 keeps two more tensors per layer, 5 %
        faster. None is theirs.
    """

    recompute: bool = False
    ordered: bool = False
    checkpoint_level: int | None = None


PLAIN = How()


def call_block(module: nn.Module, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
    """The block as it is defined."""
    result: tuple[Tensor, ...] = module(x, *states)
    return result


def block_call(how: How, device: torch.device) -> BlockCall:
    """The fastest way on that device; from the zero state, and what is returned as states is not
    to be used."""
    if device.type != "cuda":
        return call_block
    if how.ordered:
        return partial(_with_scan, ordered_kernels() or selective_scan)
    inner = fused_kernels()
    if inner is not None and how.checkpoint_level is not None and not how.recompute:
        inner = partial(inner, checkpoint_lvl=how.checkpoint_level)
    return partial(_with_kernels, inner, mamba2_kernels())


def _with_scan(
    scan: mamba1.ScanFunction, module: nn.Module, x: Tensor, *states: Tensor
) -> tuple[Tensor, ...]:
    if isinstance(module, mamba1.Mixer):
        result: tuple[Tensor, ...] = module(x, *states, scan_by=scan)
        return result
    return call_block(module, x, *states)


def _with_kernels(
    inner: Any | None,
    kernels: Mamba2Kernels | None,
    module: nn.Module,
    x: Tensor,
    *states: Tensor,
) -> tuple[Tensor, ...]:
    # FalconMamba's and Jamba's norms stand in the middle of what the kernels fuse. mamba_inner_fn
    # has arguments for FalconMamba's, but with those training diverged twice, at learning rates of
    # 2e-3 and 6e-4.
    mixer = isinstance(module, mamba1.Mixer | mamba2.Mixer)
    if mixer and module.observer is not None:  # what it observes is inside of what they fuse
        return call_block(module, x, *states)
    if inner and isinstance(module, mamba1.Mixer) and module.dbc_norm_eps is None:
        return (fused_mamba1(module, x, inner), *states)
    if kernels and isinstance(module, mamba2.Mixer) and fits_kernels(module.config):
        return (fused_mamba2(module, x, kernels), *states)
    if isinstance(module, Attention):
        return (module.from_start(x), *states)
    return call_block(module, x, *states)


def fused_kernels() -> Any | None:
    """`mamba_inner_fn` of the optional package mamba-ssm, or None where it cannot be used."""
    if not torch.cuda.is_available():
        return None
    try:
        from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn
    except ImportError:
        return None
    return mamba_inner_fn


def fused_mamba1(mixer: mamba1.Mixer, x: Tensor, mamba_inner_fn: Any) -> Tensor:
    """`Mixer.forward` from the zero state by mamba-ssm's CUDA kernels. x: (b, l, d_model)."""
    b, length, _ = x.shape
    flat = torch.matmul(mixer.in_proj.weight, x.flatten(0, 1).t())  # one product
    xz = flat.view(-1, b, length).transpose(0, 1)  # (b, 2d, l)
    if mixer.in_proj.bias is not None:
        xz = xz + mixer.in_proj.bias[:, None]
    y: Tensor = mamba_inner_fn(
        xz,
        mixer.conv1d.weight,
        mixer.conv1d.bias,
        mixer.x_proj.weight,
        mixer.dt_proj.weight,
        mixer.out_proj.weight,
        mixer.out_proj.bias,
        -torch.exp(mixer.A_log.float()),
        None,  # B and C are not constant
        None,
        mixer.D.float(),
        delta_bias=mixer.dt_proj.bias.float(),
        delta_softplus=True,
    )
    return y
