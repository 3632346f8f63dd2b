"""The selective scan, everywhere it is written: one set of inputs, one definition.

The definition is `selective_scan_reference` in float64. Against it: the blocked scan in float64 and
float32 and its gradients, the ONNX function in stock ONNX Runtime, the op of the library, and the
op under every instruction set that can be forced. The same for the causal convolution before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import tolerances
from isa_process import run_cases
from isas import ISAS_BY_MACHINE
from scan_inputs import draw_scan
from ssmpress.blocks import selective_scan
from ssmpress.blocks.mamba1 import causal_conv1d
from ssmpress.blocks.selective_scan import selective_scan_reference
from ssmpress.graph import fallback, ops
from ssmpress.machine import host_machine
from ssmpress.runtime.loading import library_isa
from thoroughness import examples
from tolerances import assert_close

Arrays = dict[str, np.ndarray]
Run = Callable[[str, Arrays], list[np.ndarray]]

SCAN, CONV = ops.SELECTIVE_SCAN.name, ops.CAUSAL_CONV1D.name
ISAS = ISAS_BY_MACHINE[host_machine()]

# ---- inputs ----


def draw_conv(b: int, length: int, d: int, k: int) -> Arrays:
    random = np.random.default_rng([b, length, d, k])
    shapes = {"x": (b, length, d), "weight": (k, d), "bias": (d,), "state": (b, k - 1, d)}
    return {name: random.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


SCANS: dict[str, Arrays] = {
    "one token": draw_scan(1, 1, 16, 16),
    "one of everything": draw_scan(1, 1, 1, 1),
    "one channel": draw_scan(2, 7, 1, 3),
    "two tokens": draw_scan(2, 2, 8, 2),
    "d no multiple of 8": draw_scan(2, 13, 37, 5),
    "n 17": draw_scan(1, 20, 9, 17),
    "model-like": draw_scan(1, 100, 24, 16, delta=-4),
    "long": draw_scan(1, 300, 5, 4, delta=-5),
    "steps of 20": draw_scan(2, 11, 13, 4, delta=20),
    "steps of 90": draw_scan(1, 9, 8, 3, delta=90),
    "steps of e-30": draw_scan(1, 9, 8, 3, delta=-30),
    "very negative A": draw_scan(1, 12, 10, 6, decay=1e4),
    "A of -1e30": draw_scan(1, 5, 9, 3, decay=1e30),
    "A of -1e-30": draw_scan(1, 30, 9, 3, decay=1e-30),
} | {f"n {n}": draw_scan(1, 6, 10, n) for n in range(1, 17)}
SCANS["gates of 100"] = draw_scan(1, 9, 10, 4) | {
    "z": np.linspace(-100, 100, 90, dtype=np.float32).reshape(1, 9, 10)
}
NO_TOKENS = {"no token": draw_scan(2, 0, 11, 3)}

CONVS: dict[str, Arrays] = {
    f"b {b} l {length} d {d} k {k}": draw_conv(b, length, d, k)
    for b, length, d, k in [
        (1, 1, 1, 4),
        (1, 1, 16, 4),
        (2, 2, 5, 4),
        (1, 3, 37, 4),
        (3, 17, 9, 4),
        (1, 5, 8, 2),
        (1, 4, 6, 1),
        (2, 6, 7, 7),
        (1, 65, 24, 4),
    ]
}
CONVS["gates of 100"] = {k: 100 * v for k, v in draw_conv(1, 9, 10, 4).items()}

CASES = {
    f"{op}: {name}": (op, arrays)
    for op, cases in ((SCAN, SCANS), (CONV, CONVS))
    for name, arrays in cases.items()
}


def tensors(arrays: Arrays, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.from_numpy(array).to(dtype) for array in arrays.values()]


def silu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(x / 2)) / 2  # exp(-x) would overflow


def conv_definition(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The equation in `model.causal_conv1d`, one output at a time, float64."""
    x, weight, bias, state = (a.astype(np.float64) for a in arrays.values())
    taps, past = len(weight), np.concatenate([state, x], axis=1)
    y = np.empty_like(x)
    for t in range(x.shape[1]):
        y[:, t] = silu(bias + (weight * past[:, t : t + taps]).sum(1))
    return y, past[:, x.shape[1] :]


def expected(op: str, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The definitions, float64."""
    if op == CONV:
        return conv_definition(arrays)
    y, state = selective_scan_reference(*tensors(arrays))
    return y.numpy(), state.numpy()


def bound(op: str) -> float:
    return tolerances.SCAN_FLOAT32 if op == SCAN else tolerances.CONV_FLOAT32


def check(op: str, arrays: Arrays, actual: list[np.ndarray], what: str) -> None:
    for name, got, wanted in zip(ops.OPS[op].outputs, actual, expected(op, arrays), strict=True):
        assert_close(got, wanted, bound(op), f"{what}, {name}")


# ---- the runtimes ----


@cache
def model_bytes(op: str, channels: int = 0) -> bytes:
    """A model of one node with its fallback; all sizes are dynamic but a convolution's channels."""
    attributes = {"channels": channels} if op == CONV else {}
    node = helper.make_node(
        op, ops.OPS[op].inputs, ops.OPS[op].outputs, domain=ops.DOMAIN, **attributes
    )
    example = draw_scan(1, 1, 1, 1) if op == SCAN else draw_conv(1, 1, 1, 2)
    graph = helper.make_graph(
        [node],
        op,
        [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, [None] * v.ndim)
            for k, v in example.items()
        ],
        [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, [None] * 3)
            for k in ops.OPS[op].outputs
        ],
    )
    opsets = [("", ops.ONNX_OPSET), (ops.DOMAIN, ops.DOMAIN_VERSION)]
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*o) for o in opsets],
        functions=[fallback.function(op)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def channels_of(op: str, arrays: Arrays) -> int:
    return arrays["weight"].shape[1] if op == CONV else 0


@cache
def session(op: str, channels: int, library: Path | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(
        model_bytes(op, channels), options, providers=["CPUExecutionProvider"]
    )


def run_onnx(op: str, arrays: Arrays, library: Path | None = None) -> list[np.ndarray]:
    return session(op, channels_of(op, arrays), library).run(None, arrays)


def run_torch(op: str, arrays: Arrays) -> list[np.ndarray]:
    function = causal_conv1d if op == CONV else selective_scan.selective_scan
    return [t.numpy() for t in function(*tensors(arrays, torch.float32))]


def run_torch_reference(op: str, arrays: Arrays) -> list[np.ndarray]:
    function = causal_conv1d if op == CONV else selective_scan_reference
    return [t.numpy() for t in function(*tensors(arrays, torch.float32))]


@pytest.fixture(scope="module", params=ISAS)
def isa_results(
    request: pytest.FixtureRequest, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, list[np.ndarray]]:
    """Outputs of every case under one forced instruction set."""
    cases = [(model_bytes(op, channels_of(op, arrays)), arrays) for op, arrays in CASES.values()]
    folder = tmp_path_factory.mktemp(request.param)
    return dict(zip(CASES, run_cases(request.param, library, folder, cases), strict=True))


# ---- one set of inputs, every implementation ----


@pytest.mark.parametrize("name", CASES)
def test_float32_pytorch(name: str) -> None:
    op, arrays = CASES[name]
    check(op, arrays, run_torch(op, arrays), "PyTorch")
    check(op, arrays, run_torch_reference(op, arrays), "PyTorch, token by token")


@pytest.mark.parametrize("name", CASES)
def test_fallback_in_stock_onnx_runtime(name: str) -> None:
    op, arrays = CASES[name]
    check(op, arrays, run_onnx(op, arrays), "fallback")


@pytest.mark.parametrize("name", CASES)
def test_op_of_the_library(name: str, library: Path) -> None:
    op, arrays = CASES[name]
    check(op, arrays, run_onnx(op, arrays, library), f"op, {library_isa(library)}")


def test_every_instruction_set(isa_results: Mapping[str, list[np.ndarray]]) -> None:
    for name, (op, arrays) in CASES.items():
        check(op, arrays, isa_results[name], name)


def test_a_nan_stays_in_its_channel(library: Path) -> None:
    arrays = draw_scan(1, 6, 19, 4)
    arrays["u"][0, 2, 9] = np.nan
    for run in (run_torch, run_torch_reference, run_onnx, partial(run_onnx, library=library)):
        y, state = run(SCAN, arrays)
        is_nan = np.zeros(y.shape, bool)
        is_nan[0, 2:, 9] = True
        np.testing.assert_array_equal(np.isnan(y), is_nan)
        assert np.isnan(state[..., 9]).all()
        assert np.isfinite(np.delete(state, 9, axis=2)).all()


# Stock ONNX Runtime refuses to loop over no token; the sessions of `run.py` never ask it to.
@pytest.mark.parametrize("op", [SCAN, CONV])
def test_without_tokens_the_state_stays(op: str, library: Path) -> None:
    arrays = draw_scan(2, 0, 11, 3) if op == SCAN else draw_conv(2, 0, 11, 4)
    results = [run_torch(op, arrays), run_torch_reference(op, arrays)]
    results.append(run_onnx(op, arrays, library))
    for y, state in results:
        assert y.shape == (2, 0, 11)
        np.testing.assert_array_equal(state, arrays["state"])


@pytest.mark.parametrize("op", [SCAN, CONV])
def test_onnx_reference_evaluator_runs_the_fallback(op: str) -> None:
    arrays = draw_scan(2, 4, 5, 3) if op == SCAN else draw_conv(2, 4, 5, 4)
    model = onnx.load_from_string(model_bytes(op, channels_of(op, arrays)))
    check(op, arrays, ReferenceEvaluator(model).run(None, arrays), "ReferenceEvaluator")


# ---- the blocked scan in float64 ----


@pytest.mark.parametrize("name", [*SCANS, *NO_TOKENS])
def test_blocked_scan_is_the_definition(name: str) -> None:
    inputs = tensors({**SCANS, **NO_TOKENS}[name])
    before = [t.clone() for t in inputs]
    wanted = selective_scan_reference(*inputs)
    for got, want in zip(selective_scan.selective_scan(*inputs), wanted, strict=True):
        assert_close(got, want, tolerances.SCAN_FLOAT64, name)
    for tensor, copy in zip(inputs, before, strict=True):
        assert torch.equal(tensor, copy), "an input was written to"


sizes = st.tuples(
    st.integers(1, 3), st.integers(0, 40), st.integers(1, 40), st.integers(1, 17)
)  # b, l, d, n


@settings(max_examples=examples(60))
@given(sizes=sizes, delta=st.floats(-30, 40), seed=st.integers(0, 99))
def test_blocked_scan_of_any_shape(
    sizes: tuple[int, int, int, int], delta: float, seed: int
) -> None:
    inputs = tensors(draw_scan(*sizes, delta=delta, seed=seed))
    wanted = selective_scan_reference(*inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selective_scan, "BLOCK_ELEMENTS", 1)  # blocks of 16 channels
        results = selective_scan.selective_scan(*inputs)
    for got, want in zip(results, wanted, strict=True):
        assert_close(got, want, tolerances.SCAN_FLOAT64)


def gradients(function: Callable[..., Any], arrays: Arrays) -> list[torch.Tensor]:
    """Of a random weighting of both outputs, for every argument."""
    inputs = [t.requires_grad_() for t in tensors(arrays)]
    generator = torch.Generator().manual_seed(0)
    loss = torch.zeros((), dtype=torch.float64)
    for output in function(*inputs):
        weight = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        loss = loss + (output * weight).sum()
    return list(torch.autograd.grad(loss, inputs, materialize_grads=True))


GRADIENT_CASES = {
    "no token": (2, 0, 3, 2),
    "one token": (1, 1, 3, 2),
    "two": (2, 2, 3, 2),
    "odd": (2, 7, 5, 3),
    "square": (1, 16, 4, 4),
    "three blocks of channels": (2, 11, 37, 5),
    "long": (1, 120, 4, 3),
}


@pytest.mark.parametrize("case", GRADIENT_CASES)
@pytest.mark.parametrize("delta", [0.0, 20.0])
def test_gradients(case: str, delta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective_scan, "BLOCK_ELEMENTS", 1)
    arrays = draw_scan(*GRADIENT_CASES[case], delta=delta)
    wanted = gradients(selective_scan_reference, arrays)
    got = gradients(selective_scan.selective_scan, arrays)
    for name, a, b in zip(ops.SELECTIVE_SCAN.inputs, got, wanted, strict=True):
        assert_close(a, b, tolerances.SCAN_GRADIENT, name)


def test_gradcheck() -> None:
    inputs = [t.requires_grad_() for t in tensors(draw_scan(2, 5, 3, 2))]
    assert torch.autograd.gradcheck(selective_scan.selective_scan, inputs)


# ---- a state carries on exactly where the tokens before it ended ----

IMPLEMENTATIONS = ("float64", "float32", "fallback", "library")


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> tuple[Run, float]:
    """A runtime, and how far apart its own results may be."""
    if request.param == "float64":

        def blocked(op: str, arrays: Arrays) -> list[np.ndarray]:
            function = causal_conv1d if op == CONV else selective_scan.selective_scan
            return [t.numpy() for t in function(*tensors(arrays))]

        return blocked, tolerances.SCAN_FLOAT64
    if request.param == "float32":
        return run_torch, tolerances.SCAN_FLOAT32
    library = request.getfixturevalue("library") if request.param == "library" else None
    return lambda op, arrays: run_onnx(op, arrays, library), tolerances.SCAN_FLOAT32


def part(arrays: Arrays, state: np.ndarray, first: int, last: int) -> Arrays:
    """Tokens first .. last-1, after `state`."""
    tokens = ("u", "delta", "B", "C", "z", "x")
    cut = {k: v[:, first:last].copy() if k in tokens else v for k, v in arrays.items()}
    return {**cut, "state": state}


@pytest.mark.parametrize("cuts", [(0, 10, 23), tuple(range(24)), (0, 1, 22, 23)])
@pytest.mark.parametrize("op", [SCAN, CONV])
def test_prefill_equals_its_parts(
    op: str, cuts: tuple[int, ...], implementation: tuple[Run, float]
) -> None:
    run, allowed = implementation
    arrays = draw_scan(2, 23, 19, 5, delta=-2) if op == SCAN else draw_conv(2, 23, 19, 4)
    whole, end = run(op, arrays)
    state, pieces = arrays["state"], []
    for first, last in pairwise(cuts):
        y, state = run(op, part(arrays, state, first, last))
        state = state.astype(end.dtype)
        pieces.append(y)
    assert_close(np.concatenate(pieces, axis=1), whole, allowed, "y")
    assert_close(state, end, allowed, "state")
