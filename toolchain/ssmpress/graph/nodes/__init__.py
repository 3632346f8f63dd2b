"""Every block as ONNX nodes: a file each, under the name that it has in blocks/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import onnx_ir as ir

from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.squared_relu_mlp import SquaredReluMlpConfig
from ssmpress.graph.nodes import attention, gated_mlp, mamba1, mamba2, squared_relu_mlp
from ssmpress.graph.packed_graph import PackedGraph, Place


class BlockNodes(Protocol):
    """What the file of a block has.

    STATES: name of each of its states, without the layer -> what it is, for viewers.
    """

    STATES: Mapping[str, str]

    def nodes(
        self, graph: PackedGraph, block: Any, at: Place, x: ir.Value, past: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """y and the states after it, in the order of `BlockConfig.states`.

        Args:
            block: its configuration. x: (b, l, d_model), normalised. past: the states before it.
        """
        ...


BLOCK_NODES: dict[str, BlockNodes] = {
    Mamba1Config.kind: mamba1,
    Mamba2Config.kind: mamba2,
    AttentionConfig.kind: attention,
    GatedMlpConfig.kind: gated_mlp,
    SquaredReluMlpConfig.kind: squared_relu_mlp,
}
"""Every block's nodes by `BlockConfig.kind`."""
