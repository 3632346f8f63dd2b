"""The first value of an exported network that differs from PyTorch is named, with the line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import getsourcelines
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

import zoo
from exported import other_sizes, packed, run, traced, write
from ssmpress.graph.diagnose import first_difference
from ssmpress.nets.reference import Reference
from ssmpress.nets.trace import Traced
from ssmpress.pack.model import PackedTensors

Run = Callable[[Path, Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


@pytest.fixture
def session(library: Path) -> Run:
    def outputs(path: Path, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        return run(path, {n: torch.from_numpy(a) for n, a in inputs.items()}, library)

    return outputs


def reference(graph: Traced, module: nn.Module) -> Reference:
    """What the file should compute."""
    plain = packed(graph, module)
    return Reference(graph, PackedTensors(plain.tensors, plain.matrices))


def line_in(kind: type, text: str) -> str:
    """FILE:LINE of the first line of a class that has a text."""
    lines, first = getsourcelines(kind)
    number = first + next(i for i, line in enumerate(lines) if text in line)
    return f"{Path(zoo.__file__)}:{number}"


@pytest.mark.parametrize("name", ["two scans summed", "pooled", "streaming"])
def test_nothing_differs(name: str, session: Run, tmp_path: Path) -> None:
    net, module, graph = traced(name)
    path = write(name, tmp_path / "model.onnx")
    assert first_difference(reference(graph, module), path, other_sizes(net), session, 1e-5) is None


def test_a_wrong_weight_is_found_where_it_is_used(session: Run, tmp_path: Path) -> None:
    net, module, graph = traced("two scans summed")
    path = write("two scans summed", tmp_path / "model.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "1.block.conv.bias":
            wrong = numpy_helper.to_array(tensor) + 1
            tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))
    onnx.save(model, path)
    found = first_difference(reference(graph, module), path, other_sizes(net), session, 1e-5)
    assert found is not None
    assert "causal_conv1d" in found.operation
    assert found.line == line_in(zoo.TwoScans, "F.silu(self.conv")
    assert found.largest > 0.1
    assert f"at {found.line}: by" in str(found)


def test_a_wrong_operation_is_found(session: Run, tmp_path: Path) -> None:
    net, module, graph = traced("pooled")
    path = write("pooled", tmp_path / "model.onnx")
    model = onnx.load(path)
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type = "LogSoftmax"
    onnx.save(model, path)
    found = first_difference(reference(graph, module), path, other_sizes(net), session, 1e-5)
    assert found is not None
    assert "softmax" in found.operation
    assert found.line == line_in(zoo.Pooled, "softmax(-1)")
