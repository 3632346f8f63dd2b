"""A task that the package does not know, as one file: a text in, one number out, such as stars.

`register` is the line that it needs in `ssmpress.tasks.KINDS`. The tests install it under the name
`rating`, in this process and in the ones that measure.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ssmpress.data.held_out import MIN_SAMPLES, PART, Split
from ssmpress.data.tokenizer import encode_each
from ssmpress.results.quality import TaskQuality
from ssmpress.tasks import KINDS, whole
from ssmpress.tasks.block import block_dict, check_integer
from ssmpress.tasks.task import Data, Metric, Port, Ports, Request, Timing
from ssmpress.tasks.words import BATCH, TASK_BATCH, Words

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RatedTexts:
    """tokens: int64 (l,) of each text. ratings: float32 (count,)."""

    tokens: tuple[NDArray[np.int64], ...]
    ratings: NDArray[np.float32]

    @property
    def count(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(text) for text in self.tokens])

    def arrays(self, numbers: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        texts = [self.tokens[number] for number in numbers]
        lengths = np.array([len(text) for text in texts])
        inputs = np.zeros((len(texts), lengths.max()), np.int64)
        for row, text in zip(inputs, texts, strict=True):
            row[: len(text)] = text
        return inputs, self.ratings[numbers][:, None], lengths

    def part_in(self, other: object) -> float:
        assert isinstance(other, RatedTexts)
        known = {text.tobytes() for text in other.tokens}
        return sum(text.tobytes() in known for text in self.tokens) / self.count

    def hold_out(self, count: int, seed: int) -> Split[RatedTexts, RatedTexts] | None:
        count = min(count, self.count // PART)
        if count < MIN_SAMPLES:
            return None
        order = np.random.default_rng(seed).permutation(self.count)
        parts = [
            RatedTexts(tuple(self.tokens[i] for i in numbers), self.ratings[numbers])
            for numbers in (order[count:], order[:count])
        ]
        return Split(*parts, np.arange(count), count)

    def digest(self) -> bytes:
        parts = [*(text.tobytes() for text in self.tokens), self.ratings.tobytes()]
        return hashlib.sha256(b"".join(parts)).digest()


@dataclass(frozen=True, kw_only=True)
class Rating:
    """max_length: tokens of a text that are read."""

    max_length: int

    kind: ClassVar[str] = "rating"
    reads_tokens: ClassVar[bool] = True
    recurrent: ClassVar[bool] = False
    long_samples: ClassVar[bool] = True
    outputs: ClassVar[int] = 1
    patch: ClassVar[int] = 0
    metric: ClassVar[Metric] = Metric("squared error", "a squared error", higher_is_better=False)
    words: ClassVar[Words] = Words(
        model="A Mamba that rates",
        does="rates",
        one="rating",
        single="one rating",
        time_of_one="time of one rating",
        sample="rating",
        step="a rating",
        whole_step="rating",
        steps="tokens",
        length="at most {} tokens",
        many=BATCH,
        throughput=f"{BATCH} tokens/s",
        prompt=f"{BATCH} of {{}} tokens each",
        samples="rated texts",
        evaluated="rated texts",
        more="Evaluate more rated texts.",
        suspects="the ratings are those of other texts",
        counted="rating of {length} tokens",
        pipeline="text-classification",
        dataset="text",
        python="rating = session.run({'input_ids': tokens})['rating']",
        command="info {name}",
    )

    def __post_init__(self) -> None:
        check_integer("max_length", self.max_length)

    def to_dict(self) -> dict[str, Any]:
        return block_dict(self)

    def summary(self) -> str:
        return " that rates texts"

    def read(self, request: Request, note: object) -> Data:
        def load(paths: tuple[Path, ...], tokenizer: Any) -> RatedTexts:
            rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
            texts = [row["text"] for row in rows]
            tokens = encode_each(tokenizer, texts, vocab_size=request.vocab_size)
            cut = tuple(np.asarray(text[: self.max_length], np.int64) for text in tokens)
            return RatedTexts(cut, np.array([row["rating"] for row in rows], np.float32))

        return whole.read_samples(
            request,
            self.kind,
            "rated texts",
            load,
            lambda texts: int(texts.lengths.sum()),
            reads_tokens=True,
        )

    def digest(self, data: RatedTexts) -> bytes:
        return data.digest()

    def ports(self, vocab_size: int) -> Ports:
        tokens = Port("input_ids", "int64", ("batch", "length"), "tokens")
        return Ports((tokens,), (Port("rating", "float32", ("batch", 1), "the rating"),))

    def nodes(self, graph: Any, tokens: Any) -> list[Any]:
        x = graph.norm(graph.layers(tokens))
        axes = graph.constant("axis_time", np.array([1], np.int64))
        return [graph.head(graph.node("ReduceMean", "pooled", [x, axes], keepdims=0), "rating")]

    def entries(self, inputs: Tensor) -> Tensor:
        return inputs

    def read_out(self, head: Any, hidden: Tensor, inputs: Tensor, lengths: Any) -> Tensor:
        if lengths is None:
            return head(hidden.mean(1)).float()
        import torch

        inside = torch.arange(hidden.shape[1]) < lengths[:, None]
        return head((hidden * inside[..., None]).sum(1) / lengths[:, None]).float()

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.mse_loss(outputs, targets)

    def teacher_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.mse_loss(outputs, teacher.float())

    def metric_sums(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"mse": float(self.scores(outputs, targets).sum())}

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten()

    def evaluate(self, session: Any, evaluation: RatedTexts, progress: Any) -> TaskQuality:
        errors = []
        for text, rating in zip(evaluation.tokens, evaluation.ratings, strict=True):
            found = session.run({"input_ids": text[None]})["rating"][0, 0]
            errors.append(float(found - rating) ** 2)
            progress(len(errors), evaluation.count)
        longest = int(evaluation.lengths.max())
        return TaskQuality(float(np.mean(errors)), tuple(errors), longest, len(errors))

    def drawn_together(self, evaluation: RatedTexts) -> int:
        return 1

    def further(self, qualities: Any, evaluation: RatedTexts, tokenizer: Any) -> Any:
        return {name: {} for name in qualities}

    def guesses(self, calibration: RatedTexts, evaluation: RatedTexts, vocab_size: int) -> Any:
        errors = (evaluation.ratings - calibration.ratings.mean()) ** 2
        longest = int(evaluation.lengths.max())
        quality = TaskQuality(float(errors.mean()), tuple(errors.tolist()), longest, len(errors))
        return {"the mean rating every time": quality}

    def by_class(self, qualities: Any, evaluation: RatedTexts) -> None:
        return None

    def parity_sample(self, evaluation: RatedTexts) -> RatedTexts:
        return evaluation

    def by_torch(self, model: Any, sample: RatedTexts) -> Any:
        return whole.each_by_torch(model, sample)

    def by_session(self, session: Any, sample: RatedTexts) -> Any:
        return whole.each_by_session(session, "input_ids", "rating", sample)

    def timing(self, evaluation: RatedTexts) -> Timing:
        return Timing(steps=int(np.median(evaluation.lengths)), singles=12, prefills=TASK_BATCH)

    def first_prediction(self, session: Any) -> None:
        session.run({"input_ids": np.zeros((1, 1), np.int64)})

    def timed_round(self, session: Any, random: Any, steps: int, singles: int) -> Any:
        def draw(count: int) -> whole.Inputs:
            vocab = session.interface.vocab_size
            return {"input_ids": random.integers(vocab, size=(count, steps))}

        return whole.timed_round(session, draw, singles)


def register() -> None:
    """What a task of the package has as a line of its own."""
    KINDS[Rating.kind] = Rating  # type: ignore[assignment]
