"""The model without the part of its state that `--prune-state` takes, before weights are pruned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import torch

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.tensors import layer_states
from ssmpress.callbacks import Note, Progress, silent
from ssmpress.errors import WriteError
from ssmpress.prune import resume
from ssmpress.prune.device import compute_device
from ssmpress.prune.narrow import narrow
from ssmpress.prune.one_shot import Scores
from ssmpress.prune.states import States, choose_states, fewer_states
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.prune import Method, Scope
from ssmpress.results.sizes import LayerState
from ssmpress.stages.source import Source


def without_states(source: Source, kept: States) -> Source:
    """The source of the smaller model."""
    return source.of(*narrow(source.checkpoint.config, source.tensors, kept))


def planned(recipe: Recipe, source: Source) -> Source:
    """The source that a run would prune: about its sizes, and weights if they were read; a cheaper
    rule chooses which of the states stay, as many in each layer."""
    settings = recipe.prune
    if not settings.prune_state:
        return source
    if not source.tensors:
        return source.of(fewer_states(source.checkpoint.config, settings.prune_state), {})
    by_magnitude = replace(settings, method=Method.MAGNITUDE, scope=Scope.LAYER)
    states = choose_states(source.model(), source.material(), by_magnitude, recipe.seed)
    return without_states(source, states)


def find_states(
    recipe: Recipe,
    source: Source,
    progress: Progress = silent,
    scores: Scores | None = None,
) -> States:
    """What stays of the states, by the calibration data; the same for every sparsity.

    Args:
        scores: of this model; filled in if empty.
    """
    scores = scores or Scores()
    if scores.states is None:
        torch.set_num_threads(recipe.threads)
        model = source.model().to(compute_device(recipe.recover.compute))
        material = source.material()
        scores.states = choose_states(model, material, recipe.prune, recipe.seed, progress)
    return scores.states


def kept_states(find: Callable[[], States], path: Path | None, note: Note) -> States:
    """What an earlier process of the same run found, or what `find` finds now, kept in a file.

    On a GPU a choice between nearly equal scores may not repeat itself, and recovery could not go
    on with another one.

    Args:
        path: named after the run; None keeps nothing. note: told where it cannot be kept, which
            does not end the run.
    """
    if path is None:
        return find()
    if (saved := resume.load(path, path.name, torch.device("cpu"))) is not None:
        return tuple(saved["states"])
    states = find()
    try:
        resume.save(path, {"fingerprint": path.name, "states": list(states)})
    except WriteError as error:
        note(str(error))
    return states


def states_note(dense: ModelConfig, left: ModelConfig) -> str:
    """How many numbers of the state stay in every layer that has some."""
    states = compared_states(dense, left)
    before, after = (
        [getattr(s, key) for s in states if s.numbers is not None]
        for key in ("dense_numbers", "numbers")
    )
    return (
        f"state: {sum(after):,} of {sum(before):,} numbers stay, layer by layer "
        f"{', '.join(map(str, after))}"
    )


def compared_states(dense: ModelConfig, left: ModelConfig) -> tuple[LayerState, ...]:
    """The states of every layer of a model, and of what is left of it."""
    return tuple(
        LayerState(number, _numbers(before), _numbers(after), _bytes(before), _bytes(after))
        for number, (before, after) in enumerate(zip(dense.layers, left.layers, strict=True))
    )


def _numbers(layer: LayerConfig) -> int | None:
    """States per channel of the layer's part that has such."""
    for part in layer.parts():
        if (axis := part.block.state_axis) is not None:
            count: int = getattr(part.block, axis.size)
            return count // axis.groups
    return None


def _bytes(layer: LayerConfig) -> int:
    return sum(4 * prod(state.shape_at(1, tokens=1)) for state in layer_states(layer, 0))
