"""The stand-ins' functions beside mamba-ssm's own PyTorch code: the same numbers and gradients."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmpress.errors import BadInputError
from ssmpress.nets.stand_ins import norms, scan, ssd
from ssmpress.nets.stand_ins.convolution import causal_conv1d_fn, causal_conv1d_update
from ssmpress.nets.stand_ins.state_update import selective_state_update
from stand_in_checks import B, D, L, N, close, drawn, same_with_gradients

SHAPES = {
    "each step": (B, N, L),
    "one group": (B, 1, N, L),
    "three groups": (B, 3, N, L),
    "constant": (D, N),
}


@pytest.mark.parametrize("shape_of_C", SHAPES)
@pytest.mark.parametrize("shape_of_B", SHAPES)
@pytest.mark.parametrize("bare", [False, True])
def test_the_scan(real: SimpleNamespace, shape_of_B: str, shape_of_C: str, bare: bool) -> None:
    tensors = [drawn(B, D, L), drawn(B, D, L, seed=1).abs(), -drawn(D, N, seed=2).exp()]
    tensors += [drawn(*SHAPES[shape_of_B], seed=3), drawn(*SHAPES[shape_of_C], seed=4)]
    optional = [drawn(D, seed=5), drawn(B, D, L, seed=6), drawn(D, seed=7)]
    same_with_gradients(
        *(
            partial(function, delta_softplus=not bare)
            for function in (scan.selective_scan_fn, real.selective_scan_ref)
        ),
        *tensors,
        *([None] * 3 if bare else optional),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_last_state(real: SimpleNamespace, shape: str) -> None:
    tensors = [drawn(B, D, L), drawn(B, D, L, seed=1), -drawn(D, N, seed=2).exp()]
    tensors += [drawn(*SHAPES[shape], seed=3), drawn(B, N, L, seed=4)]
    close(
        scan.selective_scan_fn(*tensors, delta_softplus=True, return_last_state=True),
        real.selective_scan_ref(*tensors, delta_softplus=True, return_last_state=True),
    )


def test_half_precision_in_is_half_precision_out(real: SimpleNamespace) -> None:
    halves = [t.bfloat16() for t in (drawn(B, D, L), drawn(B, D, L, seed=1))]
    rest = [-drawn(D, N, seed=2).exp(), drawn(B, N, L, seed=3), drawn(B, N, L, seed=4)]
    y = scan.selective_scan_fn(*halves, *rest, delta_softplus=True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, real.selective_scan_ref(*halves, *rest, delta_softplus=True))


def test_complex_values_are_refused() -> None:
    u, A = drawn(B, D, L), torch.complex(-drawn(D, N).exp(), drawn(D, N))
    with pytest.raises(BadInputError, match="expected real A, B and C; got complex"):
        scan.selective_scan_fn(u, u, A, drawn(B, N, 2 * L), drawn(B, N, 2 * L))


INNER = {  # arguments of mamba_inner_fn
    "xz": (B, 2 * D, L),
    "conv1d_weight": (D, 1, 4),
    "conv1d_bias": (D,),
    "x_proj_weight": (2 + 2 * N, D),
    "delta_proj_weight": (D, 2),
    "out_proj_weight": (5, D),
    "out_proj_bias": (5,),
    "A": (D, N),
}


def inner_arguments() -> dict[str, Tensor]:
    tensors = {name: drawn(*shape, seed=i) for i, (name, shape) in enumerate(INNER.items())}
    return {name: t / 2 for name, t in tensors.items()} | {"A": -tensors["A"].exp()}


def test_the_inner_part(real: SimpleNamespace) -> None:
    tensors = inner_arguments()
    rest = {"D": drawn(D, seed=20), "delta_bias": drawn(D, seed=21)}
    rest |= {f"{name}_proj_bias": drawn(N, seed=22) for name in "BC"}
    names = [*tensors, *rest]
    same_with_gradients(
        lambda *values: scan.mamba_inner_fn(**dict(zip(names, values, strict=True))),
        lambda *values: real.mamba_inner_ref(**dict(zip(names, values, strict=True))),
        *tensors.values(),
        *rest.values(),
    )


def test_the_inner_part_backwards_and_forwards() -> None:
    tensors = inner_arguments()
    A_b = -drawn(D, N, seed=30).exp()
    plain = {name: t for name, t in tensors.items() if not name.startswith("out_proj")}
    x, z = plain["xz"].chunk(2, dim=1)
    u = causal_conv1d_fn(x, plain["conv1d_weight"][:, 0], plain["conv1d_bias"], activation="silu")
    parts = F.linear(u.mT, plain["x_proj_weight"]).split([2, N, N], dim=-1)
    delta = F.linear(parts[0], plain["delta_proj_weight"]).mT
    scanned = (u, delta, parts[1].mT, parts[2].mT, z)

    def scanned_with(A: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor) -> Any:
        return scan.selective_scan_fn(u, delta, A, B, C, z=z, delta_softplus=True)

    both = scanned_with(tensors["A"], *scanned)
    both = both + scanned_with(A_b, *(t.flip(-1) for t in scanned)).flip(-1)
    expected = F.linear(both.mT, tensors["out_proj_weight"], tensors["out_proj_bias"])
    close(scan.bimamba_inner_fn(**tensors, A_b=A_b), expected)


# ---- norms, heads, convolutions ----


@pytest.mark.parametrize("prenorm", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("rms", [False, True])
def test_norms_of_sums(
    real: SimpleNamespace, rms: bool, residual: bool, parallel: bool, prenorm: bool
) -> None:
    options: dict[str, Any] = {"eps": 1e-3, "prenorm": prenorm}
    options |= {"residual": drawn(B, L, D, seed=3)} if residual else {}
    if parallel:
        options |= {"x1": drawn(B, L, D, seed=4), "weight1": drawn(D, seed=5)}
        options |= {"bias1": drawn(D, seed=6)}
    else:
        options["rowscale"] = drawn(B, L, seed=7)
    inputs = (drawn(B, L, D), drawn(D, seed=1), drawn(D, seed=2))
    reference = real.rms_norm_ref if rms else real.layer_norm_ref
    ours = norms.rms_norm_fn if rms else norms.layer_norm_fn
    close(ours(*inputs, **options), reference(*inputs, **options))


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("gate", [None, True, False])
@pytest.mark.parametrize("biased", [False, True])
def test_norms_beside_a_gate(
    real: SimpleNamespace, groups: int | None, gate: bool | None, biased: bool
) -> None:
    inputs = [drawn(B, L, D), drawn(D, seed=1), drawn(D, seed=2) if biased else None]
    inputs.append(None if gate is None else drawn(B, L, D, seed=3))
    options = {"group_size": groups, "norm_before_gate": bool(gate), "eps": 1e-3}
    same_with_gradients(
        partial(norms.rmsnorm_fn, **options), partial(real.gated_norm_ref, **options), *inputs
    )


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_the_scan_of_heads(real: SimpleNamespace, gated: bool, per_channel: bool) -> None:
    heads, width = 4, 3
    tensors = [drawn(B, L, heads, width), drawn(B, L, heads, seed=1), -drawn(heads, seed=2).exp()]
    tensors += [drawn(B, L, 2, N, seed=3), drawn(B, L, 2, N, seed=4)]
    D = drawn(heads, width, seed=5) if per_channel else drawn(heads, seed=5)
    z = drawn(B, L, heads, width, seed=6) if gated else None
    options = {"dt_softplus": True, "dt_limit": (0.1, 2.0)}

    def ours(*t: Tensor) -> Tensor:
        return ssd.mamba_chunk_scan_combined(*t[:5], 4, *t[5:], **options)

    def theirs(*t: Tensor) -> Tensor:
        return real.scan_of_heads(*t[:5], *t[5:], **options)

    same_with_gradients(ours, theirs, *tensors, D, z, drawn(heads, seed=7))


def test_the_scan_of_heads_goes_on_from_its_states() -> None:
    heads, width = 4, 3
    tensors = [drawn(B, L, heads, width), drawn(B, L, heads, seed=1), -drawn(heads, seed=2).exp()]
    tensors += [drawn(B, L, 2, N, seed=3), drawn(B, L, 2, N, seed=4)]
    whole = partial(ssd.mamba_chunk_scan_combined, return_final_states=True, dt_softplus=True)

    def cut(part: slice) -> list[Tensor]:
        return [t if t.dim() == 1 else t[:, part] for t in tensors]

    y, last = whole(*tensors, 4)
    first, state = whole(*cut(slice(3)), 4)
    second, end = whole(*cut(slice(3, None)), 4, initial_states=state)
    close(torch.cat([first, second], 1), y)
    close(end, last)
    assert last.shape == (B, heads, width, N)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_the_convolution_goes_on_from_its_states(activation: str | None) -> None:
    x, weight, bias = drawn(B, D, L), drawn(D, 4, seed=1), drawn(D, seed=2)
    plain = F.conv1d(x, weight[:, None], bias, padding=3, groups=D)[..., :L]
    plain = plain if activation is None else F.silu(plain)
    close(causal_conv1d_fn(x, weight, bias, activation=activation), plain)
    first, state = causal_conv1d_fn(
        x[..., :2], weight, bias, return_final_states=True, activation=activation
    )
    second = causal_conv1d_fn(x[..., 2:], weight, bias, None, state, activation=activation)
    close(torch.cat([first, second], -1), plain)


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("size", [3, 6])
def test_the_convolution_step_by_step(size: int, ring: bool) -> None:
    x, weight, bias = drawn(B, D, L), drawn(D, 4, seed=1), drawn(D, seed=2)
    state, outputs = torch.zeros(B, D, size), []
    for t in range(L):
        lengths = torch.full((B,), t, dtype=torch.int32) if ring else None
        outputs.append(causal_conv1d_update(x[..., t], state, weight, bias, "silu", lengths))
    close(torch.stack(outputs, -1), causal_conv1d_fn(x, weight, bias, "silu"))


@pytest.mark.parametrize("heads", [False, True])
def test_a_step_of_the_scan(real: SimpleNamespace, heads: bool) -> None:
    rows, groups, own = ((B, 4, D), (B, 2, N), (4,)) if heads else ((B, D), (B, N), ())
    tensors = [drawn(*rows, N), drawn(*rows, seed=1), drawn(*rows, seed=2)]
    tensors += [-drawn(*own, D, N, seed=3).exp(), drawn(*groups, seed=4), drawn(*groups, seed=5)]
    tensors += [drawn(*own, D, seed=6), drawn(*rows, seed=7), drawn(*own, D, seed=8)]
    states = [tensors[0].clone(), tensors[0].clone()]
    close(
        selective_state_update(states[0], *tensors[1:], dt_softplus=True),
        real.state_update_ref(states[1], *tensors[1:], dt_softplus=True),
    )
    close(*states)


@pytest.mark.parametrize("call", ["causal_conv1d_fn", "chunk", "split"])
def test_several_sequences_in_one_are_refused(call: str) -> None:
    t = drawn(B, L, 4)
    with pytest.raises(BadInputError, match="expected one sequence per batch entry; got seq_idx"):
        if call == "chunk":
            ssd.mamba_chunk_scan_combined(t, t, t, t, t, 4, seq_idx=t)
        elif call == "split":
            ssd.mamba_split_conv1d_scan_combined(t, t, t, t, t, t, 4, seq_idx=t)
        else:
            causal_conv1d_fn(t, t, t, seq_idx=t)
