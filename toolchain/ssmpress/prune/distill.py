"""The loss of recovery: the dense model's predictions as targets, beside the text itself.

    L = w KL(p_dense || p) + (1 - w) CE(text, p)

Logits are the largest tensors of a step (tokens x vocabulary). Here they exist for a few thousand
tokens at a time: the loss and its gradient are computed together, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmpress.blocks.gpu import How
from ssmpress.blocks.model import Mamba

CHUNK_ROWS = 4096
"""Tokens whose logits exist at once."""


def final_hidden(
    model: Mamba, tokens: Tensor, recompute: bool = False, ordered: bool = False
) -> Tensor:
    """`Mamba.hidden` as recovery wants it: memory for speed, or the other way with `recompute`."""
    return model.hidden(tokens, How(recompute, ordered, checkpoint_level=0))


@dataclass(frozen=True)
class HeadTargets:
    """What the student's predictions are compared with.

    next_tokens: int (rows,). weight: w, 0 .. 1. teacher_hidden: (rows, d_model), the dense model's
    final_hidden, and teacher_head (vocab_size, d_model); both None where w is 0.
    """

    next_tokens: Tensor
    weight: float
    teacher_hidden: Tensor | None = None
    teacher_head: Tensor | None = None


RowTerms = Callable[[Tensor, Tensor | None, Tensor, float], tuple[Tensor, Tensor, Tensor]]


def row_terms(
    logits: Tensor, teacher_logits: Tensor | None, next_tokens: Tensor, weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """KL and CE of each row (rows,), and the gradient of their mix in the logits (rows, vocab).

    With p the student's probabilities, q the teacher's and y the one-hot token:
    dL/dlogits = p - w q - (1 - w) y.
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    ce = -log_p.gather(1, next_tokens[:, None]).squeeze(1)
    gradient = log_p.exp()
    kl = torch.zeros_like(ce)
    if teacher_logits is not None:
        log_q = F.log_softmax(teacher_logits.float(), dim=-1)
        q = log_q.exp()
        kl = (q * (log_q - log_p)).sum(-1)
        gradient = gradient - weight * q
    own = torch.full_like(ce, weight - 1)[:, None]
    gradient = gradient.scatter_add(1, next_tokens[:, None], own)
    return kl, ce, gradient.to(logits.dtype)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: HeadTargets, terms: RowTerms
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.get_autocast_dtype(hidden.device.type) if _autocast(hidden) else hidden.dtype
        rows, w = hidden.shape[0], targets.weight
        head_, teacher_head = head.to(dtype), _to(targets.teacher_head, dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head, dtype=torch.float32)
        kl_sum, ce_sum = torch.zeros(2, device=hidden.device).unbind()
        for start in range(0, rows, CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            h = hidden[part].to(dtype)
            teacher = None
            if targets.teacher_hidden is not None and teacher_head is not None:
                teacher = targets.teacher_hidden[part].to(dtype) @ teacher_head.T
            kl, ce, grad = terms(h @ head_.T, teacher, targets.next_tokens[part], w)
            kl_sum, ce_sum = kl_sum + kl.sum(), ce_sum + ce.sum()
            grad_hidden[part] = grad @ head_
            grad_head += grad.T @ h
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.rows = rows
        kl, ce = kl_sum / rows, ce_sum / rows
        ctx.mark_non_differentiable(kl, ce)
        return w * kl + (1 - w) * ce, kl, ce

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        scale = grad / ctx.rows
        return grad_hidden.mul_(scale), grad_head.mul_(scale), None, None


def _autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def head_loss(
    hidden: Tensor, head: Tensor, targets: HeadTargets, terms: RowTerms = row_terms
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its two parts, of which only the loss has a gradient.

    Args:
        hidden: float (rows, d_model), the student's final_hidden; a gradient may flow to it once.
        head: float (vocab_size, d_model).
        terms: row_terms, or the same compiled.

    Returns:
        L, KL and CE, scalars, means over the rows.
    """
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _HeadLoss.apply
    return apply(hidden, head, targets, terms)


class Teacher:
    """The dense model, of any kind; of a language model, what it says about windows of text too.

    `remember` keeps its final_hidden for every window, so that a run of several epochs, or several
    runs on the same text, pay for the teacher once.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.requires_grad_(False)
        self.hidden: Tensor | None = None  # bfloat16 (windows, l, d_model)
        self.of: tuple[int, ...] = ()  # what `hidden` was computed from

    def remember(
        self, of: tuple[int, ...], windows: Callable[[int, int], Tensor], count: int
    ) -> None:
        """Compute `hidden`, always in the same batches: a run that goes on gets the same values.

        Args:
            of: identifies the windows; the same again costs nothing.
            windows: (first, last) -> int (last - first, l). count: number of windows.
        """
        if self.of == of:
            return
        self.hidden, self.of = None, of
        batch = 64
        for first in range(0, count, batch):
            last = min(first + batch, count)
            hidden = self(windows(first, last))
            if self.hidden is None:
                shape = (count, *hidden.shape[1:])
                self.hidden = torch.empty(shape, dtype=torch.bfloat16, device=hidden.device)
            self.hidden[first:last] = hidden

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """final_hidden of int (b, l)."""
        return final_hidden(self.model, tokens)
