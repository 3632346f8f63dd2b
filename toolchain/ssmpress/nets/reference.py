"""What a packed network should compute: its traced graph in PyTorch, with the weights unpacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ssmpress.blocks.projection import quantize_activations
from ssmpress.nets.fx_graph import FxGraph
from ssmpress.nets.products import linear_matrix
from ssmpress.nets.trace import Traced
from ssmpress.pack.matrix import unpack
from ssmpress.pack.model import PackedTensors


class Reference(nn.Module):
    """The traced graph with other weights; inputs of products are quantised where the packed matrix
    has them so.

    Args:
        packed: all tensors of `traced.shapes`. program: that computes the same as that of `traced`;
            None is that.
    """

    def __init__(
        self, traced: Traced, packed: PackedTensors, program: ExportedProgram | None = None
    ) -> None:
        super().__init__()
        self.traced, self.packed = traced, packed
        self._program = program or traced.program
        graph = FxGraph(self._program, traced.names)
        self._quantised = {
            node
            for node in graph.calls(torch.ops.ssmpress.linear.default)
            if (matrix := packed.matrices.get(linear_matrix(graph, node))) is not None
            and matrix.format.values.quantizes_activations
        }
        tensors = {name: torch.from_numpy(array) for name, array in packed.tensors.items()}
        for name, matrix in packed.matrices.items():
            weight = torch.from_numpy(unpack(matrix))
            weight = weight.T if traced.matrices[name].transposed else weight
            tensors[name] = weight.reshape(traced.shapes[name]).contiguous()
        self._tensors = nn.ParameterDict()
        self._keys = {name: f"tensor_{number}" for number, name in enumerate(tensors)}
        for name, tensor in tensors.items():
            self._tensors[self._keys[name]] = nn.Parameter(tensor, requires_grad=False)

    def forward(self, *args: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name. Arguments as the network's own `forward`."""
        return self.run(dict(zip(self.traced.network.inputs, args, strict=False)) | inputs)[0]

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[fx.Node, Any]]:
        """The outputs by name, and the values of all nodes."""
        program = self._program
        given = iter(inputs[name] for name in self.traced.network.inputs)
        arguments = [self._argument(spec, given) for spec in program.graph_signature.input_specs]
        run = _Run(program.graph_module, self._quantised)
        values = run.run(*arguments)
        names = [port.name for port in self.traced.ports[1]]
        return dict(zip(names, values, strict=True)), run.values

    def _argument(self, spec: Any, given: Any) -> Any:
        if spec.kind is InputKind.USER_INPUT:
            return next(given)
        if spec.kind is InputKind.CONSTANT_TENSOR:
            return self._program.constants[spec.target]
        name = self.traced.names.get(spec.target, spec.target)
        return self._tensors[self._keys[name]]


class _Run(fx.Interpreter):
    """Runs a graph and keeps every value."""

    def __init__(self, module: fx.GraphModule, quantised: set[fx.Node]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._quantised = quantised
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node."""
        if n in self._quantised:
            x, weight, bias = self.fetch_args_kwargs_from_env(n)[0]
            x_q, scale = quantize_activations(x)
            value: Any = F.linear(x_q, weight.flatten(1)) * scale
            value = value if bias is None else value + bias
        else:
            value = super().run_node(n)
        self.values[n] = value
        return value
