"""A training step on a GPU, recorded once per shape and replayed: small models train several times
faster, since the processor takes longer to launch their kernels than the GPU to run them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Steps before the first recording: libraries and optimiser get their memory in them."""

Tensors = tuple[Tensor, ...]


class Recorded:
    """`run` with the same effect, from its CUDA graph; on a CPU, or where it cannot be recorded, it
    is `run`.

    Args:
        run: takes and returns tensors. What else it changes (weights, an optimiser's state) must
            stay at its place in memory, and it must not wait for the GPU.
    """

    def __init__(self, run: Callable[..., Tensors]) -> None:
        self.run = run
        self.calls = 0
        self.refused = ""
        self.pool: Any = None
        self.graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, Tensors, Tensors]]
        self.graphs = {}

    def __call__(self, *inputs: Tensor) -> Tensors:
        """What `run` returns; valid until the next call."""
        if not inputs[0].is_cuda or self.refused:
            return self.run(*inputs)
        self.calls += 1
        if self.calls <= WARM_UP:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                outputs = self.run(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            return outputs
        key = tuple(tensor.shape for tensor in inputs)
        if key not in self.graphs:
            try:
                self.graphs[key] = self._record(inputs)
            except RuntimeError as error:
                self.refused = str(error)
                warnings.warn(f"not recorded, so slower: {error}", stacklevel=2)
                return self.run(*inputs)
        graph, places, outputs = self.graphs[key]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return outputs

    def _record(self, inputs: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Tensors]:
        graph = torch.cuda.CUDAGraph()
        places = tuple(tensor.clone() for tensor in inputs)
        with torch.cuda.graph(graph, pool=self.pool):
            outputs = self.run(*places)
        self.pool = graph.pool()
        return graph, places, outputs
