"""What every task answers: the Protocol of the classes in this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ssmpress.callbacks import Note, Steps
from ssmpress.data.held_out import Split
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.results.devices import Sample
from ssmpress.results.quality import VariantQuality
from ssmpress.tasks.tools import Device, Graph, Model, Outputs, Session
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
    """The inputs and the outputs, in the graph's order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Request:
    """What data is asked for.

    settings: files and limits. model: path of the checkpoint, for messages. tokenizer: the one
    beside its weights. calibration_window: tokens of a window that saliency looks at.
    calibration_tokens: of a text to read at most; None is all of it.
    """

    settings: DataSettings
    model: Path
    tokenizer: Path | None
    vocab_size: int
    calibration_window: int
    calibration_tokens: int | None


@dataclass(frozen=True)
class Data:
    """What was read, each in the form that the task's other methods take.

    calibration_steps, evaluation_steps: tokens, or time steps, of each. seen: part of the
    evaluation, 0 .. 1, that the calibration has too.
    """

    tokenizer: Path | None
    calibration: Any
    evaluation: Any
    calibration_steps: int
    evaluation_steps: int
    seen: float


@dataclass(frozen=True)
class Metric:
    """The number that quality is judged by.

    name: in reports. article: the name with its article, in sentences.
    logarithmic: it is exp of the mean of the samples' scores; others are the mean itself.
    """

    name: str
    article: str
    higher_is_better: bool
    logarithmic: bool = False


@dataclass(frozen=True)
class Timing:
    """What is timed: `prefills` sequences of `steps` each at once, and `singles` by themselves."""

    steps: int
    singles: int
    prefills: int


@dataclass(frozen=True)
class Reference:
    """This host's result on a sample, which a device's is held against.

    sample: in the task's own form. outputs: by name. quality: of the sample. file: the sample as
    `ssmrun eval` reads it, where the metric comes from that. length: steps of one prediction.
    """

    sample: Any
    outputs: Outputs
    quality: VariantQuality
    length: int
    file: Path | None = None


Times = tuple[float, list[float]]
"""Milliseconds of a prefill, or of a batch, and of each single prediction."""


class Task(Protocol):
    """What a bundle's model is for. The fields of an implementation are the `task` block of its
    configuration.

    kind: the block's name of it.
    reads_tokens: the model has a vocabulary.
    recurrent: its graph takes and gives the layers' states; others start from the zero state.
    long_samples: one prediction is as much work as a prefill, so that few of them are counted.
    words: how a report, a gate and a card speak of it.
    """

    kind: ClassVar[str]
    reads_tokens: ClassVar[bool]
    recurrent: ClassVar[bool]
    long_samples: ClassVar[bool]
    words: ClassVar[Words]

    @property
    def metric(self) -> Metric: ...

    def to_dict(self) -> dict[str, Any]:
        """The block, in JSON types."""

    def summary(self) -> str:
        """What kind of model it is, for the plan of a run, after "Mamba-1"; with a leading space,
        or nothing."""

    # ---- data ----

    def digest(self, data: Any) -> bytes:
        """What makes calibration or evaluation different from others: for names in the cache."""

    # ---- the graph ----

    def ports(self, vocab_size: int) -> Ports:
        """Inputs and outputs of its graph, without the states."""

    # ---- quality ----

    def evaluate(self, session: Session, evaluation: Any, progress: Steps) -> VariantQuality:
        """The metric of one variant of the model."""

    def drawn_together(self, evaluation: Any) -> int:
        """Consecutive samples that depend on each other: an interval is drawn from blocks of so
        many."""

    def further(
        self, qualities: Mapping[str, Any], evaluation: Any, tokenizer: Path | None
    ) -> dict[str, dict[str, float]]:
        """More metrics of each variant by name; `words.also` says what they are called.

        Args:
            qualities: of each variant, what `evaluate` gave.
        """

    def guesses(
        self, calibration: Any, evaluation: Any, vocab_size: int
    ) -> Mapping[str, VariantQuality]:
        """The metric of what can be had without a model, by what it is, as a sentence names it: see
        tasks/guess.py."""

    def by_class(self, qualities: Mapping[str, Any], evaluation: Any) -> dict[str, Any] | None:
        """What each variant answered, class by class, for the report; None where there are no
        classes.

        Args:
            qualities: of each variant, what `evaluate` gave.
        """

    # ---- parity ----

    def parity_sample(self, evaluation: Any) -> Any:
        """A small part of the evaluation."""

    def by_torch(self, model: Model, sample: Any) -> Outputs:
        """What the PyTorch model computes of a parity sample; without gradients."""

    def by_session(self, session: Session, sample: Any) -> Outputs:
        """The same by a bundle's model."""

    # ---- time ----

    def timing(self, evaluation: Any) -> Timing:
        """What is timed."""

    def first_prediction(self, session: Session) -> None:
        """The least that shows that a model is loaded."""

    def timed_round(
        self, session: Session, random: np.random.Generator, steps: int, singles: int
    ) -> Times:
        """Time random samples, the same for the same generator. steps, singles: of `Timing`."""

    # ---- a device ----

    def reference(self, session: Session, evaluation: Any, folder: Path) -> Reference:
        """This host's result on a sample that is small enough for any device.

        Args:
            folder: for the file of the sample.
        """

    def by_device(self, device: Device, reference: Reference) -> Outputs:
        """A device's outputs for the sample.

        Raises:
            DeviceError: it answered something else.
        """

    def metric_there(self, device: Device, outputs: Outputs, reference: Reference) -> Sample:
        """The metric over the sample, here and there, and how far the two may be apart.

        Args:
            outputs: of `by_device`, which were found to agree.

        Raises:
            DeviceError: it answered something else.
        """


class BlockTask(Task, Protocol):
    """The task of a model that is made of blocks: what it reads, and the ends of the model around
    the layers. Its fields are the `task` block of config.json too.

    patch: numbers per token, of a model that has no vocabulary.
    outputs: rows of the task's own head; 0 where the head scores the tokens of the vocabulary.
    """

    @property
    def patch(self) -> int: ...

    @property
    def outputs(self) -> int: ...

    def read(self, request: Request, note: Note) -> Data:
        """Calibration and evaluation.

        Args:
            note: called with one sentence about each decision.

        Raises:
            BadInputError, UsageError: something is missing, damaged, or of no use here.
        """

    def nodes(self, graph: Graph, *inputs: ir.Value) -> list[ir.Value]:
        """The graph from the inputs of `ports` to its outputs, in their order."""

    # ---- what it computes, in PyTorch: the definition that the graph is compared with ----

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
        """The predictions of the samples.

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
        """The number of samples."""

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

    def hold_out(self, count: int, seed: int) -> Split[Samples, Samples] | None:
        """Set `count` samples aside, fewer where there are not so many; None where too few are.

        seed: of a choice at random.
        """


class SampleTask(BlockTask, Protocol):
    """A task that learns from samples, by

    L = w D(teacher, student) + (1 - w) T(target, student)
    """

    def teacher_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """D, a scalar: how far predictions are from those of the dense model."""

    def metric_sums(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Metrics of some predictions by name, each summed over the samples."""

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The metric of the gate for each sample, (b,): 1 or 0 for right or wrong, or an error."""
