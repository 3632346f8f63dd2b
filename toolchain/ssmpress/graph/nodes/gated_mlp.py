"""A gated MLP as ONNX nodes: what `blocks/gated_mlp.py` defines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.graph.nodes.gate import silu
from ssmpress.graph.packed_graph import PackedGraph, Place

STATES: Mapping[str, str] = {}


def nodes(
    graph: PackedGraph, block: GatedMlpConfig, at: Place, x: ir.Value, past: Sequence[ir.Value]
) -> list[ir.Value]:
    """The MLP, which carries nothing. x: (b, l, d_model), normalised."""
    width = block.d_intermediate
    both = graph.linear(at.weight("fc1.weight"), x, at.node("mlp/fc1"))
    halves = ("gate", "up") if block.gate_first else ("up", "gate")
    parts = graph.split(at.node("mlp/halves"), both, dict.fromkeys(halves, width))
    by_name = dict(zip(halves, parts, strict=True))
    scaled = graph.scaled(at.node("mlp/gate_scaled"), by_name["gate"], block.gate_scale)
    gate = silu(graph, at.node("mlp/silu"), scaled)
    gated = graph.node("Mul", at.node("mlp/gated"), [by_name["up"], gate])
    return [graph.linear(at.weight("fc2.weight"), gated, at.node("mlp/fc2"))]
