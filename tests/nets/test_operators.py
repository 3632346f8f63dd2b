"""The operators of nets/: their values and gradients are the definitions'; exports keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim

from ssmpress.nets import operators

OPS = torch.ops.ssmpress
B, L, D, N = 2, 5, 3, 4
H, P, G = 4, 2, 2


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scan_arguments(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """All of the scan's tensors, in its order."""
    shapes = {"u": (B, L, D), "delta": (B, L, D), "delta_bias": (D,), "A": (D, N)}
    shapes |= {"B": (B, L, N), "C": (B, L, N), "D": (D,), "z": (B, L, D), "state": (B, N, D)}
    tensors = {n: drawn(*s, seed=i, dtype=dtype) for i, (n, s) in enumerate(shapes.items())}
    return tensors | {"A": -tensors["A"].exp()}


def heads_arguments(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """All of the second scan's tensors, in its order."""
    shapes = {"x": (B, L, H, P), "delta": (B, L, H), "delta_bias": (H,), "A": (H,)}
    shapes |= {"B": (B, L, G, N), "C": (B, L, G, N), "D": (H, P), "state": (B, H, N, P)}
    tensors = {n: drawn(*s, seed=i, dtype=dtype) for i, (n, s) in enumerate(shapes.items())}
    return tensors | {"A": -tensors["A"].exp()}


def conv_arguments(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    shapes = {"x": (B, L, D), "weight": (D, 4), "bias": (D,), "state": (B, 3, D)}
    return {n: drawn(*s, seed=i, dtype=dtype) for i, (n, s) in enumerate(shapes.items())}


def without(arguments: dict[str, Tensor], *names: str) -> dict[str, Any]:
    return {n: None if n in names else t for n, t in arguments.items()}


CALLS: dict[str, tuple[str, Callable[[torch.dtype], tuple[Any, ...]]]] = {
    "scan": ("selective_scan", lambda t: (*scan_arguments(t).values(), True, False)),
    "bare scan backwards": (
        "selective_scan",
        lambda t: (
            *without(scan_arguments(t), "delta_bias", "D", "z", "state").values(),
            True,
            True,
        ),
    ),
    "conv": ("causal_conv1d", lambda t: (*conv_arguments(t).values(), True)),
    "bare conv": (
        "causal_conv1d",
        lambda t: (*without(conv_arguments(t), "bias", "state").values(), False),
    ),
    "heads": ("ssd_scan", lambda t: (*heads_arguments(t).values(), True, 0.01, 1.0)),
    "bare heads": (
        "ssd_scan",
        lambda t: (
            *without(heads_arguments(t), "delta_bias", "D", "state").values(),
            True,
            0.0,
            float("inf"),
        ),
    ),
    "gated norm": (
        "gated_rms_norm",
        lambda t: (*(drawn(*s, dtype=t) for s in ((B, L, 6), (B, L, 6), (6,))), 1e-5, 2, True),
    ),
    "norm": ("rms_norm", lambda t: (drawn(B, L, D, dtype=t), drawn(D, dtype=t), 1e-5)),
    "linear": ("linear", lambda t: tuple(drawn(*s, dtype=t) for s in ((B, L, D), (6, D), (6,)))),
    "1x1": ("linear", lambda t: (drawn(B, D, dtype=t), drawn(6, D, 1, 1, dtype=t), None)),
}
cases = pytest.mark.parametrize("case", CALLS)


def called(case: str, dtype: torch.dtype = torch.float64) -> tuple[str, tuple[Any, ...]]:
    name, arguments = CALLS[case]
    return name, arguments(dtype)


def needing_gradients(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.clone().requires_grad_() if isinstance(a, Tensor) else a for a in arguments)


@cases
def test_an_operator_is_what_torch_library_asks_of_one(case: str) -> None:
    name, arguments = called(case, torch.float32)
    torch.library.opcheck(getattr(OPS, name).default, needing_gradients(arguments))


@cases
def test_its_gradients_are_the_definitions(case: str) -> None:
    name, arguments = called(case)
    gradients = []
    for function in (getattr(OPS, name), getattr(operators, name)):
        given_ = needing_gradients(arguments)
        results = function(*given_)
        results = (results,) if isinstance(results, Tensor) else results
        sum((r * drawn(*r.shape, seed=9)).sum() for r in results).backward()
        gradients.append([g.grad for g in given_ if isinstance(g, Tensor)])
    for by_operator, by_definition in zip(*gradients, strict=True):
        torch.testing.assert_close(by_operator, by_definition, rtol=0, atol=0)


def test_training_differentiates_the_definition_itself() -> None:
    """The operator would compute the scan a second time for its gradients."""
    arguments = needing_gradients(called("scan")[1])
    y, _ = operators.selective_scan(*arguments)
    assert "ssmpress" not in type(y.grad_fn).__name__
    assert "ssmpress" in type(OPS.selective_scan(*arguments)[0].grad_fn).__name__


@cases
def test_the_definition_is_differentiated(case: str) -> None:
    name, arguments = called(case)
    assert torch.autograd.gradcheck(getattr(operators, name), needing_gradients(arguments))


def plain_scan(a: dict[str, Any], softplus: bool, reverse: bool) -> tuple[Tensor, Tensor]:
    """The scan step by step, written with A (d, n) and options."""
    h = torch.zeros(B, N, D, dtype=a["u"].dtype) if a["state"] is None else a["state"]
    y = torch.zeros_like(a["u"])
    for t in reversed(range(L)) if reverse else range(L):
        dt = a["delta"][:, t] + (0 if a["delta_bias"] is None else a["delta_bias"])
        dt = F.softplus(dt) if softplus else dt
        x = (dt * a["u"][:, t])[:, None] * a["B"][:, t, :, None]
        h = torch.exp(dt[:, None] * a["A"].T) * h + x
        y[:, t] = (h * a["C"][:, t, :, None]).sum(1)
        y[:, t] += 0 if a["D"] is None else a["D"] * a["u"][:, t]
        y[:, t] *= 1 if a["z"] is None else F.silu(a["z"][:, t])
    return y, h


@given(
    absent=st.sets(st.sampled_from(["delta_bias", "D", "z", "state"])),
    softplus=st.booleans(),
    reverse=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_the_scan_is_the_equation_with_every_option(
    absent: set[str], softplus: bool, reverse: bool
) -> None:
    arguments = without(scan_arguments(), *absent)
    arguments["delta"] = arguments["delta"].abs()  # a step size, where no softplus makes it one
    if arguments["delta_bias"] is not None:
        arguments["delta_bias"] = arguments["delta_bias"].abs()
    expected = plain_scan(arguments, softplus, reverse)
    torch.testing.assert_close(
        operators.selective_scan(**arguments, softplus=softplus, reverse=reverse), expected
    )


def test_step_sizes_without_softplus_in_the_second_scan() -> None:
    bare = without(heads_arguments(), "delta_bias", "D", "state")
    steps = F.softplus(bare["delta"])
    limits = (0.0, float("inf"))
    expected = operators.ssd_scan(*bare.values(), True, *limits)
    given_ = operators.ssd_scan(*(bare | {"delta": steps}).values(), False, *limits)
    torch.testing.assert_close(given_, expected)


class _Net(nn.Module):
    """One operator whose tensors all depend on a sequence x (b, l, d)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        if self.name == "selective_scan":
            A = -torch.ones(8, 4)
            C = x[..., :4]
            y, _ = operators.selective_scan(x, x, None, A, C, C, None, x, None, True, False)
        elif self.name == "causal_conv1d":
            y, _ = operators.causal_conv1d(x, torch.ones(8, 4), None, None, True)
        elif self.name == "ssd_scan":
            heads, group = x.reshape(*x.shape[:2], 4, 2), x[:, :, None, :4]
            arguments = (heads, x[..., :4], None, -torch.ones(4), group, group)
            y, _ = operators.ssd_scan(*arguments, None, None, True, 0.0, float("inf"))
        elif self.name == "gated_rms_norm":
            y = operators.gated_rms_norm(x, x, torch.ones(8), 1e-5, 2, False)
        elif self.name == "rms_norm":
            y = operators.rms_norm(x, torch.ones(8), 1e-5)
        else:
            y = operators.linear(x, torch.ones(8, 8), None)
        return y


NAMES = ("selective_scan", "causal_conv1d", "ssd_scan", "gated_rms_norm", "rms_norm", "linear")


@pytest.mark.parametrize("name", NAMES)
def test_export_keeps_one_node_with_any_batch_and_length(name: str) -> None:
    net = _Net(name).eval()
    axes = {0: Dim("batch"), 1: Dim("length")}
    program = torch.export.export(net, (torch.randn(2, 5, 8),), dynamic_shapes=(axes,))
    program = program.run_decompositions()
    calls = [str(node.target) for node in program.graph.nodes if "ssmpress" in str(node.target)]
    assert calls == [f"ssmpress.{name}.default"]
    x = torch.randn(3, 11, 8)
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "linear"])
def test_autocast_leaves_what_is_computed_in_float32(name: str) -> None:
    net = _Net(name).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        lower = net.inner(x)
        y = net(x)
    assert lower.dtype == torch.bfloat16 == y.dtype
    net.inner = nn.Identity()
    torch.testing.assert_close(y, net(lower.float()).bfloat16())


def test_training_in_autocast_gives_gradients_to_every_weight() -> None:
    net = _Net("selective_scan")
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(torch.randn(2, 5, 8)).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
