"""What gates a branch, as nodes."""

from __future__ import annotations

import onnx_ir as ir

from ssmpress.graph.packed_graph import PackedGraph


def silu(graph: PackedGraph, name: str, x: ir.Value) -> ir.Value:
    """x sigmoid(x). name: of the result's node."""
    sigmoid = graph.node("Sigmoid", f"{name}/sigmoid", [x])
    return graph.node("Mul", name, [x, sigmoid])
