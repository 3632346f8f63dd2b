"""The graph builder: ops of the domain are called by the names of their inputs, never by place."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from ssmpress.graph import fallback, ops
from ssmpress.graph.builder import GraphBuilder


def values(op: ops.Op) -> dict[str, ir.Value]:
    return {name: ir.Value(name=f"value of {name}") for name in op.inputs}


@pytest.mark.parametrize("op", ops.OPS.values(), ids=ops.OPS)
def test_inputs_find_their_place_by_name(op: ops.Op) -> None:
    graph = GraphBuilder(str)
    given = dict(reversed(values(op).items()))
    outputs = graph.call(op, "node", given, **dict.fromkeys(op.attributes, 1))
    (node,) = graph.nodes
    assert [value.name for value in node.inputs] == [f"value of {name}" for name in op.inputs]
    assert (node.domain, node.op_type) == (ops.DOMAIN, op.name)
    assert len(outputs) == len(op.outputs)
    assert graph.ops_used == {op.name}


def test_outputs_are_named_by_name() -> None:
    graph, op = GraphBuilder(str), ops.SELECTIVE_SCAN
    y, state = graph.call(op, "scan", values(op), {"state_out": "present"})
    assert (y.name, state.name) == ("scan", "present")


def test_a_name_that_the_op_lacks_is_refused() -> None:
    graph, op = GraphBuilder(str), ops.CAUSAL_CONV1D
    good, channels = values(op), {"channels": 3}
    missing = {name: value for name, value in good.items() if name != "bias"}
    for inputs, outputs, attributes in [
        (missing, {}, channels),
        (good | {"gate": ir.Value(name="gate")}, {}, channels),
        (good, {}, {}),
        (good, {}, channels | {"taps": 4}),
        (good, {"state": "present"}, channels),
    ]:
        with pytest.raises(ValueError, match=r"^conv: CausalConv1d: expected "):
            graph.call(op, "conv", inputs, outputs, **attributes)
    assert not graph.nodes


@pytest.mark.parametrize("op", ops.OPS.values(), ids=ops.OPS)
def test_every_op_has_its_fallback(op: ops.Op) -> None:
    function = fallback.function(op.name)
    assert tuple(function.input) == op.inputs
    assert tuple(function.output) == op.outputs
    assert set(function.attribute) == set(op.attributes)
    assert function.doc_string == op.doc
