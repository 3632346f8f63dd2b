"""What every task answers: the Protocol of the classes in this folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ssmpress.tasks.words import Words

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor


@dataclass(frozen=True)
class Port:
    """An input or output of a model's graph that is no state.

    type: of its elements, int64 or float32. shape: sizes, or names of those that the caller
    chooses. text: what it is, for viewers of the graph.
    """

    name: str
    type: str
    shape: tuple[int | str, ...]
    text: str


@dataclass(frozen=True)
class Ports:
    """All of them, in the graph's order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class Graph(Protocol):
    """What a task's nodes are built with: see `graph.export`."""

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


class Task(Protocol):
    """What a model is for. The fields of an implementation are the `task` block of config.json.

    kind: the block's name of it.
    reads_tokens: the model has a vocabulary; one that has none reads numbers, `patch` of them per
        token.
    recurrent: its graph takes and gives the layers' states; others start from the zero state.
    words: how a report, a gate and a card speak of it.
    outputs: rows of the task's own head; 0 where the head scores the tokens of the vocabulary.
    """

    kind: ClassVar[str]
    reads_tokens: ClassVar[bool]
    recurrent: ClassVar[bool]
    words: ClassVar[Words]

    @property
    def patch(self) -> int: ...

    @property
    def outputs(self) -> int: ...

    def summary(self) -> str:
        """What kind of model it is, for the plan of a run, after "Mamba-1"; with a leading space,
        or nothing."""

    def to_dict(self) -> dict[str, Any]:
        """The block, in JSON types."""

    def ports(self, vocab_size: int) -> Ports:
        """Inputs and outputs of its graph, without the states."""

    def nodes(self, graph: Graph, *inputs: ir.Value) -> list[ir.Value]:
        """The graph from the inputs of `ports` to its outputs, in their order."""

    # What it computes, in PyTorch: the definition that the graph is compared with.

    def entries(self, inputs: Tensor) -> Tensor:
        """What the embedding reads of a batch of samples: tokens (b, l), or numbers
        (b, tokens, patch), of as many sequences per sample as the task likes."""

    def read_out(
        self,
        head: Callable[[Tensor], Tensor],
        hidden: Tensor,
        inputs: Tensor,
        lengths: Tensor | None,
    ) -> Tensor:
        """The predictions, float32.

        Args:
            head: (..., d_model) -> (..., outputs).
            hidden: float (b, l, d_model), after the last norm, of the sequences of `entries`.
            inputs: the samples that they come from.
            lengths: int (b,), tokens of each before its padding; None is all of them.
        """

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """T, a scalar: how far predictions are from the samples' targets."""


class Samples(Protocol):
    """What a task other than a language model learns from and is judged by."""

    @property
    def count(self) -> int:
        """Samples."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens, or time steps, that each sample has, int64 (count,)."""

    def arrays(
        self, numbers: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64] | None]:
        """Inputs (b, ...), padded at the end, and targets (b, ...) of the samples with these
        numbers, and the lengths (b,) before the padding; None where nothing is padded."""

    def part_in(self, other: object) -> float:
        """Part of these samples, 0 .. 1, that others of the same class have too."""

    def digest(self) -> bytes:
        """SHA-256 of everything."""


class SampleTask(Task, Protocol):
    """A task that learns from samples, by

    L = w D(teacher, student) + (1 - w) T(target, student)
    """

    def teacher_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """D, a scalar: how far predictions are from those of the dense model."""

    def metric_sums(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Metrics of some predictions by name, each summed over the samples."""
