"""A language model: text in, the next token out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ssmpress import replies
from ssmpress.callbacks import Note, Steps
from ssmpress.data import overlap
from ssmpress.data.default_text import default_text
from ssmpress.data.tokenizer import decode_each, encode, load_tokenizer
from ssmpress.data.tokenizer_files import as_tokenizer_json
from ssmpress.data.tokens import check_window, cut_windows, load_tokens
from ssmpress.errors import BadInputError
from ssmpress.results.devices import Sample
from ssmpress.results.quality import LanguageModelQuality
from ssmpress.tasks.block import block_dict
from ssmpress.tasks.guess import text_guesses
from ssmpress.tasks.perplexity import exp, perplexity, text_metrics
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
from ssmpress.tasks.whole import milliseconds
from ssmpress.tasks.words import Words

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

PARITY_TOKENS, PARITY_DECODE_TOKENS = 128, 8
DEVICE_TOKENS, DEVICE_DECODE_TOKENS = 104, 8
DEVICE_WINDOWS, DEVICE_WINDOW = 16, 64
PERPLEXITY_TOLERANCE, PERPLEXITY_LIMIT = 1e-3, 1e-2
"""Relative, of a device's perplexity. Kernels of another instruction set add in another order;
where an activation then rounds to the other of two int8 values, the logits move. That averages out
over a text, but a deep model's sample of 1,000 tokens may be off by 1.5e-3 and more: so four
standard errors of the windows' differences are allowed, up to the limit."""

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
    long_samples: ClassVar[bool] = False
    metric: ClassVar[Metric] = Metric(
        "perplexity", "a perplexity", higher_is_better=False, logarithmic=True
    )
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
            "tokenizer.json is that of another model, the weights are damaged, they are of another "
            "architecture than they were taken for, with other norms for example, or the text is "
            "of another kind than what the model was trained on"
        ),
        also={"word_perplexity": "word perplexity", "bits_per_byte": "bits per byte"},
        counted="decoded token",
        pipeline="text-generation",
        dataset="text",
        python=_PYTHON,
        command='generate {name} --prompt "The river" --max-tokens 50',
    )

    def summary(self) -> str:
        """No words: a language model is what a model usually is."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """The task's block of config.json."""
        return block_dict(self)

    # ---- data ----

    def read(self, request: Request, note: Note) -> Data:
        """Tokens to calibrate on, int32 (n,), and windows to evaluate, int32 (count, length).

        Where no file is given, the text that every machine has takes its place.
        """
        settings = request.settings
        path = settings.tokenizer or request.tokenizer
        if path is None:
            raise BadInputError(
                f"{request.model}: expected tokenizer.json beside the weights; there is none. "
                "Give it, vocab.json with merges.txt, or tokenizer.model, with --tokenizer FILE."
            )
        path = as_tokenizer_json(path, note)
        tokenizer = load_tokenizer(path)
        needs_default = not (settings.calibration and settings.evaluation)
        defaults = default_text() if needs_default else ("", "")

        def tokens(paths: tuple[Path, ...], default: str, limit: int | None) -> NDArray[np.int32]:
            if paths:
                return load_tokens(paths, tokenizer, request.vocab_size, limit=limit)
            return encode(tokenizer, default, vocab_size=request.vocab_size)[:limit]

        calibration = tokens(settings.calibration, defaults[0], request.calibration_tokens)
        evaluation = tokens(settings.evaluation, defaults[1], settings.evaluation_tokens)
        for option, text, window in (
            ("--calibration", calibration, request.calibration_window),
            ("--evaluation", evaluation, settings.window),
        ):
            check_window(text, window, option)
        windows = cut_windows(evaluation, settings.window)
        runs = overlap.every_run(calibration, overlap.TEXT_SPAN)
        seen = overlap.part_in(overlap.run_keys(windows.reshape(-1), overlap.TEXT_SPAN), runs)
        for purpose in ("calibration", "evaluation"):
            if not getattr(settings, purpose):
                note(f"{purpose}: no file given, using the default text (Python's language manual)")
        return Data(path, calibration, windows, len(calibration), windows.size, seen)

    def digest(self, data: NDArray[np.integer[Any]]) -> bytes:
        """The tokens themselves."""
        return data.tobytes()

    # ---- the graph ----

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
        rows = graph.node("Gather", "logits/positions", [x, positions], axis=1)
        return [graph.head(graph.norm(rows), "logits")]

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
        """Logits of the next token at every position: (b, l, vocab_size)."""
        return head(hidden)

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log likelihood of each token given those before it.

        Args:
            outputs: logits (b, l, vocab_size). targets: the text itself, int (b, l).
        """
        import torch.nn.functional as F

        return F.cross_entropy(outputs[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())

    # ---- quality ----

    def evaluate(
        self, session: Session, evaluation: NDArray[np.int32], progress: Steps
    ) -> LanguageModelQuality:
        """Perplexity over the windows."""
        return perplexity(session.predict, evaluation, progress=progress)

    def drawn_together(self, evaluation: NDArray[np.int32]) -> int:
        """Windows do not overlap."""
        return 1

    def further(
        self,
        qualities: Mapping[str, Any],
        evaluation: NDArray[np.int32],
        tokenizer: Path | None,
    ) -> dict[str, dict[str, float]]:
        """Metrics that do not depend on the tokenizer: of the text that the windows ask for, all
        their tokens but the first of each."""
        assert tokenizer is not None
        rows = evaluation[:, 1:].tolist()
        decoded = decode_each(load_tokenizer(tokenizer), rows)
        text = "".join(decoded)
        return {name: text_metrics(quality, text) for name, quality in qualities.items()}

    def guesses(
        self, calibration: NDArray[np.integer[Any]], evaluation: NDArray[np.int32], vocab_size: int
    ) -> Mapping[str, LanguageModelQuality]:
        """Tokens drawn by lot, or by their frequency."""
        return text_guesses(calibration, evaluation, vocab_size)

    def by_class(self, qualities: Mapping[str, Any], evaluation: Any) -> None:
        """Text has no classes."""

    # ---- parity ----

    def parity_sample(self, evaluation: NDArray[np.int32]) -> Text:
        """The first tokens: a prefill, then single ones."""
        return Text.of(evaluation, PARITY_TOKENS, PARITY_DECODE_TOKENS)

    def by_torch(self, model: Model, sample: Text) -> Outputs:
        """States and logits (n, vocab), in the order of layers."""
        import torch

        logits, state = model(torch.from_numpy(sample.tokens[None]))
        outputs: Outputs = {name: tensor.numpy() for name, tensor in state.by_name().items()}
        return outputs | {"logits": logits[0].numpy()}

    def by_session(self, session: Session, sample: Text) -> Outputs:
        """The same, by a prefill and single steps."""
        logits, state = session.predict(sample.tokens[None, : sample.prefill])
        rows = [logits[0]]
        for token in sample.tokens[sample.prefill :]:
            row, state = session.step(np.array([token]), state)
            rows.append(row)
        return {**state.arrays(), "logits": np.concatenate(rows)}

    # ---- time ----

    def timing(self, evaluation: NDArray[np.int32]) -> Timing:
        """A prefill of 128 tokens, and 32 decode steps."""
        return Timing(steps=128, singles=32, prefills=1)

    def first_prediction(self, session: Session) -> None:
        """The logits of one token."""
        session.prefill(np.zeros((1, 1), np.int64))

    def timed_round(
        self, session: Session, random: np.random.Generator, steps: int, singles: int
    ) -> Times:
        """One prefill from the zero state, then single tokens with the state carried along."""
        vocab = session.interface.vocab_size
        prompt = random.integers(vocab, size=(1, steps))
        tokens = random.integers(vocab, size=(singles, 1))
        state = session.initial_state(1)
        prefill_ms = milliseconds(lambda: session.prefill(prompt, state))
        return prefill_ms, [milliseconds(partial(session.step, token, state)) for token in tokens]

    # ---- a device ----

    def reference(self, session: Session, evaluation: NDArray[np.int32], folder: Path) -> Reference:
        """Logits and states of the first tokens, and the perplexity of shorter windows: their
        number says how far chance may go."""
        text = Text.of(evaluation, DEVICE_TOKENS, DEVICE_DECODE_TOKENS)
        width = min(DEVICE_WINDOW, evaluation.shape[1])
        whole = evaluation[:, : evaluation.shape[1] // width * width]
        windows = whole.reshape(-1, width)[:DEVICE_WINDOWS].astype(np.int64)
        quality = perplexity(session.predict, windows)
        return Reference((text, windows), self.by_session(session, text), quality, length=1)

    def by_device(self, device: Device, reference: Reference) -> Outputs:
        """Logits and states of the same tokens."""
        text, _ = reference.sample
        reply = device.ask(
            {
                "do": "logits",
                "tokens": text.tokens.tolist(),
                "prefill": text.prefill,
                "states": True,
            }
        )
        states = reply.get("states")
        outputs = {"logits": replies.array(reply, "logits", reference.outputs["logits"].shape)}
        for name, expected in reference.outputs.items():
            if name != "logits" and isinstance(states, dict) and name in states:
                outputs[name] = replies.array(states[name], "data", expected.shape)
        return outputs

    def metric_there(self, device: Device, outputs: Outputs, reference: Reference) -> Sample:
        """The perplexity of the windows; difference, tolerance: relative."""
        _, windows = reference.sample
        here = reference.quality
        assert isinstance(here, LanguageModelQuality)
        reply = device.ask({"do": "nll", "windows": windows.tolist()})
        window_nll = replies.numbers(reply, "window_nll", len(windows))
        host, there = (exp(math.fsum(nll) / here.tokens) for nll in (here.window_nll, window_nll))
        return Sample(
            tokens=here.tokens,
            window=here.window,
            host=host,
            device=there,
            difference=abs(there / host - 1),
            tolerance=_tolerance(here.window_nll, window_nll, here.window),
        )


@dataclass(frozen=True)
class Text:
    """Tokens int64 (n,), of which the first `prefill` go in at once and the others one by one."""

    tokens: NDArray[np.int64]
    prefill: int

    @staticmethod
    def of(windows: NDArray[np.integer[Any]], length: int, singles: int) -> Text:
        """The first window, or as much of it."""
        tokens = windows[0, :length].astype(np.int64)
        return Text(tokens, max(1, len(tokens) - singles))


def _tolerance(host: Sequence[float], device: Sequence[float], width: int) -> float:
    """How far two perplexities may be apart, relative: the difference of the mean negative log
    likelihoods, which chance explains."""
    differences = (np.array(device) - np.array(host)) / (width - 1)
    if len(differences) < 2:
        return PERPLEXITY_TOLERANCE
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return max(PERPLEXITY_TOLERANCE, min(PERPLEXITY_LIMIT, 4 * error))
