"""mamba_ssm.ops.selective_scan_interface, and what forks of it add for two directions.

Their tensors are (b, d, l), the operators' (b, l, d): each function turns its inputs once and its
result back, which an exporter cancels against what a caller has turned before.
"""

from __future__ import annotations

from math import lcm
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmpress.errors import BadInputError
from ssmpress.nets import operators

Scanned = Tensor | tuple[Tensor, Tensor]


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Scanned:
    """The selective scan.

    Args:
        u, delta, z: float (b, d, l). A: float (d, n). D, delta_bias: float (d,).
        B, C: (d, n), the same at every step; (b, n, l); or (b, g, n, l), for d / g channels each.

    Returns:
        (b, d, l), of the type of u; with return_last_state also the last state (b, d, n).

    Raises:
        BadInputError: A is complex.
    """
    _check_real(A, B, C)
    turned = (_turned(t) for t in (u, delta, z))
    u, delta, z = turned  # type: ignore[assignment]
    B, C = _by_step(B), _by_step(C)
    rest = (D, z, delta_bias, delta_softplus)
    if B.dim() == 2 or C.dim() == 2:
        y, last = _with_constants(u, delta, A, B, C, *rest)
    else:
        y, last = _in_groups(u, delta, A, B, C, *rest)
    y = y.transpose(1, 2)
    return (y, last.transpose(1, 2)) if return_last_state else y


selective_scan_ref = selective_scan_fn


class SelectiveScanFn:
    """What is called as an autograd function there."""

    @staticmethod
    def apply(*args: Any) -> Scanned:
        """As `selective_scan_fn`."""
        return selective_scan_fn(*args)


def _check_real(*tensors: Tensor) -> None:
    if any(t.is_complex() for t in tensors):
        raise BadInputError(
            "selective_scan: expected real A, B and C; got complex ones, for which ssmpress has no "
            "kernel. Train the block with real values: mamba_ssm's own Mamba has no others."
        )


def _turned(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.transpose(1, 2)


def _by_step(t: Tensor) -> Tensor:
    """(b, n, l) -> (b, l, n); (b, g, n, l) -> (b, l, g, n); (d, n) as it is."""
    if t.dim() == 3:
        return t.transpose(1, 2)
    if t.dim() == 4:
        return t.squeeze(1).transpose(1, 2) if t.shape[1] == 1 else t.permute(0, 3, 1, 2)
    return t


def _in_groups(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """One scan for the channels that share B and C. u: (b, l, d); B, C: (b, l[, g], n)."""
    count = lcm(*(t.shape[2] if t.dim() == 4 else 1 for t in (B, C)))
    if count == 1:
        return operators.selective_scan(u, delta, bias, A, B, C, D, z, None, softplus, False)
    width = A.shape[0] // count
    parts = []
    for i in range(count):
        at = slice(i * width, (i + 1) * width)
        B_, C_ = (t[:, :, i * t.shape[2] // count] if t.dim() == 4 else t for t in (B, C))
        D_, bias_ = (None if t is None else t[at] for t in (D, bias))
        z_ = None if z is None else z[..., at]
        parts.append(
            operators.selective_scan(
                u[..., at], delta[..., at], bias_, A[at], B_, C_, D_, z_, None, softplus, False
            )
        )
    ys, states = zip(*parts, strict=True)
    return torch.cat(ys, -1), torch.cat(states, -1)


def _with_constants(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """B or C are (d, n): every state of a channel becomes a channel with one state, whose input is
    u B and of which C is the reader's."""
    (batch, length), (d, n) = u.shape[:2], A.shape

    def per_channel(t: Tensor) -> Tensor:
        """-> (d, n) or (b, l, d, n), or with 1 in place of d."""
        if t.dim() == 4:
            return t.repeat_interleave(d // t.shape[2], 2)
        return t[:, :, None] if t.dim() == 3 else t

    wide = torch.promote_types(u.dtype, torch.float32)
    inputs = (u.to(wide)[..., None] * per_channel(B)).flatten(2)  # (b, l, d n)
    steps = delta[..., None].expand(batch, length, d, n).flatten(2)
    ones = inputs.new_ones(batch, length, 1)
    each = None if bias is None else bias.repeat_interleave(n)
    states, last = operators.selective_scan(
        inputs, steps, each, A.reshape(-1, 1), ones, ones, None, None, None, softplus, False
    )
    y = (torch.unflatten(states, 2, (d, n)) * per_channel(C)).sum(-1)
    y = y if D is None else y + u * D
    y = y if z is None else y * F.silu(z.to(wide))
    return y.to(u.dtype), last.reshape(batch, d, n).transpose(1, 2)


# ---- the whole inner part of a block ----


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    *args: Any,
    **options: Any,
) -> Tensor:
    """From xz (b, 2 d, l) to the block's result (b, l, width): `mamba_inner_fn_no_out_proj`, then
    the product with out_proj_weight."""
    y = mamba_inner_fn_no_out_proj(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, *args, **options
    )
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


mamba_inner_ref = mamba_inner_fn


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """The convolution, the product that makes delta, B and C, and the gated scan.

    Args:
        xz: float (b, 2 d, l). conv1d_weight: (d, 1, k). x_proj_weight: (rank + 2 n, d).
        delta_proj_weight: (d, rank). A: (d, n). B, C: as of `selective_scan_fn` if they do not
            depend on x. checkpoint_lvl: of their kernels' memory; changes no number.
        b_rms_weight, c_rms_weight, dt_rms_weight: of RMS norms over B, C and delta.

    Returns:
        (b, d, l).
    """
    _check_real(A)
    u, z, delta, B_, C_ = _scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A.shape[1]
    )
    if B is None:
        B = _ready(B_, B_proj_bias, b_rms_weight, b_c_dt_rms_eps).transpose(1, 2)
    if C is None:
        C = _ready(C_, C_proj_bias, c_rms_weight, b_c_dt_rms_eps).transpose(1, 2)
    delta = _ready(delta, None, dt_rms_weight, b_c_dt_rms_eps)
    u, delta, z = (t.transpose(1, 2) for t in (u, delta, z))
    y = selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    assert isinstance(y, Tensor)
    return y


def _scan_inputs(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    n: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """u, z and delta (b, l, d), B and C (b, l, n), of xz (b, 2 d, l)."""
    x, z = xz.transpose(1, 2).chunk(2, dim=-1)
    u, _ = operators.causal_conv1d(x, conv1d_weight[:, 0], conv1d_bias, None, True)
    parts = [delta_proj_weight.shape[1], n, n]
    delta, B, C = torch.split(F.linear(u, x_proj_weight), parts, dim=-1)
    return u, z, F.linear(delta, delta_proj_weight), B, C


def _ready(t: Tensor, bias: Tensor | None, weight: Tensor | None, eps: float) -> Tensor:
    t = t if bias is None else t + bias.to(t.dtype)
    return t if weight is None else operators.rms_norm(t, weight, eps)


def bimamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    A_b: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` with a second scan, from the last step to the first and with A_b, over the
    same convolved inputs; the two are added before the last product."""
    _check_real(A, A_b)
    if B is not None or C is not None:
        raise BadInputError(
            "bimamba_inner_fn: expected B and C that depend on the input (None); got constant ones."
        )
    u, z, delta, B_, C_ = _scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A.shape[1]
    )
    B_, C_ = _ready(B_, B_proj_bias, None, 0), _ready(C_, C_proj_bias, None, 0)
    y, y_b = (
        operators.selective_scan(
            u, delta, delta_bias, a, B_, C_, D, z, None, delta_softplus, reverse
        )[0]
        for a, reverse in ((A, False), (A_b, True))
    )
    return F.linear(y + y_b, out_proj_weight, out_proj_bias)


bimamba_inner_ref = bimamba_inner_fn
