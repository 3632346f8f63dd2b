"""Building an ONNX graph node by node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ssmpress.formats import EMBEDDINGS, FORMATS
from ssmpress.graph import ops


class GraphBuilder:
    """Adds nodes in order.

    Args:
        describe: name of an input or output of the graph -> what it is, for viewers.
    """

    def __init__(self, describe: Callable[[str], str]) -> None:
        self.describe = describe
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.custom_ops: set[str] = set()

    def finish(self, name: str) -> ir.Graph:
        """The graph of everything added so far."""
        return ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.nodes,
            initializers=list(self.initializers.values()),
            opset_imports={"": ops.ONNX_OPSET, ops.DOMAIN: ops.DOMAIN_VERSION},
            name=name,
        )

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Add an input of the graph."""
        value = ir.Value(
            name=name,
            type=ir.TensorType(dtype),
            shape=ir.Shape(shape),
            doc_string=self.describe(name),
        )
        self.inputs.append(value)
        return value

    def output(self, value: ir.Value, shape: Sequence[int | str]) -> None:
        """Make a value a float32 output of the graph."""
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        value.doc_string = self.describe(str(value.name))
        self.outputs.append(value)

    def node(
        self,
        op: str,
        name: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[str] | None = None,
        doc: str | None = None,
        **attributes: Any,
    ) -> Any:
        """Add a node; its outputs are named `outputs`, or like the node. doc: what viewers show."""
        custom = op in _CUSTOM_OPS
        if custom:
            self.custom_ops.add(op)
        values = [ir.Value(name=output) for output in outputs or [name]]
        self.nodes.append(
            ir.Node(
                ops.DOMAIN if custom else "",
                op,
                inputs,
                attributes=[ir.convenience.convert_attribute(k, v) for k, v in attributes.items()],
                outputs=values,
                name=name,
                doc_string=doc,
            )
        )
        return values[0] if len(values) == 1 else values

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """An initializer; asked for twice it is stored once."""
        if name not in self.initializers:
            tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
            self.initializers[name] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
            )
        return self.initializers[name]


_CUSTOM_OPS = {ops.SELECTIVE_SCAN, ops.CAUSAL_CONV1D, *EMBEDDINGS.values()} | {
    f.op_type for f in FORMATS
}
