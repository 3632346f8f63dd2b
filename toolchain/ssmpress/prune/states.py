"""The state of a layer as a component: some of its numbers are removed, those that matter least.

    score of number i   sum over tokens t of (B_it dL/dB_it)^2 + (C_it dL/dC_it)^2

The products are what the loss changes by, to first order, if nothing were written to the number, or
read from it, at that token. Squares, since a sum of signed changes cancels and is a guess about a
large change. What is left is a smaller model: `narrow` takes rows of B and C, their convolution,
columns of A and the state itself, wherever an axis has the name that the block gives
(`BlockConfig.state_axis`). Each number adds its own term to the outputs of its layer, so that
nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.facts import StateAxis, whole_groups
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import layer_name, tensor_specs
from ssmpress.callbacks import Progress
from ssmpress.errors import BadInputError, UsageError
from ssmpress.prune.material import CalibrationBatch, Material
from ssmpress.prune.narrow import Kept, narrow
from ssmpress.prune.saliency import magnitude
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope

States = tuple[Mapping[str, Kept], ...]
"""What stays of every layer's state, by part: as `narrow` takes it."""


@dataclass(frozen=True)
class PrunableState:
    """The state of a part of a layer.

    count: numbers of it, of all groups. weights: canonical name -> the axis of the tensor that has
    a place for each number, and where on it they begin, once for each time that they stand there.
    """

    layer: int
    part: str
    axis: StateAxis
    count: int
    weights: Mapping[str, tuple[int, tuple[int, ...]]]

    @property
    def each(self) -> int:
        """Numbers of a group."""
        return self.count // self.axis.groups

    def kept(self, numbers: Tensor) -> Kept:
        """As `narrow` takes it. numbers: int64 (groups, n), those that stay in each group."""
        return {self.axis.size: whole_groups(numbers, self.each)}


def prunable_states(config: ModelConfig) -> tuple[PrunableState, ...]:
    """Every state of a model that may be pruned, from the first layer to the last.

    Raises:
        UsageError: there is none.
    """
    found = tuple(_states(config))
    if not found:
        raise UsageError(
            f"--prune-state: expected a model with a state that may be pruned, Mamba-1's or "
            f"Mamba-2's; got {config.title}. Leave it out."
        )
    return found


def _states(config: ModelConfig) -> Iterator[PrunableState]:
    specs = tensor_specs(config)
    for number, layer in enumerate(config.layers):
        for part in layer.parts():
            if (axis := part.block.state_axis) is None:
                continue
            weights = {}
            names = [layer_name(number, f"{part.name}.{own}") for own in part.block.tensors()]
            for name in (name for name in names if name in specs):
                for place, sizes in enumerate(specs[name].axes):
                    begins = [
                        sum(map(specs[name].size, sizes[:i]))
                        for i, size in enumerate(sizes)
                        if size == axis.size
                    ]
                    if begins:
                        weights[name] = place, tuple(begins)
            count = getattr(part.block, axis.size)
            yield PrunableState(number, part.name, axis, count, weights)


def left_of(each: int, part: float) -> int:
    """How many of `each` numbers stay where `part` of them goes: one at least."""
    return max(1, each - round(part * each))


def choose_states(
    model: Mamba,
    material: Material,
    prune: PruneSettings,
    seed: int,
    progress: Progress | None = None,
) -> States:
    """What stays of the states when `prune.prune_state` of them goes.

    `--method magnitude` scores by magnitude; all others by gradient. With `--scope global` layers
    are compared with each other, else each loses the same part.

    Raises:
        UsageError: the model has no such state.
    """
    states = prunable_states(model.config)
    if prune.method is Method.MAGNITUDE:
        names = tuple(name for state in states for name in state.weights)
        weights = magnitude(model, names)
        scores = [magnitude_of(state, weights) for state in states]
    else:
        batches = material.calibration(prune, seed, next(model.parameters()).device)
        scores = score_states(model, batches, progress)
    return keep_highest(model.config, scores, prune.prune_state, prune.scope)


def score_states(
    model: Mamba, batches: Sequence[CalibrationBatch], progress: Progress | None = None
) -> list[Tensor]:
    """The scores above, of each of `prunable_states`: float64 (groups, numbers), on the CPU.

    Raises:
        BadInputError: one is not finite.
    """
    states = prunable_states(model.config)
    layers = model.backbone.layers
    modules = [getattr(layers[state.layer], state.part) for state in states]
    totals = [torch.zeros(state.axis.groups, state.each, dtype=torch.float64) for state in states]
    for number, batch in enumerate(batches, 1):
        seen: list[Tensor] = []
        loss = _observed(modules, seen, partial(batch.loss, model))
        changes = [
            (value.detach().double() * gradient.double()).square()
            for value, gradient in zip(seen, torch.autograd.grad(loss, seen), strict=True)
        ]
        for total, pair in zip(totals, zip(changes[::2], changes[1::2], strict=True), strict=True):
            for change in pair:
                total += change.reshape(-1, *total.shape).sum(0).cpu()
        if progress:
            progress("states", number, len(batches))
    if not all(bool(torch.isfinite(total).all()) for total in totals):
        raise BadInputError(
            "--prune-state: expected finite gradients on the calibration data; got NaN or "
            "infinity. Check that the tokenizer is the model's and the text is of its kind."
        )
    return totals


def _observed(modules: Sequence[Any], seen: list[Tensor], loss: Callable[[], Tensor]) -> Tensor:
    """The loss; every B and C of the modules on the way to it goes into `seen`, in their order."""
    for module in modules:
        module.observer = lambda *written_and_read: seen.extend(written_and_read)
    try:
        return loss()
    finally:
        for module in modules:
            module.observer = None


def magnitude_of(state: PrunableState, by_weight: Mapping[str, Tensor]) -> Tensor:
    """Sum of the weights that write or read each number of a state, float (groups, numbers).

    Args:
        by_weight: |w| of the weights that `state.weights` names.
    """
    total = torch.zeros(state.count)
    for name, (place, begins) in state.weights.items():
        along = by_weight[name].movedim(place, 0)
        of_axis = along.reshape(len(along), -1).sum(1).cpu()
        for begin in begins:
            total += of_axis[begin : begin + state.count]
    return total.reshape(state.axis.groups, -1)


def keep_highest(
    config: ModelConfig, scores: Sequence[Tensor], part: float, scope: Scope = Scope.LAYER
) -> States:
    """Without `part` of the numbers, those with the lowest scores; one at least stays.

    Groups of a layer stay equal: the lowest of each go together, by the mean of their scores.

    Args:
        scores: of each of `prunable_states`, float (groups, numbers of each).
    """
    states = prunable_states(config)
    counts = [left_of(state.each, part) for state in states]
    if scope is Scope.GLOBAL:
        counts = _left_of_all([score.sort(dim=1).values.mean(0) for score in scores], part)
    kept: list[dict[str, Kept]] = [{} for _ in config.layers]
    for state, score, count in zip(states, scores, counts, strict=True):
        order = score.argsort(dim=1, descending=True, stable=True)
        kept[state.layer][state.part] = state.kept(order[:, :count].sort(dim=1).values)
    return tuple(kept)


def _left_of_all(ascending: Sequence[Tensor], part: float) -> list[int]:
    """How many stay of each state, where one threshold decides. ascending: scores of each."""
    sizes = [len(score) for score in ascending]
    gone = min(round(part * sum(sizes)), sum(sizes) - len(sizes))
    lower = torch.cat([score[:-1] for score in ascending])  # the highest of each stays
    owner = torch.cat([torch.full((size - 1,), i) for i, size in enumerate(sizes)])
    lost = owner[lower.argsort(stable=True)[:gone]].bincount(minlength=len(sizes))
    return [size - int(fewer) for size, fewer in zip(sizes, lost, strict=True)]


def fewer_states(config: ModelConfig, part: float) -> ModelConfig:
    """The sizes of the model if every layer loses `part` of its state, whichever numbers those are:
    as many weights as a run leaves where layers are alike.

    Raises:
        UsageError: the model has no such state.
    """
    if part == 0:
        return config
    scores = [torch.zeros(state.axis.groups, state.each) for state in prunable_states(config)]
    return narrow(config, {}, keep_highest(config, scores, part))[0]


def has_lost_states(config: ModelConfig, other: ModelConfig) -> bool:
    """Whether `other` is this model but for numbers of its states that are gone."""
    if len(config.layers) != len(other.layers):
        return False
    kept: list[dict[str, Kept]] = [{} for _ in config.layers]
    for state in _states(config):
        block = getattr(other.layers[state.layer], state.part)
        left = getattr(block, state.axis.size, 0) // state.axis.groups
        if not 1 <= left <= state.each:
            return False
        if left < state.each:
            numbers = torch.arange(left).expand(state.axis.groups, -1)
            kept[state.layer][state.part] = state.kept(numbers)
    return narrow(config, {}, kept)[0] == other
