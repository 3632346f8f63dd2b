"""Where an exported network first differs from PyTorch: the operation, and the user's line.

The graph's values have the names of the traced operations, so that all of them can be compared in
the order in which they are computed.
"""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ssmpress.graph.traced import translated
from ssmpress.nets.fx_graph import line_of
from ssmpress.nets.reference import Reference

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """A value of the graph that is not PyTorch's.

    name: of the value. operation: that computes it. line: FILE:LINE of the user's code; empty where
    none is known. largest: of |ONNX - PyTorch|, relative to the largest of PyTorch's values or 1.
    """

    name: str
    operation: str
    line: str
    largest: float

    def __str__(self) -> str:
        where = f" at {self.line}" if self.line else ""
        return (
            f"the first value that differs is {self.name}, of {self.operation}{where}: by "
            f"{self.largest:.3g} of its largest"
        )


def first_difference(
    reference: Reference,
    path: Path,
    inputs: Mapping[str, Tensor],
    run: Callable[[Path, Arrays], Arrays],
    tolerance: float,
) -> Difference | None:
    """The first operation whose value in the file differs from PyTorch's.

    Args:
        reference: what the file should compute. path: the file. inputs: by name.
        run: a file and inputs -> its outputs by name. tolerance: of `Difference.largest`.

    Returns:
        None if no value that both have differs.
    """
    program = translated(reference.traced).exported_program
    with torch.no_grad():
        _, values = Reference(reference.traced, reference.packed, program).run(inputs)
    expected = {
        node: value.numpy()
        for node, value in values.items()
        if node.op == "call_function" and isinstance(value, Tensor)
    }
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder) / "model.onnx"
        _show_all(path, shown, {node.name for node in expected})
        actual = run(shown, {name: tensor.numpy() for name, tensor in inputs.items()})
    for node, value in expected.items():
        if node.name in actual:
            largest = _largest(actual[node.name], value)
            if largest > tolerance:
                return Difference(node.name, _operation(node), line_of(node), largest)
    return None


def _operation(node: fx.Node) -> str:
    """What a node calls, such as aten.softmax.int; for one of several results, what made them."""
    whole = node.args[0] if node.target is operator.getitem else node
    return str(whole.target)  # type: ignore[union-attr]


def _largest(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Of |actual - expected|, relative; infinite where the shapes differ or one is not finite."""
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    difference = np.abs(a - e).max() / max(1.0, float(np.abs(e).max()))
    return float(difference) if np.isfinite(difference) else float("inf")


def _show_all(path: Path, shown: Path, names: set[str]) -> None:
    """Write the file with all values that have one of the names as outputs too."""
    model = ir.load(path)
    known = {value.name for value in model.graph.outputs}
    for node in model.graph:
        for value in node.outputs:
            if value.name in names and value.name not in known:
                value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
                model.graph.outputs.append(value)
    ir.save(model, shown, external_data="model.onnx.data", size_threshold_bytes=1 << 20)
