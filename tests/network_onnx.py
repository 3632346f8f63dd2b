"""Small ONNX graphs with the metadata of a network's bundle, made by hand.

`every_type` has an input and an output of every type; `running_sum` carries a state;
`checked_draws` fails where its random inputs are not those of docs/ssmrun.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}


def port(
    name: str, dtype: str, shape: Sequence[int | str], example: Sequence[int] | None = None
) -> dict[str, Any]:
    """As the metadata has it."""
    sizes = [3 if isinstance(size, str) else size for size in shape]
    block = {"name": name, "type": dtype, "shape": list(shape), "low": 0, "high": 2}
    return block | {"example": list(example or sizes)}


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    /,
    *,
    constants: Mapping[str, NDArray[Any]] | None = None,
    **task: Any,
) -> Path:
    """Write the graph, whose inputs and outputs are those of its metadata.

    task: further or other fields of the block.
    """
    ends = [
        [helper.make_tensor_value_info(p["name"], ELEMENTS[p["type"]], p["shape"]) for p in ports]
        for ports in (inputs, outputs)
    ]
    graph = helper.make_graph(
        list(nodes),
        "network",
        *ends,
        [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    block = {"kind": "network", "metric_name": "score", "higher_is_better": True, "states": {}}
    block |= {"inputs": list(inputs), "outputs": list(outputs)} | task
    config = {"vocab_size": 0, "task": block}
    helper.set_model_props(model, {"ssmpress.config": json.dumps(config)})
    onnx.save(model, path)
    return path


def every_type(path: Path, **task: Any) -> Path:
    """y_TYPE = x_TYPE + x_TYPE, of bool not x; (batch, length, 2) each."""
    shape = ["batch", "length", 2]
    nodes = [
        helper.make_node("Not", ["x_bool"], ["y_bool"])
        if dtype == "bool"
        else helper.make_node("Add", [f"x_{dtype}", f"x_{dtype}"], [f"y_{dtype}"])
        for dtype in ELEMENTS
    ]
    inputs = [port(f"x_{dtype}", dtype, shape) for dtype in ELEMENTS]
    return save(
        path, nodes, inputs, [port(f"y_{dtype}", dtype, shape) for dtype in ELEMENTS], **task
    )


def twice(
    path: Path, dtype: str = "float32", shape: Sequence[int | str] = ("n",), **task: Any
) -> Path:
    """y = x + x, and nothing else; of bool not x."""
    node = helper.make_node(
        "Not" if dtype == "bool" else "Add", ["x"] * (1 + (dtype != "bool")), ["y"]
    )
    return save(path, [node], [port("x", dtype, shape)], [port("y", dtype, shape)], **task)


def running_sum(path: Path, **task: Any) -> Path:
    """y_t = h + scale * (x_0 + ... + x_t), and h for the next call the last of them.

    x, y (batch, length, 2); h (batch, 2), a state; scale ().
    """
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("CumSum", ["scaled", "time"], ["sums"]),
        helper.make_node("Unsqueeze", ["h", "axis"], ["before"]),
        helper.make_node("Add", ["sums", "before"], ["y"]),
        helper.make_node("Gather", ["y", "last"], ["h_next"], axis=1),
    ]
    constants = {"time": np.array(1), "axis": np.array([1]), "last": np.array(-1)}
    long, state = ["batch", "length", 2], ["batch", 2]
    inputs = [port("x", "float32", long), port("h", "float32", state), port("scale", "float32", [])]
    outputs = [port("y", "float32", long), port("h_next", "float32", state)]
    block = {"states": {"h": "h_next"}} | task
    return save(path, nodes, inputs, outputs, constants=constants, **block)


def checked_draws(
    path: Path, expected: Mapping[str, NDArray[Any]], ranges: Mapping[str, Any]
) -> Path:
    """A network that runs only on these inputs, and on their lowest values, to the last bit.

    ranges: low and high of each input of integers.
    """
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[Any]] = {"one_row": np.zeros((1, 1), np.float32)}
    for name, array in expected.items():
        lowest = np.full_like(array, ranges.get(name, {}).get("low", 0))
        for case, wanted in (("drawn", array), ("first", lowest)):
            exact = np.float32 if array.dtype == np.float16 else array.dtype  # Equal has no float16
            element = helper.np_dtype_to_tensor_dtype(np.dtype(exact))
            constants[f"{name}/{case}"] = wanted.astype(exact)
            steps = ("exact", "equal", "wrong", "number", "sum")
            cast, *parts = [f"{name}/{case}/{step}" for step in steps]
            nodes += [
                helper.make_node("Cast", [name], [cast], to=element),
                helper.make_node("Equal", [cast, f"{name}/{case}"], [parts[0]]),
                helper.make_node("Not", [parts[0]], [parts[1]]),
                helper.make_node("Cast", [parts[1]], [parts[2]], to=TensorProto.INT64),
                helper.make_node("ReduceSum", [parts[2]], [parts[3]], keepdims=0),
            ]
    for case in ("drawn", "first"):
        sums = [f"{name}/{case}/sum" for name in expected]
        nodes += _sum(sums, f"{case}/wrong")
    nodes.append(helper.make_node("Min", ["drawn/wrong", "first/wrong"], ["row"]))
    nodes.append(helper.make_node("Gather", ["one_row", "row"], ["y"]))
    inputs = [
        port(name, str(array.dtype), array.shape) | ranges.get(name, {})
        for name, array in expected.items()
    ]
    return save(path, nodes, inputs, [port("y", "float32", [1])], constants=constants)


def _sum(names: Sequence[str], total: str) -> list[onnx.NodeProto]:
    nodes, so_far = [], names[0]
    for number, name in enumerate(names[1:]):
        after = total if number == len(names) - 2 else f"{total}/{number}"
        nodes.append(helper.make_node("Add", [so_far, name], [after]))
        so_far = after
    return nodes
