"""An MLP with a squared ReLU as ONNX nodes: what `blocks/squared_relu_mlp.py` defines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ssmpress.blocks.squared_relu_mlp import SquaredReluMlpConfig
from ssmpress.graph.packed_graph import PackedGraph, Place

STATES: Mapping[str, str] = {}


def nodes(
    graph: PackedGraph,
    block: SquaredReluMlpConfig,
    at: Place,
    x: ir.Value,
    past: Sequence[ir.Value],
) -> list[ir.Value]:
    """The MLP, which carries nothing. x: (b, l, d_model), normalised."""
    wide = graph.linear(at.weight("fc1.weight"), x, at.node("mlp/fc1"))
    opened = graph.node("Relu", at.node("mlp/relu"), [wide])
    squared = graph.node("Mul", at.node("mlp/squared"), [opened, opened])
    return [graph.linear(at.weight("fc2.weight"), squared, at.node("mlp/fc2"))]
