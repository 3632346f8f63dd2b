"""A Mamba-2 mixer as ONNX nodes: what `blocks/mamba2.py` defines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.graph import ops
from ssmpress.graph.nodes.convolution import convolution
from ssmpress.graph.nodes.gate import silu
from ssmpress.graph.packed_graph import PackedGraph, Place

STATES: Mapping[str, str] = {
    "conv_state": "last inputs of the convolution, oldest first",
    "scan_state": "state of the scan, rows by columns of each head",
}


def nodes(
    graph: PackedGraph, block: Mamba2Config, at: Place, x: ir.Value, past: Sequence[ir.Value]
) -> list[ir.Value]:
    """The mixer from its two states: y, and the new states.

    Args:
        x: (b, l, d_model), normalised.
    """
    conv_state, scan_state = past
    d, width = block.d_inner, block.d_convolved
    projected = graph.linear(at.weight("in_proj.weight"), x, at.node("in_proj"))
    if (scales := block.row_scales()) is not None:
        factors = graph.constant(_scales_name(block), scales.numpy())
        projected = graph.node("Mul", at.node("in_proj/scaled"), [projected, factors])
    parts = {"z": d, "xbc": width, "delta": block.heads}
    z, before_conv, delta = graph.split(at.node("zxbcdt"), projected, parts)
    xbc, conv_state = convolution(
        graph, at, before_conv, conv_state, channels=width, has_bias=block.conv_bias
    )
    u, B, C = graph.split(at.node("xbc"), xbc, {"x": d, "B": block.d_groups, "C": block.d_groups})
    repeats = 1 if block.d_per_channel else block.head_dim
    low, high = block.dt_limits
    limits: dict[str, Any] = {
        ops.DT_MIN_ATTRIBUTE: float(low),
        ops.DT_MAX_ATTRIBUTE: min(float(high), float(np.finfo(np.float32).max)),
    }
    y, scan_state = graph.call(
        ops.SSD_SCAN,
        at.node("scan"),
        {
            "x": u,
            "delta": delta,
            "delta_bias": graph.tensor(at.weight("dt_bias")),
            "A": graph.tensor(at.weight("A_log"), lambda A_log: -np.exp(A_log)),
            "B": B,
            "C": C,
            "D": graph.tensor(at.weight("D"), lambda D: np.repeat(D, repeats)),
            "state": scan_state,
        },
        {"state_out": at.present("scan_state")},
        **limits,
    )
    y = _gated(graph, block, at, y, z)
    y = graph.linear(at.weight("out_proj.weight"), y, at.node("out_proj"))
    return [y, conv_state, scan_state]


def _scales_name(block: Mamba2Config) -> str:
    """The constant of `row_scales`: one for all layers that have the same."""
    return "scales_" + "_".join(map(str, (*block.in_scales, *block.in_sizes)))


def _gated(
    graph: PackedGraph, block: Mamba2Config, at: Place, y: ir.Value, z: ir.Value
) -> ir.Value:
    """y, gated by z, through the norm if there is one."""
    if not block.gated_norm:
        return graph.node("Mul", at.node("gated"), [y, silu(graph, at.node("gate"), z)])
    attributes: dict[str, Any] = {
        ops.EPSILON_ATTRIBUTE: block.norm_eps,
        ops.GROUPS_ATTRIBUTE: block.norm_groups,
        ops.GATE_FIRST_ATTRIBUTE: int(block.gate_first),
    }
    weight = graph.tensor(at.weight("norm.weight"))
    inputs = {"x": y, "z": z, "weight": weight}
    return graph.call(ops.GATED_RMS_NORM, at.node("gated"), inputs, **attributes)[0]
