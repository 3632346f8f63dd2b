"""A classifier: a whole text in, the scores of its classes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssmpress.tasks.block import block_dict, check_choice, check_integer, check_names
from ssmpress.tasks.task import Graph, Port, Ports
from ssmpress.tasks.words import BATCH, Words

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor


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
        """The block."""
        return block_dict(self)

    def ports(self, vocab_size: int) -> Ports:
        """A whole text, and the scores of the classes."""
        text = "scores of the classes, in the order of the task's classes"
        tokens = Port("input_ids", "int64", ("batch", "length"), "tokens, 0 .. vocab_size - 1")
        return Ports((tokens,), (Port("logits", "float32", ("batch", self.outputs), text),))

    def nodes(self, graph: Graph, *inputs: ir.Value) -> list[ir.Value]:
        """`read_out` of texts without padding."""
        x = graph.norm(graph.layers(*inputs))
        if self.pooling == "mean":
            axes = graph.constant("axis_time", np.array([1], np.int64))
            x = graph.node("ReduceMean", "pooled", [x, axes], keepdims=0)
        else:
            x = graph.node("Gather", "pooled", [x, graph.constant("last", np.array(-1))], axis=1)
        return [graph.head(x, "logits")]

    # ---- what it computes ----

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
        return {"accuracy": float((outputs.argmax(-1) == targets).sum())}


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
