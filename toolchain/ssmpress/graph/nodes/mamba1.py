"""A Mamba-1 mixer as ONNX nodes: what `blocks/mamba1.py` defines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.graph import ops
from ssmpress.graph.nodes.convolution import convolution
from ssmpress.graph.packed_graph import PackedGraph, Place

STATES: Mapping[str, str] = {
    "conv_state": "last inputs of the convolution, oldest first",
    "scan_state": "state of the selective scan",
}


def nodes(
    graph: PackedGraph, block: Mamba1Config, at: Place, x: ir.Value, past: Sequence[ir.Value]
) -> list[ir.Value]:
    """The mixer from its two states: y, and the new states.

    Args:
        x: (b, l, d_model), normalised.
    """
    conv_state, scan_state = past
    d, n, r = block.d_inner, block.d_state, block.dt_rank
    xz = graph.linear(at.weight("in_proj.weight"), x, at.node("in_proj"))
    before_conv, z = graph.split(at.node("xz"), xz, {"x": d, "z": d})
    u, conv_state = convolution(
        graph, at, before_conv, conv_state, channels=block.d_inner, has_bias=block.conv_bias
    )
    dbc = graph.linear(at.weight("x_proj.weight"), u, at.node("x_proj"))
    delta, B, C = graph.split(at.node("dbc"), dbc, {"delta": r, "B": n, "C": n})
    if block.dbc_norm_eps is not None:
        delta, B, C = (
            graph.inner_rms_norm(
                at.node(f"{name}_norm"),
                part,
                at.weight(f"{weight}_norm.weight") if block.dbc_norm_weights else size,
                block.dbc_norm_eps,
            )
            for name, weight, part, size in (
                ("delta", "dt", delta, r),
                ("B", "B", B, n),
                ("C", "C", C, n),
            )
        )
    delta = graph.linear(
        at.weight("dt_proj.weight"), delta, at.node("dt_proj"), adds_bias=False
    )  # the scan adds it
    A = graph.tensor(at.weight("A_log"), lambda A_log: -np.exp(A_log).T)  # (n, d)
    D, delta_bias = graph.tensor(at.weight("D")), graph.tensor(at.weight("dt_proj.bias"))
    y, scan_state = graph.call(
        ops.SELECTIVE_SCAN,
        at.node("scan"),
        {
            "u": u,
            "delta": delta,
            "delta_bias": delta_bias,
            "A": A,
            "B": B,
            "C": C,
            "D": D,
            "z": z,
            "state": scan_state,
        },
        {"state_out": at.present("scan_state")},
    )
    y = graph.linear(at.weight("out_proj.weight"), y, at.node("out_proj"))
    return [y, conv_state, scan_state]
