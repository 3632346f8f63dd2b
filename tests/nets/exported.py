"""A network of the zoo, traced, packed and written: what the tests of exporting share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.formats import Format, Structure, Values
from ssmpress.graph.traced import export_network
from ssmpress.nets.network import Network
from ssmpress.nets.trace import Traced, trace
from ssmpress.pack.matrix import PackedMatrix, pack
from zoo import ZOO, drawn

Arrays = dict[str, NDArray[Any]]
PLAIN = Format(Structure.DENSE, Values.FP32)


@dataclass(frozen=True)
class Packed:
    """As pack/ makes it."""

    tensors: Mapping[str, NDArray[Any]]
    matrices: Mapping[str, PackedMatrix]
    nbytes: int = 0


@cache
def traced(name: str) -> tuple[Network, torch.nn.Module, Traced]:
    """A network of the zoo, its module and its graph."""
    net = ZOO[name]
    module = net.build()
    return net, module, trace(net, module)


def packed(
    graph: Traced, module: torch.nn.Module, packed_format: Format = PLAIN, sparsity: float = 0.0
) -> Packed:
    """The module's tensors, its matrices in a format. sparsity: its smallest weights become 0, in
    the module too."""
    tensors: dict[str, NDArray[Any]] = {}
    matrices = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name not in graph.matrices:
            tensors[name] = tensor.detach().numpy()
            continue
        with torch.no_grad():
            kept = tensor.abs().flatten().argsort()[int(sparsity * tensor.numel()) :]
            keep_mask = torch.zeros(tensor.numel(), dtype=torch.bool)
            keep_mask[kept] = True
            tensor.mul_(keep_mask.reshape(tensor.shape))
        shape = tensor.shape[:2]
        matrix, mask = (t.detach().numpy().reshape(shape) for t in (tensor, keep_mask))
        if graph.matrices[name].transposed:
            matrix, mask = np.ascontiguousarray(matrix.T), np.ascontiguousarray(mask.T)
        matrices[name] = pack(matrix, mask, packed_format)
    return Packed(tensors, matrices)


def write(name: str, path: Path, packed_format: Format = PLAIN, sparsity: float = 0.0) -> Path:
    """Export a network of the zoo."""
    _, module, graph = traced(name)
    export_network(graph, packed(graph, module, packed_format, sparsity), {"of": name}, path)
    return path


def run(path: Path, inputs: Mapping[str, Tensor], library: Path | None = None) -> Arrays:
    """The outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names, results, strict=True))


def expected(net: Network, module: torch.nn.Module, inputs: Mapping[str, Tensor]) -> Arrays:
    """What PyTorch computes."""
    with torch.no_grad():
        outputs = net.flat(net.call(module, inputs))
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def other_sizes(net: Network) -> dict[str, Tensor]:
    """Inputs of sizes that nothing was traced with."""
    return drawn(net, batch=3, length=14, frames=11)
