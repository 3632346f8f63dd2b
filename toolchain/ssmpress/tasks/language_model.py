"""A language model: text in, the next token out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ssmpress.tasks.block import block_dict
from ssmpress.tasks.task import Graph, Port, Ports
from ssmpress.tasks.words import Words

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor


_PYTHON = """\
model = ssmpress.open_bundle(".")  # this folder
for piece in model.stream("The list of", max_tokens=40):
    print(piece, end="", flush=True)"""


@dataclass(frozen=True)
class LanguageModel:
    """The task of a checkpoint without a block: its sizes say everything.

    It learns from a text, not from samples: prune/distill.py has the loss of recovery, since all
    logits of a batch are too large to exist at once.
    """

    kind: ClassVar[str] = "language-model"
    reads_tokens: ClassVar[bool] = True
    recurrent: ClassVar[bool] = True
    outputs: ClassVar[int] = 0
    patch: ClassVar[int] = 0

    words: ClassVar[Words] = Words(
        model="A Mamba language model",
        does="decodes",
        one="token",
        single="decode",
        time_of_one="decode time of one token",
        sample="decode",
        step="a decode step",
        whole_step="step",
        steps="tokens",
        length="{} tokens",
        many="prefill",
        throughput="prefill tokens/s",
        prompt="prefill of {} tokens",
        samples="windows",
        evaluated="windows of evaluation text",
        more="Evaluate more text: a longer --evaluation, or more --evaluation-tokens.",
        suspects=(
            "tokenizer.json is that of another model, the weights are damaged, or they are of "
            "another architecture than they were taken for, with other norms for example"
        ),
        also={"word_perplexity": "word perplexity", "bits_per_byte": "bits per byte"},
        counted="decoded token",
        pipeline="text-generation",
        dataset="text",
        python=_PYTHON,
        command='generate {name} --prompt "The river" --max-tokens 50',
    )

    def summary(self) -> str:
        """Nothing: it is what a model usually is."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """The block."""
        return block_dict(self)

    def ports(self, vocab_size: int) -> Ports:
        """Logits at the positions that are wanted."""
        positions = "positions in the sequence whose logits are wanted: all, the last or none"
        return Ports(
            inputs=(
                Port("input_ids", "int64", ("batch", "length"), "tokens, 0 .. vocab_size - 1"),
                Port("logits_positions", "int64", ("positions",), positions),
            ),
            outputs=(
                Port(
                    "logits",
                    "float32",
                    ("batch", "positions", vocab_size),
                    "scores of the next token at the wanted positions",
                ),
            ),
        )

    def nodes(self, graph: Graph, *inputs: ir.Value) -> list[ir.Value]:
        """`read_out` at the wanted positions only."""
        tokens, positions = inputs
        x = graph.layers(tokens)
        wanted = graph.node("Gather", "logits/positions", [x, positions], axis=1)
        return [graph.head(graph.norm(wanted), "logits")]

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
        """Logits of the next token at every position: (b, l, vocab_size)."""
        return head(hidden)

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log likelihood of each token given those before it.

        Args:
            outputs: logits (b, l, vocab_size). targets: the text itself, int (b, l).
        """
        import torch.nn.functional as F

        return F.cross_entropy(outputs[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())
