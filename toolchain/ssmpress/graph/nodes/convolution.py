"""The causal convolution before a scan as a node: what `blocks/convolution.py` defines."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ssmpress.graph import ops
from ssmpress.graph.packed_graph import PackedGraph, Place


def convolution(
    graph: PackedGraph, at: Place, x: ir.Value, state: ir.Value, *, channels: int, has_bias: bool
) -> list[ir.Value]:
    """y and the state after it, of a block that calls its convolution conv1d.

    Args:
        x: (b, l, channels). state: (b, d_conv - 1, channels).
    """
    name = at.weight("conv1d.bias")
    nothing = np.zeros(channels, np.float32)
    bias = graph.tensor(name) if has_bias else graph.constant(name, nothing)
    weight = graph.tensor(at.weight("conv1d.weight"), lambda w: w[:, 0].T)  # (k, d)
    attributes: dict[str, Any] = {ops.CHANNELS_ATTRIBUTE: channels}
    return graph.call(
        ops.CAUSAL_CONV1D,
        at.node("conv"),
        {"x": x, "weight": weight, "bias": bias, "state": state},
        {"state_out": at.present("conv_state")},
        **attributes,
    )
