"""The compiled modules below mamba_ssm, causal_conv1d and VMamba, which copied code calls itself.

Such code has an autograd function of its own around `fwd` and `bwd`. `bwd` computes the scan again
and differentiates it: nothing that `fwd` returns for it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmpress.nets import operators
from ssmpress.nets.stand_ins.convolution import causal_conv1d_update, several_sequences
from ssmpress.nets.stand_ins.scan import selective_scan_fn


def _scanned(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """y (b, d, l), and what stands for the kernel's chunks, (b, d, 1, 2 n): the last state at its
    odd places, where all look for it."""
    arguments = (u, delta, A, B, C, D, None, delta_bias, softplus, True)
    y, last = selective_scan_fn(*arguments)
    return y, torch.stack([torch.zeros_like(last), last], dim=-1).flatten(-2)[:, :, None]


def _gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad: Tensor
) -> list[Tensor | None]:
    """Of a function's inputs, None of what is None."""
    with torch.enable_grad():
        given = [t if t is None else t.detach().requires_grad_() for t in inputs]
        y = function(*given)
    found = iter(torch.autograd.grad(y, [t for t in given if t is not None], grad.to(y.dtype)))
    return [None if t is None else next(found) for t in given]


# ---- selective_scan_cuda ----


def scan_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    """y without the gate, the chunks, and with z also the gated y; shapes as of
    `selective_scan_fn`."""
    y, chunks = _scanned(u, delta, A, B, C, D, delta_bias, delta_softplus)
    return [y, chunks] if z is None else [y, chunks, y * F.silu(z)]


def scan_bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None = None,
    out: Tensor | None = None,
    dz: Tensor | None = None,
    delta_softplus: bool = False,
    recompute_out_z: bool = False,
) -> list[Tensor | None]:
    """Gradients of u, delta, A, B, C, D and delta_bias; with z its own, which is also written to
    dz; with recompute_out_z the gated y."""

    def scan(*tensors: Any) -> Any:
        return selective_scan_fn(*tensors, delta_softplus)  # type: ignore[call-arg]

    *grads, of_z, of_bias = _gradients(scan, (u, delta, A, B, C, D, z, delta_bias), dout)
    if z is None:
        return [*grads, of_bias]
    assert of_z is not None
    grads += [of_bias, of_z if dz is None else dz.copy_(of_z)]
    return [*grads, scan(u, delta, A, B, C, D, z, delta_bias)] if recompute_out_z else grads


# ---- VMamba's: selective_scan_cuda_oflex, _core, _nrow ----


def rows_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    nrows: int = 1,
    oflex: bool = False,
) -> list[Tensor]:
    """y and the chunks, without a gate. nrows: of their threads. oflex: y in float32."""
    u = u.to(torch.promote_types(u.dtype, torch.float32)) if oflex else u
    return list(_scanned(u, delta, A, B, C, D, delta_bias, delta_softplus))


def rows_bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None,
    delta_softplus: bool,
    nrows: int = 1,
) -> list[Tensor | None]:
    """Gradients of u, delta, A, B, C, D and delta_bias."""
    before = (u, delta, A, B, C, D, None, delta_bias, dout)
    return scan_bwd(*before, delta_softplus=delta_softplus)


# ---- causal_conv1d_cuda ----


def conv_fwd(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """The convolution; x: (b, d, l), weight: (d, k).

    rest: silu; or seq_idx, silu; or seq_idx, initial_states, final_states_out, silu; as the
    versions of causal_conv1d have them.
    """
    _check_one_sequence(rest[:-1])
    state = rest[1] if len(rest) == 4 else None
    y, last = operators.causal_conv1d(
        x.mT, weight, bias, None if state is None else state.mT, bool(rest[-1])
    )
    if len(rest) == 4 and rest[2] is not None:
        rest[2].copy_(last.mT)
    return y.mT


def conv_bwd(
    x: Tensor, weight: Tensor, bias: Tensor | None, dout: Tensor, *rest: Any
) -> list[Tensor | None]:
    """Gradients of x, which are also written to dx, of weight and bias, and in newer versions of
    the initial states.

    rest: dx, silu; or seq_idx, dx, silu; or seq_idx, initial_states, dfinal_states, dx,
    return_dinitial_states, silu.
    """
    newer = len(rest) == 6
    dx, state = (rest[3], rest[1]) if newer else (rest[-2], None)
    _check_one_sequence(rest[:1] if len(rest) > 2 else ())
    if newer and rest[2] is not None:
        raise several_sequences("causal_conv1d_bwd", "dfinal_states")

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None) -> Tensor:
        before = None if state is None else state.mT
        return operators.causal_conv1d(x.mT, weight, bias, before, bool(rest[-1]))[0].mT

    of_x, *others = _gradients(conv, (x, weight, bias, state), dout)
    assert of_x is not None
    of_x = of_x if dx is None else dx.copy_(of_x)
    return [of_x, *others] if newer else [of_x, *others[:2]]


def conv_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    cache_seqlens: Tensor | None = None,
    *_: Any,
) -> Tensor:
    """One step; conv_state is changed in place."""
    activation = "silu" if silu else None
    return causal_conv1d_update(x, conv_state, weight, bias, activation, cache_seqlens)


def _check_one_sequence(rest: Sequence[Any]) -> None:
    if rest and rest[0] is not None:
        raise several_sequences("causal_conv1d", "seq_idx")
