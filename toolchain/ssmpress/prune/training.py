"""One recovery run: masks that tighten while the dense model teaches the pruned one.

A step is: tighten the masks if it is time; gradients; their magnitude into the running average;
clip; AdamW; zeros written again. Nothing revives a pruned weight: its gradient, its moments and
its value are zero. With `regrow`, until the masks are settled, all weights keep a value behind the
mask and receive the gradient of the masked ones, so that a pruned weight may come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssmpress.blocks.tensors import Role
from ssmpress.errors import UsageError
from ssmpress.prune.batches import autocast
from ssmpress.prune.mask import apply_masks, keep_masks, protect, tighten
from ssmpress.prune.material import Lesson, Losses
from ssmpress.prune.model import Model
from ssmpress.prune.plan import Plan
from ssmpress.prune.saliency import combine, magnitude, no_gradient, parameters_of
from ssmpress.prune.schedule import cubic_sparsity
from ssmpress.recipe.settings.recover import RecoverSettings


class Training:
    """The state of a run and one step of it. A model that is pruned already is pruned further."""

    def __init__(
        self, model: Model, names: tuple[str, ...], plan: Plan, settings: RecoverSettings
    ) -> None:
        self.model, self.plan, self.settings = model, plan, settings
        self.device = next(model.parameters()).device
        self.weights = parameters_of(model, names)
        self.keep = {name: w.detach() != 0 for name, w in self.weights.items()}
        self.initial = self.sparsity()
        self.gradients = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.optimizers = _optimizers(model, settings)

    def revising(self, step: int) -> bool:
        """Whether pruned weights may come back at this step."""
        return self.settings.regrow and step < self.plan.settled

    def step(self, step: int, lessons: Sequence[Callable[[], Lesson]]) -> Losses:
        """One optimiser step; returns the loss and its parts, means over the micro-batches.

        Args:
            lessons: what loads each micro-batch, when it is its turn.
        """
        if self.plan.mask_due(step):
            self.update_masks(step)
        behind = self._hide_pruned() if self.revising(step) else None
        losses = [self.backward(load(), len(lessons)) for load in lessons]
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

    def backward(self, lesson: Lesson, parts: int) -> Losses:
        """Add the gradients of one of `parts` micro-batches; returns the loss and its parts."""
        terms = self.losses(lesson)
        torch.autograd.backward(terms["loss"] / parts)
        return {key: value.detach() for key, value in terms.items()}

    def losses(self, lesson: Lesson) -> Losses:
        """The loss of a micro-batch and its parts."""
        with autocast(self.device):
            return lesson(self.model)

    def _average_gradients(self, step: int) -> None:
        """The running average of |gradient|, by which the next masks are chosen."""
        if step >= self.plan.settled:
            return
        averages = list(self.gradients.values())
        now = torch._foreach_abs([_gradient(name, w) for name, w in self.weights.items()])
        torch._foreach_lerp_(averages, now, 1 - self.settings.gradient_decay if step else 1.0)

    def _update(self, step: int) -> None:
        s = self.settings
        if not self.revising(step):
            for name, w in self.weights.items():
                _gradient(name, w).masked_fill_(~self.keep[name], 0.0)
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

    def state(self) -> dict[str, Any]:
        """What the next steps depend on, for the resume file."""
        return {
            "model": self.model.tensors(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "gradients": self.gradients,
            "keep": self.keep,
            "shares": self.plan.shares,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the run that saved `state`."""
        with torch.no_grad():
            for name, tensor in self.model.tensors().items():
                tensor.copy_(state["model"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.gradients, self.keep = state["gradients"], state["keep"]
        self.plan = replace(self.plan, shares=state["shares"])

    def sparsity(self) -> float:
        """Zeros / prunable weights of the present masks."""
        kept = sum(int(keep.sum()) for keep in self.keep.values())
        return 1 - kept / sum(keep.numel() for keep in self.keep.values())


def _optimizers(model: Model, settings: RecoverSettings) -> list[torch.optim.Optimizer]:
    """AdamW; only the projections decay. With Muon, those with two axes are Muon's."""
    projections: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    decaying = {n for n, spec in model.matrices.items() if spec.role is Role.PROJECTION}
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
        flat = [p for p in projections if p.dim() == 2]
        muon = [torch.optim.Muon(flat, lr, decay, adjust_lr_fn="match_rms_adamw")]
        projections = [p for p in projections if p.dim() != 2]
    if projections:
        groups.append({"params": projections, "weight_decay": decay})
    fused = all(p.is_floating_point() for p in model.parameters())  # else some are complex
    return [*muon, torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=fused)]


def _gradient(name: str, parameter: torch.nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise no_gradient(name)
    return parameter.grad


def _copy_into(weights: Mapping[str, Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights.values(), values, strict=True):
            weight.copy_(value)
