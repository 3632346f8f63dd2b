"""A text that a language model learns from, window by window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.blocks.model import Mamba
from ssmpress.callbacks import Progress
from ssmpress.data.held_out import Split, hold_out_windows
from ssmpress.prune.batches import Batch, autocast, moved, task_loss
from ssmpress.prune.distill import HeadTargets, RowTerms, final_hidden, head_loss, row_terms
from ssmpress.prune.material import CalibrationBatch, Course, Lesson, Losses
from ssmpress.prune.order import Tokens, WindowOrder
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.tasks.language_model import LanguageModel
from ssmpress.tasks.task import Metric

_CPU_BATCH, _GPU_WINDOW, _CPU_WINDOW = 8, 1024, 256
_MEMORY_PART = 0.55  # of the GPU's memory; the student needs the rest
_PIECE = 1 << 22  # tokens: a text may be a mapped file

HELD_OUT_STEPS = 4
"""Held-out windows, in batches of a step. A window costs a forward pass there, four times as much
in a step, and is checked every 16 steps: 6 % more time."""


@dataclass(frozen=True)
class TextMaterial:
    """tokens: any integers (n,), the calibration text; may be mapped from a file."""

    tokens: Tokens

    def shape(self, settings: RecoverSettings, cuda: bool) -> tuple[int, int]:
        """Windows per step, and tokens of each."""
        batch = settings.batch or (settings.gpu_batch if cuda else _CPU_BATCH)
        window = settings.window or (_GPU_WINDOW if cuda else _CPU_WINDOW)
        return batch, min(window, len(self.tokens))

    def pieces(self) -> Iterator[memoryview]:
        """The tokens as they are."""
        for start in range(0, len(self.tokens), _PIECE):
            yield np.ascontiguousarray(self.tokens[start : start + _PIECE], np.int32).data

    def calibration(
        self, prune: PruneSettings, seed: int, device: torch.device
    ) -> list[CalibrationBatch]:
        """Windows of `prune.calibration_window` tokens."""
        order = WindowOrder(self.tokens, min(prune.calibration_window, len(self.tokens)), seed)
        rows = (
            order.windows(order.numbers(i, prune.calibration_batch))
            for i in range(prune.calibration_batches)
        )
        return [window_batch(torch.from_numpy(row).to(device)) for row in rows]

    def hold_out(
        self, batch: int, window: int, seed: int
    ) -> tuple[TextMaterial, WindowExam] | None:
        """Windows that are spread evenly over the text."""
        split = hold_out_windows(self.tokens, batch * HELD_OUT_STEPS, window)
        return None if split is None else (TextMaterial(split.training), WindowExam(split))

    def lessons(self, course: Course) -> TextLessons:
        """Windows of the text, in an order by lot."""
        return TextLessons(self.tokens, course)


def window_batch(tokens: Tensor) -> CalibrationBatch:
    """Windows int64 (b, l); the loss is the next token's cross-entropy."""
    return CalibrationBatch(tokens, partial(task_loss, Batch(tokens, tokens)))


class TextLessons:
    """Windows that do not overlap, each once per epoch, and the losses of prune/distill.py."""

    def __init__(self, tokens: Tokens, course: Course) -> None:
        self._order = WindowOrder(tokens, course.window, course.seed)
        self._course, settings = course, course.settings
        # On a CPU it would need a compiler at run time; on a GPU its choice of kernels may differ.
        compiled = settings.compile and self._cuda and not settings.deterministic
        self._terms: RowTerms = torch.compile(row_terms) if compiled else row_terms
        self._remembered = False

    @property
    def _cuda(self) -> bool:
        return self._course.device.type == "cuda"

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Numbers of the windows of a step."""
        return self._order.numbers(step, self._course.batch)

    def lesson(self, numbers: NDArray[np.int64], place: tuple[int, int]) -> Lesson:
        """Windows, and the dense model's final_hidden of them."""
        tokens, teacher = self._tokens(numbers), self._course.teacher
        hidden = None
        if self._remembered and teacher.hidden is not None:
            hidden = teacher.hidden[torch.from_numpy(numbers).to(self._course.device)]
        elif self._course.settings.distill:
            with autocast(self._course.device):
                hidden = teacher(tokens)
        return partial(self._losses, tokens, hidden)

    def _tokens(self, numbers: NDArray[np.int64]) -> Tensor:
        return moved(self._order.windows(numbers), self._course.device)

    def _losses(self, tokens: Tensor, teacher_hidden: Tensor | None, model: Mamba) -> Losses:
        """L of prune/distill.py, its KL and its CE.

        Args:
            tokens: int (b, l). teacher_hidden: (b, l, d_model); None where the text alone teaches.
        """
        s = self._course.settings
        hidden = final_hidden(model, tokens, s.activation_checkpointing, s.deterministic)
        hidden = hidden[:, :-1].flatten(0, 1)
        targets = HeadTargets(
            next_tokens=tokens[:, 1:].flatten(),
            weight=s.distill,
            teacher_hidden=_rows(teacher_hidden),
            teacher_head=self._course.teacher.model.lm_head.weight if s.distill else None,
        )
        loss, kl, ce = head_loss(hidden, model.lm_head.weight, targets, self._terms)
        if s.match_hidden and targets.teacher_hidden is not None:
            goal = targets.teacher_hidden.float()
            distance = (hidden.float() - goal).square().mean()
            loss = loss + s.match_hidden * distance / goal.square().mean()
        return {"loss": loss, "kl": kl, "ce": ce}

    def remember(self, steps: int, progress: Progress) -> None:
        """Remember on a GPU, if the text is seen more than once and the teacher's answers fit."""
        order, teacher, count = self._order, self._course.teacher, self._order.count
        if not self._cuda or not self._course.settings.distill:
            return
        of = (order.seed, order.length, len(order.tokens))
        if teacher.of != of and steps * self._course.batch < 1.5 * count:
            return
        size = 2 * count * order.length * teacher.model.config.d_model
        memory = torch.cuda.get_device_properties(self._course.device).total_memory
        if size > _MEMORY_PART * memory:
            return
        progress("the dense model's predictions", 0, count)
        with autocast(self._course.device):
            teacher.remember(of, lambda a, b: self._tokens(np.arange(a, b)), count)
        self._remembered = True


def _rows(hidden: Tensor | None) -> Tensor | None:
    return None if hidden is None else hidden[:, :-1].flatten(0, 1)


@dataclass(frozen=True)
class WindowExam:
    """Held-out windows int64 (n, l); their scores are mean negative log likelihoods, nats."""

    split: Split[Tokens, NDArray[np.int64]]

    @property
    def metric(self) -> Metric:
        """The metric of text: perplexity."""
        return LanguageModel.metric

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the windows judged: all of them."""
        return self.split.numbers

    @property
    def independent(self) -> float:
        """The number of independent windows: all, they do not overlap."""
        return self.split.independent

    def scores(self, model: Mamba, numbers: NDArray[np.int64]) -> Tensor:
        """Mean over the predictions of each window.

        The logits of one window exist at a time: of a large vocabulary they are the largest tensor.
        """
        device = next(model.parameters()).device
        tokens = torch.from_numpy(self.split.held_out[numbers]).to(device)
        hidden = final_hidden(model, tokens)[:, :-1]
        rows = [
            F.cross_entropy(model.lm_head(h).float(), following)
            for h, following in zip(hidden, tokens[:, 1:], strict=True)
        ]
        return torch.stack(rows)
