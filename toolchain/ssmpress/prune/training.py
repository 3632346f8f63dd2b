"""One recovery run: masks that tighten while the dense model teaches the pruned one.

A step is: tighten the masks if it is time; gradients; their magnitude into the running average;
clip; AdamW; zeros written again. Nothing revives a pruned weight: its gradient, its moments and
its value are zero. With `regrow`, until the masks are settled, all weights keep a value behind the
mask and receive the gradient of the masked ones, so that a pruned weight may come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import Role, matrix_specs
from ssmpress.errors import UsageError
from ssmpress.prune import batches
from ssmpress.prune.distill import HeadTargets, RowTerms, final_hidden, head_loss
from ssmpress.prune.mask import apply_masks, keep_masks, protect, tighten
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.saliency import combine, magnitude, parameters_of
from ssmpress.prune.schedule import cosine_factor, cubic_sparsity, hold_factor
from ssmpress.recipe.settings.prune import Scope
from ssmpress.recipe.settings.recover import RecoverSettings


@dataclass(frozen=True)
class Plan:
    """The numbers of one run, decided before it starts but for the end of an open one.

    steps, batch, window: optimiser steps, sequences per step, tokens per sequence; of an open run
        `steps` is the number that its ramp is a part of.
    sparsity: the final one. mask_every: steps between two masks.
    ramp_end: step at which the final sparsity is reached; 0 is before the first step.
    settled: step from which the masks stay as they are, at least ramp_end.
    alpha: exponent of the gradient; 0 is plain magnitude.
    warmup: steps until the learning rate of an open run is reached; None: the run is not open.
    cool_from, end: steps from which an open run's learning rate falls, and before which the run
        ends; None until that is decided.
    """

    steps: int
    batch: int
    window: int
    sparsity: float
    mask_every: int
    ramp_end: int
    settled: int
    alpha: float
    scope: Scope = Scope.GLOBAL
    pattern: Pattern | None = None
    shares: Mapping[str, float] | None = None
    matrix_limit: float = 1.0
    warmup: int | None = None
    cool_from: int | None = None
    end: int | None = None

    def learning_rate_factor(self, step: int, settings: RecoverSettings) -> float:
        """What the learning rate is multiplied with at this step."""
        final = settings.final_learning_rate
        if self.warmup is None:
            return cosine_factor(step, self.steps, settings.warmup_steps, final)
        return hold_factor(step, self.steps, self.warmup, self.cool_from, self.end, final)

    def mask_due(self, step: int) -> bool:
        """Whether the masks change before this step."""
        regular = step % self.mask_every == 0
        return 0 < step <= self.settled and (regular or step in (self.ramp_end, self.settled))


@dataclass
class Batch:
    """tokens int (b, l) and what the dense model's final_hidden is for them, or None."""

    tokens: Tensor
    teacher_hidden: Tensor | None


@dataclass
class TaskBatch:
    """Samples of a task and what the dense model predicts for them, or None."""

    samples: batches.Batch
    teacher: Tensor | None


class Training:
    """The state of a run and one step of it. A model that is pruned already is pruned further."""

    def __init__(
        self,
        model: Mamba,
        names: tuple[str, ...],
        plan: Plan,
        settings: RecoverSettings,
        terms: RowTerms,
    ) -> None:
        self.model, self.plan, self.settings, self.terms = model, plan, settings, terms
        self.weights = parameters_of(model, names)
        self.keep = {name: w.detach() != 0 for name, w in self.weights.items()}
        self.initial = self.sparsity()
        self.gradients = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.optimizers = _optimizers(model, settings)
        self.teacher_head: Tensor | None = None  # without it the text alone teaches

    def revising(self, step: int) -> bool:
        """Whether pruned weights may come back at this step."""
        return self.settings.regrow and step < self.plan.settled

    def step(
        self, step: int, micro_batches: list[Callable[[], Batch | TaskBatch]]
    ) -> dict[str, Tensor]:
        """One optimiser step; returns the loss and its parts, means over the micro-batches."""
        if self.plan.mask_due(step):
            self.update_masks(step)
        behind = self._hide_pruned() if self.revising(step) else None
        losses = [self.backward(load(), len(micro_batches)) for load in micro_batches]
        if behind is not None:
            _copy_into(self.weights, behind)
        self._average_gradients(step)
        self._update(step)
        return {key: torch.stack([one[key] for one in losses]).mean() for key in losses[0]}

    def _hide_pruned(self) -> list[Tensor]:
        """Zero the pruned weights for a forward pass; returns the values behind the masks."""
        behind = [w.detach().clone() for w in self.weights.values()]
        apply_masks(self.weights, self.keep)
        return behind

    def autocast(self) -> torch.autocast:
        """bfloat16 products on a GPU; the weights and the residual stream stay float32."""
        device = self.model.backbone.norm_f.weight.device.type
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def backward(self, batch: Batch | TaskBatch, parts: int) -> dict[str, Tensor]:
        """Add the gradients of one of `parts` micro-batches; returns the loss and its parts."""
        terms = self.losses(batch)
        torch.autograd.backward(terms["loss"] / parts)
        return {key: value.detach() for key, value in terms.items()}

    def losses(self, batch: Batch | TaskBatch) -> dict[str, Tensor]:
        """The loss of a micro-batch and its parts."""
        with self.autocast():
            return self._text(batch) if isinstance(batch, Batch) else self._task(batch)

    def _task(self, batch: TaskBatch) -> dict[str, Tensor]:
        s, task, weight = self.settings, batches.sample_task(self.model), self.settings.distill
        outputs = batches.predict(
            self.model, batch.samples, s.activation_checkpointing, s.deterministic
        )
        own = task.target_loss(outputs, batch.samples.targets)
        if batch.teacher is None:
            return {"loss": own, "target": own}
        taught = task.teacher_loss(outputs, batch.teacher)
        return {"loss": weight * taught + (1 - weight) * own, "teacher": taught, "target": own}

    def _text(self, batch: Batch) -> dict[str, Tensor]:
        s = self.settings
        hidden = final_hidden(
            self.model, batch.tokens, s.activation_checkpointing, s.deterministic
        )[:, :-1].flatten(0, 1)
        targets = HeadTargets(
            next_tokens=batch.tokens[:, 1:].flatten(),
            weight=self.settings.distill,
            teacher_hidden=_rows(batch.teacher_hidden),
            teacher_head=self.teacher_head,
        )
        loss, kl, ce = head_loss(hidden, self.model.lm_head.weight, targets, self.terms)
        if self.settings.match_hidden and targets.teacher_hidden is not None:
            goal = targets.teacher_hidden.float()
            distance = (hidden.float() - goal).square().mean()
            loss = loss + self.settings.match_hidden * distance / goal.square().mean()
        return {"loss": loss, "kl": kl, "ce": ce}

    def _average_gradients(self, step: int) -> None:
        """The running average of |gradient|, by which the next masks are chosen."""
        if step >= self.plan.settled:
            return
        averages = list(self.gradients.values())
        now = torch._foreach_abs([_gradient(w) for w in self.weights.values()])
        torch._foreach_lerp_(averages, now, 1 - self.settings.gradient_decay if step else 1.0)

    def _update(self, step: int) -> None:
        s = self.settings
        if not self.revising(step):
            for name, w in self.weights.items():
                _gradient(w).masked_fill_(~self.keep[name], 0.0)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), s.clip)
        factor = self.plan.learning_rate_factor(step, s)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = s.learning_rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if not self.revising(step):
            apply_masks(self.weights, self.keep)

    def update_masks(self, step: int) -> None:
        """The masks that the schedule wants before `step`, from the current weights."""
        plan = self.plan
        names = tuple(self.weights)
        scores = combine(magnitude(self.model, names), self.gradients, plan.alpha)
        scores = protect(scores, plan.matrix_limit)
        sparsity = cubic_sparsity(step, 0, plan.ramp_end, plan.sparsity, self.initial)
        rule = (sparsity, plan.scope, plan.pattern, plan.shares)
        if self.settings.regrow:
            self.keep = keep_masks(scores, *rule)
        else:
            self.keep = tighten(self.keep, scores, *rule)
        if not self.revising(step):
            self.settle()

    def finish(self, step: int) -> None:
        """The final masks, where a run ends after `step` steps and before they were due."""
        if self.plan.settled > 0 and step <= self.plan.settled:
            self.plan = replace(self.plan, ramp_end=step, settled=step)
            self.update_masks(step)

    def settle(self) -> None:
        """Make the pruned weights, and the optimiser's memory of them, exactly zero."""
        apply_masks(self.weights, self.keep)
        for name, w in self.weights.items():
            for optimizer in self.optimizers:
                for moment in optimizer.state.get(w, {}).values():
                    if isinstance(moment, Tensor) and moment.shape == w.shape:
                        moment.masked_fill_(~self.keep[name], 0.0)

    def sparsity(self) -> float:
        """Zeros / prunable weights of the present masks."""
        kept = sum(int(keep.sum()) for keep in self.keep.values())
        return 1 - kept / sum(keep.numel() for keep in self.keep.values())


def _optimizers(model: Mamba, settings: RecoverSettings) -> list[torch.optim.Optimizer]:
    """AdamW; only the projections decay. With Muon, the projections are Muon's."""
    projections: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    specs = matrix_specs(model.config)
    decaying = {name for name, spec in specs.items() if spec.role is Role.PROJECTION}
    for name, parameter in model.named_parameters():
        (projections if name in decaying else others).append(parameter)
    lr, decay = settings.learning_rate, settings.weight_decay
    muon: list[torch.optim.Optimizer] = []
    groups = [{"params": others, "weight_decay": 0.0}]
    if settings.muon:
        if not hasattr(torch.optim, "Muon"):
            raise UsageError(
                f"muon: expected PyTorch 2.9 or newer, which has it; got {torch.__version__}. "
                "Install a newer one, or leave muon off."
            )
        muon = [torch.optim.Muon(projections, lr, decay, adjust_lr_fn="match_rms_adamw")]
    else:
        groups.append({"params": projections, "weight_decay": decay})
    return [*muon, torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)]


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _rows(hidden: Tensor | None) -> Tensor | None:
    return None if hidden is None else hidden[:, :-1].flatten(0, 1)


def _copy_into(weights: Mapping[str, Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights.values(), values, strict=True):
            weight.copy_(value)
