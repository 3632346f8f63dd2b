"""A graph of packed matrices: what the nodes of every block and task are made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ssmpress.blocks.tensors import layer_name
from ssmpress.graph import ops
from ssmpress.graph.builder import GraphBuilder
from ssmpress.pack.matrix import PackedMatrix
from ssmpress.pack.model import PackedModel

FloatArray = NDArray[np.float32]


class Place(NamedTuple):
    """The place of a block: the number of its layer, and its part of that, such as `mixer`."""

    layer: int
    part: str

    def weight(self, name: str) -> str:
        """Canonical name of a tensor of the block."""
        return layer_name(self.layer, f"{self.part}.{name}")

    def node(self, name: str) -> str:
        """Name of a node of the block; each name once in a layer, where two mixers may stand."""
        return f"layers.{self.layer}/{'beside/' if self.part == 'beside' else ''}{name}"

    def present(self, state: str) -> str:
        """Name of the output that has a state of the block after the tokens."""
        return f"present_{state}.{self.layer}"


class PackedGraph(GraphBuilder):
    """Adds nodes that compute with the weights of a packed model.

    Args:
        describe: name of an input or output of the graph -> what it is, for viewers.
    """

    def __init__(self, model: PackedModel, describe: Callable[[str], str]) -> None:
        super().__init__(describe)
        self.model, self.config = model, model.config

    def sections(self, name: str, matrix: PackedMatrix) -> dict[str, ir.Value]:
        """The sections of a packed matrix as constants, by section."""
        return packed_sections(self, name, matrix)

    def tensor(
        self, name: str, change: Callable[[FloatArray], FloatArray] | None = None
    ) -> ir.Value:
        """An unpacked weight, changed to what the op wants."""
        array = self.model.tensors[name]
        return self.constant(name, change(array) if change else array)

    def linear(self, name: str, x: ir.Value, output: str, *, adds_bias: bool = True) -> ir.Value:
        """y = x Wᵀ with the packed matrix `name`, and its bias if the checkpoint has one.

        Args:
            adds_bias: False where something after it adds the bias.
        """
        bias_name = name.removesuffix("weight") + "bias"
        has_bias = adds_bias and bias_name in self.model.tensors
        matrix = self.model.matrices[name]
        product = packed_product(self, name, matrix, x, output + "/product" if has_bias else output)
        if has_bias:
            product = self.node("Add", output, [product, self.tensor(bias_name)])
        return product

    def model_norm(self, name: str, x: ir.Value, scale: float = 1.0) -> ir.Value:
        """The norm `name` of the model, of x (..., d_model), times `scale`."""
        output, eps = name.removeprefix("backbone."), self.config.norm_eps
        weight, *bias = (
            self.tensor(f"{name}.{kind}", lambda w: w * np.float32(scale))
            for kind in (["weight"] if self.config.norm == "rms" else ["weight", "bias"])
        )
        if not bias:
            return self._norm(weight, output, x, eps)
        return self.node("LayerNormalization", output, [x, weight, *bias], axis=-1, epsilon=eps)

    def scaled(self, output: str, x: ir.Value, scale: float) -> ir.Value:
        """x times a number; x itself if that is 1."""
        if scale == 1:
            return x
        factor = self.constant(f"scale_{scale}", np.array(scale, np.float32))
        return self.node("Mul", output, [x, factor])

    def inner_rms_norm(self, output: str, x: ir.Value, weight: str | int, eps: float) -> ir.Value:
        """The RMS norm of x (..., width) within a block.

        Args:
            output: the node's name. weight: name of its weights, or, where it has none, the width.
        """
        if isinstance(weight, int):
            ones = self.constant(f"ones_{weight}", np.ones(weight, np.float32))
            return self._norm(ones, output, x, eps)
        return self._norm(self.tensor(weight), output, x, eps)

    def _norm(self, weight: ir.Value, output: str, x: ir.Value, eps: float) -> ir.Value:
        epsilon: dict[str, Any] = {ops.EPSILON_ATTRIBUTE: eps}
        return self.call(ops.RMS_NORM, output, {"x": x, "weight": weight}, **epsilon)[0]

    def split(self, name: str, x: ir.Value, parts: Mapping[str, int]) -> list[ir.Value]:
        """The last axis of x in parts, one after the other. parts: name -> size."""
        sizes = list(parts.values())
        lengths = self.constant("split_" + "_".join(map(str, sizes)), np.array(sizes, np.int64))
        return self.several("Split", name, [x, lengths], [f"{name}/{p}" for p in parts], axis=-1)


def packed_sections(graph: GraphBuilder, name: str, matrix: PackedMatrix) -> dict[str, ir.Value]:
    """The sections of a packed matrix as constants of a graph, by section."""
    return {s: graph.constant(f"{name}.{s}", array) for s, array in matrix.sections.items()}


def packed_product(
    graph: GraphBuilder, name: str, matrix: PackedMatrix, x: ir.Value, output: str
) -> ir.Value:
    """y = x Wᵀ with the packed matrix `name`, in a graph."""
    (product,) = graph.call(
        ops.LINEAR[matrix.format],
        output,
        {"x": x, **packed_sections(graph, name, matrix)},
        doc=f"{name}, {matrix.rows} x {matrix.columns}, {matrix.format.name}: {matrix.reason}",
        **matrix_attributes(matrix),
    )
    return product


def matrix_attributes(matrix: PackedMatrix) -> dict[str, Any]:
    """Attributes of every op with a packed matrix."""
    return {
        ops.COLUMNS_ATTRIBUTE: matrix.columns,
        ops.VERSION_ATTRIBUTE: matrix.format.version,
    }
