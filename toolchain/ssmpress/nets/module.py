"""A module of the user's own as pruning and packing see it: names, matrices, tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ssmpress.blocks.tensors import MatrixSpec


class NetworkModule(nn.Module):
    """The user's module with the parameters' own names, for prune/: see `prune.model.Model`.

    It is in eval mode, as it is exported. While it learns (`learning`), only what makes noise is in
    train mode: layers without parameters, buffers and layers of their own, such as dropout and
    stochastic depth, and LSTMs and GRUs, which a GPU trains in that mode only. All else stays as it
    will run: BatchNorm keeps its means and variances, which a few hundred steps on calibration data
    would only make noisy (its weight and bias learn), and forward returns what it returns in use.

    A parameter that the user froze stays frozen, unless it is pruned. Parameters that are one
    tensor under several names stay one, under the first of them.

    Args:
        module: in float32; it is not copied.
        matrices: tensors that inputs are multiplied with, by name, and what they are:
            `nets.trace.Traced.matrices`. A buffer among them, such as a filter bank, is no weight.
    """

    def __init__(self, module: nn.Module, matrices: Mapping[str, MatrixSpec]) -> None:
        super().__init__()
        self.module = module.eval()
        self._names = _first_names(module)
        parameters = dict(module.named_parameters())
        self.matrices = dict[str, MatrixSpec]()
        for name, spec in matrices.items():
            if self._names[name] in parameters:
                self.matrices.setdefault(self._names[name], spec)
        for name in self.matrices:
            parameters[name].requires_grad_(True)
        self._noise = [part for part in module.modules() if _makes_noise(part)]

    never_pruned: Mapping[str, str] = {}
    """Nothing has a reason of its own; a parameter that is no matrix is refused as such."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape, of every parameter and buffer, each once."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers by the user's names, each once; they share its storage."""
        return {
            name: tensor.detach()
            for name, tensor in _tensors(self.module)
            if self._names[name] == name
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over values by name.

        Args:
            tensors: as `tensors` gives them.
        """
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(tensors[name])

    def tie_weights(self) -> None:
        """Make every parameter that had several names one again."""
        for name, first in self._names.items():
            if name != first:
                owner, own = _owner(self.module, name)
                setattr(owner, own, _value(self.module, first))

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The user's module's."""
        return self.module.named_parameters(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the user's module returns."""
        return self.module(*args, **kwargs)

    @contextmanager
    def learning(self, seed: int) -> Iterator[None]:
        """Train mode for what makes noise; the same noise for the same seed."""
        device = next(self.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for part in self._noise:
                part.train()
            try:
                yield
            finally:
                self.module.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> NetworkModule:
        """A copy with weights of its own."""
        return NetworkModule(copy_of(self.module, memo), self.matrices)


def copy_of(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a module with weights of its own.

    What an older weight norm computed is a plain attribute with a graph, which nothing can copy:
    it is computed again in each forward pass.
    """
    for part in module.modules():
        for key, value in vars(part).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                vars(part)[key] = value.detach()
    return deepcopy(module, memo)


def _makes_noise(part: nn.Module) -> bool:
    own = [*part.parameters(), *part.buffers(), *part.children()]
    return not own or isinstance(part, nn.RNNBase)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under all their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _first_names(module: nn.Module) -> dict[str, str]:
    """Name of a tensor -> the first of its names."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in _tensors(module)}


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return module.get_submodule(path), own


def _value(module: nn.Module, name: str) -> Tensor:
    owner, own = _owner(module, name)
    value: Tensor = getattr(owner, own)
    return value
