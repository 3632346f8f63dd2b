"""mamba_ssm.ops.triton.layer_norm (older: layernorm) and layernorm_gated."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.errors import BadInputError
from ssmpress.nets import operators


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> Any:
    """The norm of the sum of x, x1 and the residual.

    Args:
        x, x1, residual: float (..., d). weight, bias, weight1, bias1: (d,). rowscale: (...,), of x.
        dropout_p: of x and x1, before they are added.
        prenorm: give the sum, too. residual_in_fp32: as float32, where there is no residual.

    Returns:
        The norm, of the type of x; with weight1 a second one of the same sum; with prenorm the sum.
    """
    if return_dropout_mask:
        raise BadInputError(
            "layer_norm_fn: expected return_dropout_mask=False; got True, which only tests of "
            "mamba_ssm's kernels need. Leave it out."
        )
    kind = x.dtype
    kept = torch.float32 if residual_in_fp32 else kind
    kept = kept if residual is None else residual.dtype
    total = x.to(torch.promote_types(kind, torch.float32))
    total = total if rowscale is None else total * rowscale[..., None]
    total = F.dropout(total, dropout_p) if dropout_p else total
    if x1 is not None:
        total = total + (F.dropout(x1, dropout_p) if dropout_p else x1)
    total = total if residual is None else total + residual
    results = [_normed(total, weight, bias, eps, is_rms_norm).to(kind)]
    if weight1 is not None:
        results.append(_normed(total, weight1, bias1, eps, is_rms_norm).to(kind))
    results += [total.to(kept)] if prenorm else []
    return tuple(results) if len(results) > 1 else results[0]


def _normed(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool) -> Tensor:
    if rms:
        y = operators.rms_norm(x, weight, eps)
        return y if bias is None else y + bias
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    return_dropout_mask: bool = False,
) -> Any:
    """`layer_norm_fn` with the RMS norm."""
    before = (x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm)
    return layer_norm_fn(*before, residual_in_fp32, True, return_dropout_mask)


layer_norm_ref, rms_norm_ref = layer_norm_fn, rms_norm_fn


class RMSNorm(nn.Module):
    """The RMS norm with trained weights; x: (..., hidden_size)."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.drop = nn.Dropout(dropout_p) if dropout_p > 0 else None
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Ones."""
        nn.init.ones_(self.weight)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        """As `rms_norm_fn`."""
        return rms_norm_fn(
            x,
            self.weight,
            None,
            residual=residual,
            eps=self.eps,
            dropout_p=self.drop.p if self.drop is not None and self.training else 0.0,
            prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
        )


# ---- with a gate ----


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """The RMS norm of parts of group_size channels, and a gate silu(z) before or after it.

    x, z: float (..., d). weight, bias: (d,).
    """
    groups = 1 if group_size is None else x.shape[-1] // group_size
    if z is not None and (bias is None or not norm_before_gate):
        y = operators.gated_rms_norm(x, z, weight, eps, groups, not norm_before_gate)
        return y if bias is None else y + bias.to(y.dtype)
    if groups == 1:
        y = operators.rms_norm(x, weight, eps)
    else:
        parts = torch.unflatten(x, -1, (groups, -1))
        y = operators.rms_norm(parts, weight.new_ones(parts.shape[-1]), eps).flatten(-2) * weight
    y = y if bias is None else y + bias
    return (y if z is None else y * F.silu(z)).to(x.dtype)


def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """`rmsnorm_fn` with LayerNorm in the RMS norm's place."""
    if is_rms_norm:
        return rmsnorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide if z is None or norm_before_gate else wide * F.silu(z)
    parts = torch.unflatten(wide, -1, (-1, group_size or x.shape[-1]))
    y = F.layer_norm(parts, parts.shape[-1:], eps=eps).flatten(-2) * weight
    y = y if bias is None else y + bias
    return (y if z is None or not norm_before_gate else y * F.silu(z)).to(x.dtype)


class GatedRMSNorm(nn.Module):
    """layernorm_gated.RMSNorm: `rmsnorm_fn` with trained weights."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """norm(x) silu(z) with norm_before_gate, else norm(x silu(z)); x, z: (..., hidden_size)."""
        return rmsnorm_fn(x, self.weight, None, z, self.eps, self.group_size, self.norm_before_gate)


class GatedLayerNorm(GatedRMSNorm):
    """layernorm_gated.LayerNorm: the same with a mean and a bias."""

    def __init__(self, hidden_size: int, *args: Any, **options: Any) -> None:
        super().__init__(hidden_size, *args, **options)
        self.bias = nn.Parameter(torch.zeros_like(self.weight))

    def reset_parameters(self) -> None:
        """Ones and zeros."""
        super().reset_parameters()
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """As there."""
        return layernorm_fn(
            x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate
        )
