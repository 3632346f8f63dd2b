"""Pruned weights: made with recovery, read from a checkpoint, saved as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ssmpress.blocks.config import ModelConfig
from ssmpress.callbacks import Note, Progress, silent
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.write import check_target, write_checkpoint
from ssmpress.files import blaming, replaced
from ssmpress.pack.csr import CSR_FOLDER, check_csr_target, write_csr
from ssmpress.prune.device import compute_device
from ssmpress.prune.distill import Teacher
from ssmpress.prune.one_shot import Scores
from ssmpress.prune.recover import PruneResult, prune_and_recover
from ssmpress.recipe.recipe import Recipe
from ssmpress.stages.network_source import NetworkSource
from ssmpress.stages.source import AnySource, Source
from ssmpress.stages.states import find_states, kept_states, states_note, without_states

NETWORK_WEIGHTS = "network.safetensors"
"""A pruned network's state dict in the folder of `--save-checkpoint`."""


@dataclass(frozen=True)
class Pruned:
    """tensors: float32 by canonical name, zeros where pruned. result: how it went.

    continued_from: sparsity of the model that recovery went on from; None is the unpruned one.
    config: sizes of a model that lost some of its state; None has those of its source.
    """

    tensors: Mapping[str, torch.Tensor]
    result: PruneResult
    continued_from: float | None = None
    config: ModelConfig | None = None

    def summary(self) -> dict[str, Any]:
        """Recovery, for the report."""
        r = self.result
        return {
            "steps": r.steps,
            "tokens": r.tokens,
            "seconds": round(r.seconds, 3),
            "device": r.device,
            "history": list(r.history),
            **r.end,
            "continued_from": self.continued_from,
        }


def prune_weights(
    recipe: Recipe,
    source: AnySource,
    progress: Progress = silent,
    *,
    note: Note = silent,
    work: Path | None = None,
    start: Pruned | None = None,
    scores: Scores | None = None,
) -> Pruned:
    """The pruned weights: one-shot, iteratively with recovery, or read from `recipe.pruned`.

    Args:
        note: called with what recovery plans, what ended it, and where it cannot be saved.
        work: folder where recovery saves itself, and from which the same call goes on, be it
            finished; None saves nothing.
        start: weights to prune further, taught by the unpruned model; None starts from that.
        scores: filled by the first one-shot run, used by the others.
    """
    if (given := given_pruned(recipe, source)) is not None:
        return given
    torch.set_num_threads(recipe.threads)
    name = None if work is None else recovery_name(recipe, source, start)
    smaller, teacher = source, None
    if start is not None:
        smaller = narrowed(source, start)
    elif recipe.prune.prune_state and isinstance(source, Source):
        find = partial(find_states, recipe, source, progress, scores)
        path = work / f".states-{name}.pt" if work is not None and recipe.trains else None
        smaller = without_states(source, kept_states(find, path, note))
        note(states_note(source.checkpoint.config, smaller.checkpoint.config))
    model = smaller.model(None if start is None else start.tensors)
    if recipe.trains and (smaller is not source or start is not None):
        teacher = Teacher(source.model().to(compute_device(recipe.recover.compute)))
    resume_file = None if work is None else work / f"{name}.pt"
    result = prune_and_recover(
        model,
        source.material(),
        recipe.prune,
        recipe.recover,
        seed=recipe.seed,
        progress=progress,
        note=note,
        resume_file=resume_file,
        teacher=teacher,
        scores=scores,
        quality=recipe.gate.quality(),
    )
    tensors = {name: t.cpu() for name, t in model.tensors().items()}
    return Pruned(tensors, result, config=_own_config(source, smaller))


def _own_config(source: AnySource, smaller: AnySource) -> ModelConfig | None:
    """`Pruned.config` of the weights of `smaller`, made from those of `source`."""
    if isinstance(source, NetworkSource) or isinstance(smaller, NetworkSource):
        return None
    config = smaller.checkpoint.config
    return None if config == source.checkpoint.config else config


def narrowed(source: AnySource, pruned: Pruned) -> AnySource:
    """The source of the pruned weights: with their sizes, where those differ."""
    if pruned.config is None or isinstance(source, NetworkSource):
        return source
    return source.of(pruned.config, pruned.tensors)


def given_pruned(recipe: Recipe, source: AnySource) -> Pruned | None:
    """The weights of `--pruned`; None where there are none, or where they were not read."""
    if source.pruned_tensors is None:
        return None
    result = PruneResult((), 0.0, 0, 0, f"read from {recipe.pruned}")
    config = None
    if isinstance(source, Source) and source.pruned is not None:
        own = source.pruned.config
        config = None if own == source.checkpoint.config else own
    return Pruned(source.pruned_tensors, result, config=config)


def save_checkpoint(source: AnySource, pruned: Pruned, folder: Path) -> None:
    """The pruned weights with their zeros, in each of the layouts, in a subfolder of its name; of
    a network as a state dict, `NETWORK_WEIGHTS`.

    The matrices also as CSR, for people who look at them.
    """
    source = narrowed(source, pruned)
    write_csr(source.weights.matrices, pruned.tensors, folder / CSR_FOLDER)
    if isinstance(source, NetworkSource):
        with blaming(folder), replaced(folder / NETWORK_WEIGHTS) as file:
            save_file({name: t.contiguous() for name, t in pruned.tensors.items()}, file.name)
        return
    for layout in dialects.that_can_say(source.checkpoint.config):
        write_checkpoint(
            source.checkpoint.config,
            pruned.tensors,
            folder / layout,
            layout,
            source.tokenizer,
            source.end_tokens,
        )


def check_save_checkpoint(folder: Path | None) -> None:
    """Whether `save_checkpoint` will be able to write there, as far as can be seen beforehand.

    Raises:
        BadInputError: a file is in the way, files of others are there, or it cannot be written.
    """
    if folder is not None:
        for dialect in dialects.DIALECTS:
            check_target(folder / dialect.NAME)
        check_csr_target(folder / CSR_FOLDER)


def recovery_name(recipe: Recipe, source: AnySource, start: Pruned | None = None) -> str:
    """A name for unfinished recovery, made of everything that decides the weights."""
    settings = recipe.to_dict()
    deciding = {key: settings[key] for key in ("prune", "recover", "seed", "threads", "weights_of")}
    if recipe.recover.steps is None:
        deciding["quality"] = recipe.gate.quality()
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    digest.update(json.dumps(source.hashes["dense"], sort_keys=True).encode())
    digest.update(source.task.digest(source.calibration))
    for tensor in start.tensors.values() if start else ():
        digest.update(tensor.numpy().tobytes())
    return f"recovery-{digest.hexdigest()[:24]}"
