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
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ssmpress.graph.traced import translated
from ssmpress.nets.fx_graph import line_of
from ssmpress.nets.trace import Traced

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
    traced: Traced,
    module: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    run: Callable[[Path, Arrays], Arrays],
    tolerance: float,
) -> Difference | None:
    """The first operation whose value in the file differs from PyTorch's.

    Args:
        module: that `traced` was made of, with the weights that the file was written with.
        path: the file. inputs: by name. run: a file and inputs -> its outputs by name.
        tolerance: of `Difference.largest`.

    Returns:
        None if no value that both have differs.
    """
    program = translated(traced).exported_program
    assert program is not None
    wanted = _values(program, traced, module, inputs)
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder) / "model.onnx"
        _show_all(path, shown, set(wanted))
        got = run(shown, {name: tensor.numpy() for name, tensor in inputs.items()})
    for node in program.graph.nodes:
        if node.name not in got or node.name not in wanted:
            continue
        largest = _largest(got[node.name], wanted[node.name].numpy())
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


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the tensors that its calls return, by name."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As fx.Interpreter."""
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor):
            self.values[n.name] = value
        return value


def _values(
    program: ExportedProgram, traced: Traced, module: nn.Module, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What PyTorch computes in each operation of the program, by name."""
    own = dict([*module.named_parameters(), *module.named_buffers()])
    given = iter(inputs.values())
    arguments: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            arguments.append(next(given))
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            name = traced.names.get(str(spec.target), str(spec.target))
            arguments.append(own[name] if name in own else program.constants[str(spec.target)])
        else:
            arguments.append(program.constants[str(spec.target)])
    recorder = _Recorder(program.graph_module)
    with torch.no_grad():
        recorder.run(*arguments)
    return recorder.values


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
