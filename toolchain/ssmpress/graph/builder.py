"""Building an ONNX graph node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

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
        self.ops_used: set[str] = set()
        self.made: dict[str, ir.Value] = {}

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

    def output(
        self,
        value: ir.Value,
        shape: Sequence[int | str],
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> None:
        """Make a value an output of the graph."""
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
        value.doc_string = self.describe(str(value.name))
        self.outputs.append(value)

    def node(self, op: str, name: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """Add a standard node with one output, which is named like the node."""
        return self.several(op, name, inputs, [name], **attributes)[0]

    def once(self, name: str, make: Callable[[], ir.Value]) -> ir.Value:
        """What `make` adds; asked for twice under one name it is added once."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def several(
        self,
        op: str,
        name: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[str],
        **attributes: Any,
    ) -> list[ir.Value]:
        """Add a standard node with several outputs, by their names."""
        return self._add("", op, name, inputs, outputs, None, attributes)

    def call(
        self,
        op: ops.Op,
        name: str,
        inputs: Mapping[str, ir.Value],
        outputs: Mapping[str, str] | None = None,
        doc: str | None = None,
        **attributes: Any,
    ) -> list[ir.Value]:
        """Add a node of an op of ours.

        Args:
            inputs: name of the op's input -> value; every input, in any order.
            outputs: name of the op's output -> name of the value; those left out, or all, are named
                like the node.
            doc: what viewers show.

        Returns:
            The outputs, in the order of the op.

        Raises:
            ValueError: a name that the op does not have, or one of its inputs is missing.
        """
        given, known = set(inputs), set(op.inputs)
        if given != known or set(attributes) != set(op.attributes):
            raise ValueError(
                f"{name}: {op.name}: expected inputs {', '.join(op.inputs)} and attributes "
                f"{', '.join(op.attributes) or 'none'}; got {', '.join((*inputs, *attributes))}."
            )
        names = dict.fromkeys(op.outputs, name) | dict(outputs or {})
        if set(names) != set(op.outputs):
            raise ValueError(f"{name}: {op.name}: expected outputs {', '.join(op.outputs)}.")
        self.ops_used.add(op.name)
        values = [inputs[key] for key in op.inputs]
        return self._add(ops.DOMAIN, op.name, name, values, list(names.values()), doc, attributes)

    def _add(
        self,
        domain: str,
        op: str,
        name: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[str],
        doc: str | None,
        attributes: Mapping[str, Any],
    ) -> list[ir.Value]:
        values = [ir.Value(name=output) for output in outputs]
        self.nodes.append(
            ir.Node(
                domain,
                op,
                inputs,
                attributes=[ir.convenience.convert_attribute(k, v) for k, v in attributes.items()],
                outputs=values,
                name=name,
                doc_string=doc,
            )
        )
        return values

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """An initializer; asked for twice it is stored once."""
        if name not in self.initializers:
            tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
            self.initializers[name] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
            )
        return self.initializers[name]
