"""ONNX models with a tensor in a file of its own, by every way that leads to a tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import helper

Place = Callable[[onnx.ModelProto, onnx.TensorProto], None]


def outside(location: str) -> onnx.TensorProto:
    """A float32 of that file."""
    tensor = onnx.TensorProto(name="outside", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def constant(tensor: onnx.TensorProto) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Constant", output=["outside"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    return node


def nested(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    """In a branch of a branch."""
    graph = helper.make_graph([constant(tensor)], "inner", [], [])
    for _ in range(2):
        node = onnx.NodeProto(op_type="If", input=["condition"], output=["x"])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph)
        graph = helper.make_graph([node], "outer", [], [])
    model.graph.node.extend(graph.node)


def in_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.functions.add(name="F", domain="test").node.append(constant(tensor))


def as_default(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    attribute = model.functions.add(name="F", domain="test").attribute_proto.add(name="a")
    attribute.t.CopyFrom(tensor)


def in_list(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    attribute = model.graph.node.add(op_type="X").attribute.add(name="a")
    attribute.tensors.append(tensor)


def in_graph_list(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    attribute = model.graph.node.add(op_type="X").attribute.add(name="a")
    attribute.graphs.add(name="g").initializer.append(tensor)


def sparse(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.sparse_initializer.add(dims=[1]).values.CopyFrom(tensor)


def sparse_attribute(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    attribute = model.graph.node.add(op_type="X").attribute.add(name="a")
    attribute.sparse_tensor.indices.CopyFrom(tensor)


def training(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.training_info.add().algorithm.initializer.append(tensor)


PLACES: dict[str, Place] = {
    "initializer": lambda model, tensor: model.graph.initializer.append(tensor),
    "constant": lambda model, tensor: model.graph.node.append(constant(tensor)),
    "nested": nested,
    "function": in_function,
    "default": as_default,
    "list": in_list,
    "graphs": in_graph_list,
    "sparse": sparse,
    "sparse attribute": sparse_attribute,
    "training": training,
}


def put_outside(path: Path, place: str, location: str) -> None:
    """Add such a tensor to a model."""
    model = onnx.load(path, load_external_data=False)
    PLACES[place](model, outside(location))
    path.write_bytes(model.SerializeToString())
