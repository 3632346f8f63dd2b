"""The scan without a gate, everywhere it is written, against its equations in float64."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import tolerances
from isa_process import run_cases
from isas import ISAS_BY_MACHINE
from ssmpress.graph import fallback, ops
from ssmpress.machine import host_machine
from thoroughness import examples
from tolerances import assert_close

Array = NDArray[Any]
Arrays = dict[str, Array]
OP = ops.UNGATED_SCAN


def drawn(b: int, length: int, d: int, n: int, seed: int = 0, delta: float = -1.0) -> Arrays:
    """float32 inputs. delta: added to every step."""
    random = np.random.default_rng([seed, b, length, d, n])
    shapes = {"u": (b, length, d), "delta": (b, length, d), "delta_bias": (d,), "A": (n, d)}
    shapes |= {"B": (b, length, n), "C": (b, length, n), "D": (d,), "state": (b, n, d)}
    arrays = {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    arrays["A"] = -np.exp(arrays["A"])
    arrays["delta"] += np.float32(delta)
    return arrays


def definition(
    arrays: Arrays, softplus: int = 1, reverse: int = 0, offset: float = 0.0
) -> tuple[Array, Array]:
    """y and state_out, float64."""
    u, delta, bias, A, B, C, D, h = (array.astype(np.float64) for array in arrays.values())
    dt = delta + bias
    dt = (np.logaddexp(0, dt) if softplus else dt) + offset
    y, steps = np.empty_like(u), range(u.shape[1])
    for t in reversed(steps) if reverse else steps:
        h = np.exp(dt[:, t, None] * A) * h + (dt[:, t] * u[:, t])[:, None] * B[:, t, :, None]
        y[:, t] = np.einsum("bnd,bn->bd", h, C[:, t]) + D * u[:, t]
    return y, h


def positive(arrays: Arrays) -> Arrays:
    """Inputs whose deltas are steps."""
    return arrays | {k: np.abs(arrays[k]) for k in ("delta", "delta_bias")}


CASES: dict[str, tuple[Arrays, dict[str, Any]]] = {
    "forwards": (drawn(2, 13, 37, 5), {"softplus": 1, "reverse": 0, "offset": 0.0}),
    "backwards": (drawn(2, 13, 37, 5), {"softplus": 1, "reverse": 1, "offset": 0.0}),
    "an offset": (drawn(1, 30, 9, 17, delta=-8), {"softplus": 1, "reverse": 1, "offset": 1e-2}),
    "steps": (positive(drawn(1, 9, 8, 3)), {"softplus": 0, "reverse": 0, "offset": 0.0}),
    "steps, backwards": (
        positive(drawn(1, 20, 70, 64)),
        {"softplus": 0, "reverse": 1, "offset": 0.5},
    ),
    "one token": (drawn(1, 1, 16, 16), {"softplus": 1, "reverse": 1, "offset": 0.0}),
    "one of everything": (drawn(1, 1, 1, 1), {"softplus": 1, "reverse": 0, "offset": 0.0}),
}


@cache
def model_bytes(softplus: int, reverse: int, offset: float) -> bytes:
    """A model of one node and its fallback."""
    attributes = {"softplus": softplus, "reverse": reverse, "offset": offset}
    node = helper.make_node(OP.name, OP.inputs, OP.outputs, domain=ops.DOMAIN, **attributes)
    ranks = {name: array.ndim for name, array in drawn(1, 1, 1, 1).items()}
    graph = helper.make_graph(
        [node],
        "scan",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
            for name, rank in ranks.items()
        ],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, [None] * 3) for k in OP.outputs],
    )
    opsets = [("", ops.ONNX_OPSET), (ops.DOMAIN, ops.DOMAIN_VERSION)]
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*o) for o in opsets],
        functions=[fallback.function(OP.name)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@cache
def session(library: Path | None, **attributes: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(
        model_bytes(**attributes), options, providers=["CPUExecutionProvider"]
    )


def check(actual: list[Array], arrays: Arrays, attributes: dict[str, Any], what: str) -> None:
    wanted = definition(arrays, **attributes)
    for name, got, want in zip(OP.outputs, actual, wanted, strict=True):
        assert_close(got, want, tolerances.SCAN_FLOAT32, f"{what}, {name}")


@pytest.mark.parametrize("case", CASES)
def test_fallback_and_op(case: str, library: Path) -> None:
    arrays, attributes = CASES[case]
    for what, loaded in (("fallback", None), ("op", library)):
        check(session(loaded, **attributes).run(None, arrays), arrays, attributes, what)


@settings(max_examples=examples(40))
@given(
    b=st.integers(1, 2),
    length=st.integers(1, 20),
    d=st.integers(1, 70),
    n=st.integers(1, 20),
    softplus=st.booleans(),
    reverse=st.booleans(),
)
def test_any_size(
    library: Path, b: int, length: int, d: int, n: int, softplus: bool, reverse: bool
) -> None:
    arrays = drawn(b, length, d, n) if softplus else positive(drawn(b, length, d, n))
    attributes = {"softplus": int(softplus), "reverse": int(reverse), "offset": 0.125}
    check(session(library, **attributes).run(None, arrays), arrays, attributes, "op")


def test_onnx_reference_evaluator_runs_the_fallback() -> None:
    arrays, attributes = CASES["backwards"]
    model = onnx.load_from_string(model_bytes(**attributes))
    check(ReferenceEvaluator(model).run(None, arrays), arrays, attributes, "ReferenceEvaluator")


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("cuts", [(0, 10, 23), tuple(range(24))])
def test_a_sequence_equals_its_parts(reverse: int, cuts: tuple[int, ...], library: Path) -> None:
    arrays = drawn(2, 23, 19, 5)
    run = session(library, softplus=1, reverse=reverse, offset=0.0).run
    whole, end = run(None, arrays)
    state, pieces = arrays["state"], []
    parts = list(pairwise(cuts))
    for first, last in reversed(parts) if reverse else parts:
        steps = {k: arrays[k][:, first:last].copy() for k in ("u", "delta", "B", "C")}
        y, state = run(None, arrays | steps | {"state": state})
        pieces.append(y)
    pieces = pieces[::-1] if reverse else pieces
    np.testing.assert_array_equal(np.concatenate(pieces, 1), whole)
    np.testing.assert_array_equal(state, end)


def test_without_steps_the_state_stays(library: Path) -> None:
    arrays = drawn(2, 0, 11, 3)
    for reverse in (0, 1):
        y, state = session(library, softplus=1, reverse=reverse, offset=0.0).run(None, arrays)
        assert y.shape == (2, 0, 11)
        np.testing.assert_array_equal(state, arrays["state"])


@pytest.mark.parametrize("isa", ISAS_BY_MACHINE[host_machine()])
def test_every_instruction_set(isa: str, library: Path, tmp_path: Path) -> None:
    cases = [(model_bytes(**attributes), arrays) for arrays, attributes in CASES.values()]
    results = run_cases(isa, library, tmp_path, cases)
    for (name, (arrays, attributes)), outputs in zip(CASES.items(), results, strict=True):
        check(outputs, arrays, attributes, name)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"softplus": 2, "reverse": 0, "offset": 0.0}, "softplus: expected 0 or 1, got 2"),
        ({"softplus": 0, "reverse": -1, "offset": 0.0}, "reverse: expected 0 or 1, got -1"),
        ({"softplus": 0, "reverse": 0, "offset": np.inf}, "offset: expected a finite number"),
    ],
)
def test_an_attribute_out_of_range_is_refused(
    attributes: dict[str, Any], message: str, library: Path
) -> None:
    with pytest.raises(Exception, match=f"UngatedScan: {message}"):
        session(library, **attributes)


@pytest.mark.parametrize("name", OP.inputs)
def test_a_shape_that_does_not_fit_is_refused(name: str, library: Path) -> None:
    arrays = drawn(2, 3, 4, 5)
    wrong = {"u": (2, 3), "A": (5,)}.get(name, (*arrays[name].shape[:-1], 9))
    arrays[name] = np.zeros(wrong, np.float32)
    options = {"softplus": 1, "reverse": 0, "offset": 0.0}
    with pytest.raises(Exception, match=rf"UngatedScan: {name}: expected|Invalid rank"):
        session(library, **options).run(None, arrays)
