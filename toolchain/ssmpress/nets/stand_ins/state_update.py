"""mamba_ssm.ops.triton.selective_state_update: one step of a scan."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmpress.errors import BadInputError


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """h = exp(dt A) h + dt x B, in place, and y = (C h + D x) silu(z).

    Args:
        state: float (b, d, n), or (b, h, d, n) with heads; then x, dt, z are (b, h, d), B and C
            (b, g, n), A (h, d, n), D and dt_bias (h, d), and without heads the same less one axis.

    Returns:
        As x.

    Raises:
        BadInputError: the states of a batch are some of a larger one (state_batch_indices).
    """
    if state_batch_indices is not None:
        raise BadInputError(
            "selective_state_update: expected a state per batch entry; got state_batch_indices, "
            "which is for servers of many users. Leave it out in the network that you give."
        )
    wide = torch.promote_types(x.dtype, torch.float32)
    own, heads = x.dtype, state.dim() == 4
    held = state if heads else state[:, None]
    rows = [t if heads or t is None else t[:, None] for t in (x, dt, B, C, z)]
    fixed = [t if heads or t is None else t[None] for t in (A, D, dt_bias)]
    x, dt, B, C, z = (t if t is None else t.to(wide) for t in rows)  # type: ignore[assignment]
    A, D, dt_bias = (t if t is None else t.to(wide) for t in fixed)  # type: ignore[assignment]
    dt = dt if dt_bias is None else dt + dt_bias
    dt = F.softplus(dt) if dt_softplus else dt
    B, C = (t.repeat_interleave(x.shape[1] // t.shape[1], 1)[:, :, None] for t in (B, C))
    held.copy_(held.to(wide) * (dt[..., None] * A).exp() + (dt * x)[..., None] * B)
    y = (held.to(wide) * C).sum(-1)  # (b, h, d)
    y = y if D is None else y + D * x
    y = (y if z is None else y * F.silu(z)).to(own)
    return y if heads else y[:, 0]


selective_state_update_ref = selective_state_update
