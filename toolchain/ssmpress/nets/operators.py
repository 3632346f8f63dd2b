"""What Mamba blocks compute as operators of PyTorch: torch.export keeps each as one node.

    ssmpress::selective_scan     ssmpress::gated_rms_norm     ssmpress::linear
    ssmpress::causal_conv1d      ssmpress::rms_norm
    ssmpress::ssd_scan

Each function here has the name of its operator and calls it. The body is the definition in
blocks/, in float32 or wider whatever autocast says, as mamba-ssm's kernels compute; y has the type
of the first argument, and states have the type that was computed with. Outside of torch.export and
torch.compile, where gradients are wanted, the definition is called instead of the operator, whose
own backward pass has to compute it a second time. There are no second derivatives.

Symbols: b batch, l sequence length, d channels, n state size, k taps, h heads, p channels of a
head, g groups. Tensors are channel-last. Optional tensors are zeros, or for z no gate, if None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmpress.blocks import convolution, norm
from ssmpress.blocks.selective_scan import scan_of_steps
from ssmpress.blocks.ssd_scan import ssd_scan as scan_of_heads

NAMESPACE = "ssmpress"

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _operator(
    arguments: str, results: str, fake: Callable[..., Any]
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Register the function as an operator of its name, and return what calls it.

    Args:
        arguments, results: the operator's schema. fake: its results without values, from arguments
            without values.
    """

    def register(definition: Callable[_P, _R]) -> Callable[_P, _R]:
        name = f"{NAMESPACE}::{definition.__name__}"
        exact = _without_autocast(definition)
        operator = torch.library.custom_op(
            name, exact, mutates_args=(), schema=f"({arguments}) -> {results}"
        )
        operator.register_fake(fake)
        _register_gradient(operator, name, arguments, exact)
        overload = getattr(getattr(torch.ops, NAMESPACE), definition.__name__).default

        @wraps(definition)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if torch.compiler.is_compiling() or not torch.is_grad_enabled():
                return overload(*args, **kwargs)  # type: ignore[no-any-return]
            given = (*args, *kwargs.values())
            trains = any(isinstance(t, Tensor) and t.requires_grad for t in given)
            return (exact if trains else overload)(*args, **kwargs)  # type: ignore[no-any-return]

        return call

    return register


def _without_autocast(definition: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(definition)
    def exact(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else next(iter(kwargs.values()))
        with torch.autocast(first.device.type, enabled=False):
            return definition(*args, **kwargs)

    return exact


def _register_gradient(
    operator: Any, name: str, arguments: str, definition: Callable[..., Any]
) -> None:
    """The gradient as an operator too, of the definition computed again: a compiler that traces
    the backward pass need not look into it."""

    def of_needed(grads: Sequence[Tensor], needed: Sequence[bool], *args: Any) -> list[Tensor]:
        with torch.enable_grad():
            values = [
                arg.detach().requires_grad_(need) if isinstance(arg, Tensor) else arg
                for arg, need in zip(args, needed, strict=True)
            ]
            results = definition(*values)
        results = [results] if isinstance(results, Tensor) else list(results)
        wanted = [value for value, need in zip(values, needed, strict=True) if need]
        found = torch.autograd.grad(
            results, wanted, list(grads), allow_unused=True, materialize_grads=True
        )
        return [grad.clone(memory_format=torch.contiguous_format) for grad in found]

    # Not by custom_op, whose kernels run where nothing can be differentiated.
    torch.library.define(
        f"{name}_backward", f"(Tensor[] grads, bool[] needed, {arguments}) -> Tensor[]"
    )
    torch.library.impl(f"{name}_backward", "default", of_needed)
    torch.library.register_fake(
        f"{name}_backward",
        lambda _, needed, *args: [
            arg.new_empty(arg.shape) for arg, need in zip(args, needed, strict=True) if need
        ],
    )
    backward_of = getattr(getattr(torch.ops, NAMESPACE), f"{definition.__name__}_backward")

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*[arg for arg in inputs if isinstance(arg, Tensor)])
        ctx.others = [None if isinstance(arg, Tensor) else (arg,) for arg in inputs]

    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        args = [next(saved) if other is None else other[0] for other in ctx.others]
        needed = [bool(need) for need in ctx.needs_input_grad]
        found = iter(backward_of(list(grads), needed, *args))
        return tuple(next(found) if need else None for need in needed)

    operator.register_autograd(backward, setup_context=keep)


def _wide(x: Tensor) -> torch.dtype:
    """The type that is computed with: float32, or float64 where x is."""
    return torch.promote_types(x.dtype, torch.float32)


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


# ---- the scan of Mamba-1 ----


def _scan_shapes(
    u: Tensor, delta: Tensor, delta_bias: Tensor | None, A: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    state = u.new_empty(u.shape[0], A.shape[1], A.shape[0], dtype=_wide(u))
    return u.new_empty(u.shape), state


@_operator(
    "Tensor u, Tensor delta, Tensor? delta_bias, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? z, Tensor? state, bool softplus, bool reverse",
    "(Tensor, Tensor)",
    _scan_shapes,
)
def selective_scan(
    u: Tensor,
    delta: Tensor,
    delta_bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    state: Tensor | None,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The selective scan of Mamba-1 (blocks/selective_scan.py has its equations).

    Args:
        u, delta, z: float (b, l, d). delta_bias, D: float (d,). A: float (d, n), negative.
        B, C: float (b, l, n). state: float (b, n, d), h before the first step.
        softplus: False takes delta + delta_bias for the step size itself.
        reverse: from the last step to the first.

    Returns:
        y (b, l, d) and the state after the last step that was taken, (b, n, d).
    """
    kind, own = _wide(u), u.dtype
    u, delta, B, C = (t.to(kind) for t in (u, delta, B, C))
    if reverse:
        u, delta, B, C = (t.flip(1) for t in (u, delta, B, C))
    dt = delta if delta_bias is None else delta + delta_bias.to(kind)
    first = u.new_zeros(len(u), *A.T.shape) if state is None else state.to(kind)
    y, last = scan_of_steps(
        F.softplus(dt) if softplus else dt, u, A.to(kind).T.contiguous(), B, C, first
    )
    y = y if D is None else y + D.to(kind) * u
    y = y.flip(1) if reverse else y
    y = y if z is None else y * F.silu(z.to(kind))
    return y.to(own).contiguous(), last.contiguous()


# ---- the convolution before a scan ----


def _conv_shapes(x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], weight.shape[1] - 1, x.shape[2])


@_operator(
    "Tensor x, Tensor weight, Tensor? bias, Tensor? state, bool silu",
    "(Tensor, Tensor)",
    _conv_shapes,
)
def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """The depthwise causal convolution (blocks/convolution.py).

    Args:
        x: float (b, l, d). weight: float (d, k), the last column meets the newest step.
        bias: float (d,). state: float (b, k-1, d), the steps before x, oldest first.
        silu: SiLU after it.

    Returns:
        y (b, l, d) and the last k-1 inputs, (b, k-1, d), both of the type of x.
    """
    kind, taps = _wide(x), weight.shape[1]
    before = x.new_zeros(len(x), taps - 1, x.shape[2]) if state is None else state
    zeros = x.new_zeros(x.shape[2], dtype=kind) if bias is None else bias.to(kind)
    kernel = weight.to(kind).T.contiguous()
    y, after = convolution.causal_conv1d(x.to(kind), kernel, zeros, before, silu=silu)
    return y.to(x.dtype).contiguous(), after.to(x.dtype, copy=True).contiguous()


# ---- the scan of Mamba-2 ----


def _heads_shapes(
    x: Tensor, delta: Tensor, delta_bias: Tensor | None, A: Tensor, B: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    state = (x.shape[0], x.shape[2], B.shape[3], x.shape[3])
    return x.new_empty(x.shape), x.new_empty(state, dtype=_wide(x))


@_operator(
    "Tensor x, Tensor delta, Tensor? delta_bias, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? state, bool softplus, float dt_min, float dt_max",
    "(Tensor, Tensor)",
    _heads_shapes,
)
def ssd_scan(
    x: Tensor,
    delta: Tensor,
    delta_bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    softplus: bool,
    dt_min: float,
    dt_max: float,
) -> tuple[Tensor, Tensor]:
    """The scan of Mamba-2 (blocks/ssd_scan.py).

    Args:
        x: float (b, l, h, p). delta: (b, l, h). delta_bias, A: (h,), A negative.
        B, C: (b, l, g, n); g divides h. D: (h, p). state: (b, h, n, p), before the first step.
        softplus: False takes delta + delta_bias for the step size itself.
        dt_min, dt_max: limits of the step size; 0 and infinity are none.

    Returns:
        y (b, l, h, p) and the state after the last step (b, h, n, p).
    """
    kind, own = _wide(x), x.dtype
    x, delta, A, B, C = (t.to(kind) for t in (x, delta, A, B, C))
    bias = A.new_zeros(A.shape) if delta_bias is None else delta_bias.to(kind)
    skip = A.new_zeros(x.shape[2:]) if D is None else D.to(kind)
    shape = (len(x), x.shape[2], B.shape[3], x.shape[3])
    first = x.new_zeros(shape) if state is None else state.to(kind)
    limits = (dt_min, dt_max)
    y, last = scan_of_heads(x, delta, bias, A, B, C, skip, first, limits, softplus=softplus)
    return y.to(own).contiguous(), last.contiguous()


# ---- norms and products ----


@_operator(
    "Tensor x, Tensor z, Tensor weight, float eps, int groups, bool gate_first",
    "Tensor",
    _like_first,
)
def gated_rms_norm(
    x: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int, gate_first: bool
) -> Tensor:
    """The RMS norm of equal parts of the last axis, and a gate (blocks/norm.py).

    Args:
        x, z: float (..., d). weight: (d,). groups: parts of d.
        gate_first: the norm is of the gated values; False gates the normalised ones.
    """
    kind = _wide(x)
    y = norm.gated_rms_norm(x.to(kind), z.to(kind), weight.to(kind), eps, groups, gate_first)
    return y.to(x.dtype).contiguous()


@_operator("Tensor x, Tensor weight, float eps", "Tensor", _like_first)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; x: float (..., d), weight: (d,)."""
    y: Tensor = norm.rms_norm(x, eps, weight.to(_wide(x)))
    return y.to(x.dtype).contiguous()


@_operator(
    "Tensor x, Tensor weight, Tensor? bias",
    "Tensor",
    lambda x, weight, bias: x.new_empty(*x.shape[:-1], weight.shape[0]),
)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + bias, a product whose matrix may be packed.

    Args:
        x: float (..., c). weight: float (r, c), or (r, c, 1) or (r, c, 1, 1) of a convolution.
        bias: (r,).
    """
    return F.linear(x, weight.flatten(1), bias).contiguous()
