"""What a task is handed by the rooms above it: the graph that it builds, the session that it runs,
the device that it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

Outputs = dict[str, NDArray[Any]]
"""What a model computes, by name, in the order of its layers."""


class Model(Protocol):
    """`blocks.model.Mamba`, in eval mode."""

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """A language model's logits (b, l, vocab_size) of tokens (b, l), and the state after."""

    def predict(self, inputs: Tensor) -> Tensor:
        """The predictions for whole inputs."""


class Graph(Protocol):
    """The nodes of `graph.export`."""

    def node(self, op: str, name: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """An operator with one output, which has this name."""

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A constant of the graph."""

    def layers(self, entries: ir.Value) -> ir.Value:
        """The embedding and all layers: the residual stream (b, l, d_model) before the last norm.

        Args:
            entries: as of `Task.entries`.
        """

    def norm(self, x: ir.Value) -> ir.Value:
        """The last norm. x: (..., d_model)."""

    def head(self, x: ir.Value, output: str) -> ir.Value:
        """The head by x (..., d_model). output: the name of the result."""


class Interface(Protocol):
    """What a task asks of `runtime.interface.ModelInterface`."""

    @property
    def vocab_size(self) -> int: ...


class Session(Protocol):
    """`runtime.session.Session`: a bundle's model in ONNX Runtime."""

    @property
    def interface(self) -> Interface: ...

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs of a model without states, by name."""

    def initial_state(self, batch: int) -> Any:
        """The zero state of a language model."""

    def prefill(self, tokens: NDArray[Any], state: Any = None) -> tuple[NDArray[np.float32], Any]:
        """Logits (b, 1, vocab) of the last of the tokens (b, l), and the state after them."""

    def predict(self, tokens: NDArray[Any], state: Any = None) -> tuple[NDArray[np.float32], Any]:
        """Logits (b, l, vocab) of tokens (b, l), and the state after them."""

    def step(self, token: NDArray[Any], state: Any) -> tuple[NDArray[np.float32], Any]:
        """Logits (b, vocab) of one token (b,), and the state after it."""


class Device(Protocol):
    """A worker on a device that has loaded the bundle's model. Its answers are not trusted:
    `replies` reads them."""

    def ask(self, request: dict[str, Any]) -> Mapping[str, Any]:
        """The answer to a request, docs/ssmrun.md."""

    def evaluate(self, file: Path) -> Mapping[str, Any]:
        """What `ssmrun eval` answers there for a file of this host."""
