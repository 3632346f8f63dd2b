"""Copied code with autograd functions of its own around the compiled modules."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.errors import BadInputError
from ssmpress.nets.stand_ins import stand_ins
from ssmpress.nets.stand_ins.convolution import causal_conv1d_fn
from ssmpress.nets.stand_ins.scan import selective_scan_fn

B, L, D, N = 2, 5, 6, 3


def module(name: str) -> Any:
    with stand_ins(always=True):
        return importlib.import_module(name)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scan_inputs(groups: int) -> list[Tensor]:
    """u, delta, A, B, C, D, delta_bias, z."""
    shapes = [(B, D, L), (B, D, L), (D, N), (B, groups, N, L), (B, groups, N, L), (D,), (D,)]
    tensors = [drawn(*shape, seed=i) for i, shape in enumerate([*shapes, (B, D, L)])]
    tensors[2] = -tensors[2].exp()
    return tensors


class Plain(torch.autograd.Function):
    """Around selective_scan_cuda, as mamba_ssm has it."""

    @staticmethod
    def forward(ctx: Any, u, delta, A, B, C, D, delta_bias, z) -> Tensor:  # type: ignore[no-untyped-def]
        cuda = module("selective_scan_cuda")
        out, x, *rest = cuda.fwd(u, delta, A, B, C, D, z, delta_bias, True)
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, z, x, out)
        last = selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, True, True)[1]
        torch.testing.assert_close(x[:, :, -1, 1::2], last)
        return rest[0]

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> Any:
        u, delta, A, B, C, D, delta_bias, z, x, out = ctx.saved_tensors
        dz = torch.empty_like(z)
        *grads, of_z, gated = module("selective_scan_cuda").bwd(
            u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, True, True
        )
        torch.testing.assert_close(gated, out * F.silu(z))
        torch.testing.assert_close(dz, of_z)
        return (*grads, dz)


class Rows(torch.autograd.Function):
    """Around VMamba's, which has no gate."""

    name = "selective_scan_cuda_oflex"

    @staticmethod
    def forward(ctx: Any, u, delta, A, B, C, D, delta_bias) -> Tensor:  # type: ignore[no-untyped-def]
        arguments = (u, delta, A, B, C, D, delta_bias, True, 1)
        options = (True,) if Rows.name.endswith("oflex") else ()
        out, x, *_ = module(Rows.name).fwd(*arguments, *options)
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, x)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> Any:
        u, delta, A, B, C, D, delta_bias, x = ctx.saved_tensors
        grads = module(Rows.name).bwd(u, delta, A, B, C, D, delta_bias, dout, x, True, 1)
        return tuple(grads)


def same(function: Any, expected: Any, inputs: list[Tensor]) -> None:
    """One result and one gradient of every input."""
    results = []
    for one in (function, expected):
        given = [t.clone().requires_grad_() for t in inputs]
        y = one(*given)
        (y * drawn(*y.shape, seed=9)).sum().backward()
        results.append([y, *(t.grad for t in given)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_scan_with_a_gate(groups: int) -> None:
    def expected(u, delta, A, B, C, D, bias, z):  # type: ignore[no-untyped-def]
        return selective_scan_fn(u, delta, A, B, C, D, z, bias, True)

    same(Plain.apply, expected, scan_inputs(groups))


@pytest.mark.parametrize("kind", ["core", "nrow", "oflex"])
def test_a_scan_without(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "name", f"selective_scan_cuda_{kind}")

    def expected(u, delta, A, B, C, D, bias):  # type: ignore[no-untyped-def]
        return selective_scan_fn(u, delta, A, B, C, D, None, bias, True)

    same(Rows.apply, expected, scan_inputs(2)[:-1])


class _Around(nn.Module):
    """A network whose scan is such a function."""

    def __init__(self) -> None:
        super().__init__()
        self.A_log, self.D = nn.Parameter(torch.zeros(D, N)), nn.Parameter(torch.ones(D))

    def forward(self, u: Tensor) -> Tensor:
        B = u[:, None, :N]
        return Rows.apply(u, u, -self.A_log.exp(), B, B, self.D, self.D)


def test_it_is_exported_as_one_operator() -> None:
    net = _Around().eval()
    with torch.no_grad():
        program = torch.export.export(net, (torch.randn(B, D, L),))
    calls = [node.target for node in program.graph.nodes if "ssmpress" in str(node.target)]
    assert calls == [torch.ops.ssmpress.selective_scan.default]


VERSIONS = {"1.0": ([], False), "1.1": ([None], False), "1.4": ([None, None, None], True)}
"""What stands before silu in `fwd`, and whether `bwd` is the one with initial states."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("preallocated", [False, True])
@pytest.mark.parametrize("name", ["causal_conv1d_cuda", "causal_conv1d.cpp_functions"])
def test_a_convolution(name: str, preallocated: bool, version: str) -> None:
    before, newer = VERSIONS[version]
    end = "_function" if "." in name else ""
    package = module(name)
    fwd, bwd = (getattr(package, f"causal_conv1d_{kind}{end}") for kind in ("fwd", "bwd"))

    class Conv(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            ctx.save_for_backward(x, weight, bias)
            return fwd(x, weight, bias, *before, True)

        @staticmethod
        def backward(ctx: Any, dout: Tensor) -> Any:
            x, weight, bias = ctx.saved_tensors
            dx = torch.empty_like(x) if preallocated else None
            rest = (None, None, None, dx, False, True) if newer else (*before, dx, True)
            of_x, *others = bwd(x, weight, bias, dout, *rest)
            assert len(others) == (3 if newer else 2)
            return (of_x if dx is None else dx, *others[:2])

    def expected(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return causal_conv1d_fn(x, weight, bias, activation="silu")

    same(Conv.apply, expected, [drawn(B, D, L), drawn(D, 4, seed=1), drawn(D, seed=2)])


def test_a_convolution_goes_on_and_steps() -> None:
    cuda = module("causal_conv1d_cuda")
    x, weight = drawn(B, D, L), drawn(D, 4, seed=1)
    whole = cuda.causal_conv1d_fwd(x, weight, None, False)
    state = torch.zeros(B, D, 3, dtype=x.dtype)
    first = cuda.causal_conv1d_fwd(x[..., :2], weight, None, None, None, state, False)
    second = cuda.causal_conv1d_fwd(x[..., 2:4], weight, None, None, state.clone(), state, False)
    third = cuda.causal_conv1d_update(x[..., 4], state, weight, None, False)
    torch.testing.assert_close(torch.cat([first, second, third[..., None]], -1), whole)
    with pytest.raises(BadInputError, match="expected one sequence per batch entry; got seq_idx"):
        cuda.causal_conv1d_fwd(x, weight, None, x, False)
