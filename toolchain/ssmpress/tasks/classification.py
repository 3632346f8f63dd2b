"""A classifier: a whole text in, the scores of its classes out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ssmpress import replies
from ssmpress.callbacks import Note, Steps, silent
from ssmpress.data.labelled import LabelledTexts, from_lists, load_labelled
from ssmpress.files import write_text
from ssmpress.results.devices import Sample
from ssmpress.results.quality import TaskQuality
from ssmpress.tasks import whole
from ssmpress.tasks.block import block_dict, check_choice, check_integer, check_names
from ssmpress.tasks.confusion import answers, class_metrics
from ssmpress.tasks.guess import class_guess
from ssmpress.tasks.task import (
    Data,
    Metric,
    Port,
    Ports,
    Reference,
    Request,
    Times,
    Timing,
)
from ssmpress.tasks.tools import Device, Graph, Model, Outputs, Session
from ssmpress.tasks.words import BATCH, TASK_BATCH, Words

if TYPE_CHECKING:
    import onnx_ir as ir
    from tokenizers import Tokenizer
    from torch import Tensor

LATENCY_TOKENS = 1024
"""Longest text that latency is measured with."""
DEVICE_SAMPLES = 32
DEVICE_TOKENS = 256
"""Texts are cut to so many on a device: an emulator runs some 1e8 instructions a second."""

_PYTHON = """\
session = ssmpress.open_session("model.onnx", library="libssmpress_ops.so")
logits = session.classify(tokens)  # int64 (1, length) -> float32 (1, classes)
print(session.interface.task.classes[int(logits[0].argmax())])"""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The block of a classifier, checked when built.

        {"kind": "classification", "classes": ["negative", "positive"], "pooling": "mean",
         "max_length": 4096}

    classes: labels by the order of the logits, at least 2, each once.
    pooling: what the head sees of a text: the mean of all positions, or the last one.
    max_length: tokens; of a longer text the first so many are used.

    Raises:
        BadInputError: a field is out of its range.
    """

    classes: tuple[str, ...]
    pooling: str = "mean"
    max_length: int

    kind: ClassVar[str] = "classification"
    reads_tokens: ClassVar[bool] = True
    recurrent: ClassVar[bool] = False
    long_samples: ClassVar[bool] = True
    metric: ClassVar[Metric] = Metric("accuracy", "an accuracy", higher_is_better=True)
    patch: ClassVar[int] = 0

    words: ClassVar[Words] = Words(
        model="A Mamba classifier",
        does="predicts",
        one="text",
        single="one text",
        time_of_one="time of one text",
        sample="text",
        step="a text",
        whole_step="text",
        steps="tokens",
        length="at most {} tokens",
        many=BATCH,
        throughput=f"{BATCH} tokens/s",
        prompt=f"{BATCH} of {{}} tokens each",
        samples="texts",
        evaluated="labelled texts",
        more="Evaluate more labelled texts: a longer --evaluation.",
        suspects=(
            "tokenizer.json or the order of the classes is that of another model, or the weights "
            "are damaged"
        ),
        counted="text of {length} tokens",
        pipeline="text-classification",
        dataset="text",
        also={"balanced_accuracy": "balanced accuracy", "f1_macro": "F1 (macro)"},
        python=_PYTHON,
        command="eval {name} labelled.jsonl",
    )

    def __post_init__(self) -> None:
        check_names("classes", self.classes, least=2)
        check_choice("pooling", self.pooling, ("mean", "last"))
        check_integer("max_length", self.max_length)

    @property
    def outputs(self) -> int:
        """Rows of the head: a logit per class."""
        return len(self.classes)

    def summary(self) -> str:
        """How many classes there are."""
        return f" classifier of {len(self.classes)} classes"

    def to_dict(self) -> dict[str, Any]:
        """The task's block of config.json."""
        return block_dict(self)

    # ---- data ----

    def read(self, request: Request, note: Note) -> Data:
        """Read labelled texts."""

        def load(paths: tuple[Path, ...], tokenizer: Tokenizer | None) -> LabelledTexts:
            return load_labelled(paths, tokenizer, self, request.vocab_size, note=note)

        return whole.read_samples(
            request,
            self.kind,
            "labelled texts",
            load,
            lambda texts: int(texts.lengths.sum()),
            reads_tokens=True,
            note=note,
        )

    def digest(self, data: LabelledTexts) -> bytes:
        """SHA-256 of tokens and labels."""
        return data.digest()

    # ---- the graph ----

    def ports(self, vocab_size: int) -> Ports:
        """A whole text, and the scores of the classes."""
        text = "scores of the classes, in the order of the task's classes"
        tokens = Port("input_ids", "int64", ("batch", "length"), "tokens, 0 .. vocab_size - 1")
        return Ports((tokens,), (Port("logits", "float32", ("batch", self.outputs), text),))

    def nodes(self, graph: Graph, *inputs: ir.Value) -> list[ir.Value]:
        """`read_out` of texts without padding."""
        x = graph.norm(graph.layers(*inputs))
        axes = graph.constant("axis_time", np.array([1], np.int64))
        if self.pooling == "mean":
            x = graph.node("ReduceMean", "pooled", [x, axes], keepdims=0)
        else:
            last = graph.constant("last", np.array([-1]))
            x = graph.node("Gather", "last_position", [x, last], axis=1)  # (b, 1, d_model)
            x = graph.node("Squeeze", "pooled", [x, axes])
        return [graph.head(x, "logits")]

    # ---- what it computes, in PyTorch ----

    def entries(self, inputs: Tensor) -> Tensor:
        """The tokens themselves, int (b, l)."""
        return inputs

    def read_out(
        self,
        head: Callable[[Tensor], Tensor],
        hidden: Tensor,
        inputs: Tensor,
        lengths: Tensor | None,
    ) -> Tensor:
        """Logits (b, classes) of what `pool` sees of hidden (b, l, d_model)."""
        return head(pool(hidden, self.pooling, lengths)).float()

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """T: cross-entropy of the classes, nats. outputs: (b, classes). targets: int (b,)."""
        import torch.nn.functional as F

        return F.cross_entropy(outputs.float(), targets)

    def teacher_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """D: KL(teacher || student) of the classes, nats. Both: logits (b, classes)."""
        import torch.nn.functional as F

        log_p, log_q = (F.log_softmax(x.float(), dim=-1) for x in (outputs, teacher))
        return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)

    def metric_sums(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """How many texts are right."""
        return {"accuracy": float(self.scores(outputs, targets).sum())}

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1 or 0 for right or wrong; a text whose logits are not finite is wrong."""
        right = (outputs.argmax(-1) == targets) & outputs.isfinite().all(-1)
        return right.float()

    # ---- quality ----

    def evaluate(self, session: Session, evaluation: LabelledTexts, progress: Steps) -> TaskQuality:
        """Accuracy over the texts."""
        return accuracy(partial(_logits, session), evaluation, progress=progress)

    def drawn_together(self, evaluation: LabelledTexts) -> int:
        """Texts are independent."""
        return 1

    def further(
        self,
        qualities: Mapping[str, Any],
        evaluation: LabelledTexts,
        tokenizer: Path | None,
    ) -> dict[str, dict[str, float]]:
        """Balanced accuracy and F1."""
        classes = self.by_class(qualities, evaluation)
        texts = classes["texts"]
        return {
            name: class_metrics(texts, classes[name]["predicted"], classes[name]["right"])
            for name in qualities
        }

    def guesses(
        self, calibration: LabelledTexts, evaluation: LabelledTexts, vocab_size: int
    ) -> Mapping[str, TaskQuality]:
        """The most frequent class."""
        return class_guess(evaluation.labels, int(evaluation.lengths.max()))

    def by_class(self, qualities: Mapping[str, Any], evaluation: LabelledTexts) -> dict[str, Any]:
        """Texts and answers of each class."""
        count = len(self.classes)
        return {
            "names": list(self.classes),
            "texts": np.bincount(evaluation.labels, minlength=count).tolist(),
            **{
                name: answers(evaluation.labels, quality.chosen, count)
                for name, quality in qualities.items()
            },
        }

    # ---- parity ----

    def parity_sample(self, evaluation: LabelledTexts) -> LabelledTexts:
        """The first texts."""
        return evaluation.head(whole.PARITY_SAMPLES)

    def by_torch(self, model: Model, sample: LabelledTexts) -> Outputs:
        """Logits of each text by itself, without padding."""
        return whole.each_by_torch(model, sample)

    def by_session(self, session: Session, sample: LabelledTexts) -> Outputs:
        """The same by a bundle's model."""
        return whole.each_by_session(session, "input_ids", "logits", sample)

    # ---- time ----

    def timing(self, evaluation: LabelledTexts) -> Timing:
        """A batch, and single texts of the median length."""
        length = min(LATENCY_TOKENS, int(np.median(evaluation.lengths)))
        return Timing(steps=length, singles=whole.PREDICTIONS, prefills=TASK_BATCH)

    def first_prediction(self, session: Session) -> None:
        """The logits of one token."""
        _logits(session, np.zeros((1, 1), np.int64))

    def timed_round(
        self, session: Session, random: np.random.Generator, steps: int, singles: int
    ) -> Times:
        """Texts of random tokens."""
        vocab = session.interface.vocab_size

        def draw(count: int) -> whole.Inputs:
            return {"input_ids": random.integers(vocab, size=(count, steps))}

        return whole.timed_round(session, draw, singles)

    # ---- a device ----

    def reference(self, session: Session, evaluation: LabelledTexts, folder: Path) -> Reference:
        """Logits and accuracy of some texts."""
        texts, file = some_texts(evaluation), folder / "sample.jsonl"
        write_text(file, self.jsonl(texts))
        rows = [_logits(session, texts.text(number)[None]) for number in range(texts.count)]
        quality = accuracy(partial(_logits, session), texts)
        length = int(np.median(texts.lengths))
        return Reference(texts, {"predictions": np.concatenate(rows)}, quality, length, file)

    def jsonl(self, texts: LabelledTexts) -> str:
        """Texts as `ssmrun eval` reads them."""
        rows = (
            {"tokens": texts.text(number).tolist(), "label": self.classes[texts.labels[number]]}
            for number in range(texts.count)
        )
        return "".join(json.dumps(row) + "\n" for row in rows)

    def by_device(self, device: Device, reference: Reference) -> Outputs:
        """The logits of all texts together: one that no class suits has logits near 0."""
        texts: LabelledTexts = reference.sample
        tokens = [texts.text(number).tolist() for number in range(texts.count)]
        reply = device.ask({"do": "classify", "texts": tokens})
        shape = reference.outputs["predictions"].shape
        return {"predictions": replies.array(reply, "logits", shape)}

    def metric_there(self, device: Device, outputs: Outputs, reference: Reference) -> Sample:
        """The accuracy. difference: the part of the texts that are right on one side only;
        tolerance: the part that the device's own logits put there."""
        texts: LabelledTexts = reference.sample
        quality, file = reference.quality, reference.file
        assert file is not None
        here = np.array(quality.scores, bool)
        there = np.array(replies.flags(device.evaluate(file), "right", texts.count))
        moved = (outputs["predictions"].argmax(axis=1) == texts.labels) != here
        return Sample(
            tokens=texts.count,
            window=quality.length,
            host=quality.value,
            device=float(there.mean()),
            difference=float((there != here).mean()),
            tolerance=float(moved.mean()),
        )


def _logits(session: Session, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """(b, l) -> (b, classes)."""
    return session.run({"input_ids": tokens})["logits"]


def pool(hidden: Tensor, pooling: str, lengths: Tensor | None) -> Tensor:
    """What a classifier's head sees. hidden (b, l, d), lengths int (b,) or None -> (b, d).

    Layers are causal: padding after the text changes nothing before it.
    """
    import torch

    b, length, _ = hidden.shape
    if lengths is None:
        return hidden.mean(dim=1) if pooling == "mean" else hidden[:, -1]
    if pooling == "last":
        return hidden[torch.arange(b, device=hidden.device), lengths - 1]
    inside = torch.arange(length, device=hidden.device) < lengths[:, None]  # (b, l)
    total = (hidden * inside[:, :, None]).sum(dim=1)
    return total / lengths[:, None]


def accuracy(
    classify: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    samples: LabelledTexts,
    *,
    progress: Steps = silent,
) -> TaskQuality:
    """Share of texts whose highest logit is their class's; of equal ones the first counts.

    Args:
        classify: tokens (1, l) -> logits (1, classes), for example `run.Session.classify`.
        samples: the texts; each runs by itself, whole.

    Returns:
        The accuracy. A text whose logits are not finite is wrong.
    """
    chosen = []
    for number in range(samples.count):
        logits = classify(samples.text(number)[None])[0]
        chosen.append(int(logits.argmax()) if np.isfinite(logits).all() else -1)
        if number % 64 == 0 or number == samples.count - 1:
            progress(number + 1, samples.count)
    right = (samples.labels == chosen).astype(float)
    longest = int(samples.lengths.max())
    return TaskQuality(
        float(right.mean()), tuple(right.tolist()), longest, len(right), chosen=tuple(chosen)
    )


def some_texts(texts: LabelledTexts) -> LabelledTexts:
    """Some texts from the whole file: they are often in the order of their classes."""
    places = np.linspace(0, texts.count - 1, DEVICE_SAMPLES)
    chosen = np.unique(places.round().astype(int)).tolist()
    labels = [int(texts.labels[number]) for number in chosen]
    return from_lists([texts.text(number) for number in chosen], labels, DEVICE_TOKENS)
