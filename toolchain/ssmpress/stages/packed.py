"""The pruned weights packed: dead channels removed, each matrix in its format, the head rounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ssmpress.blocks.tensors import head_name
from ssmpress.callbacks import Progress, silent
from ssmpress.formats import Values
from ssmpress.pack.choose import BEYOND_FP16
from ssmpress.pack.frequent import frequent_rows
from ssmpress.pack.head_error import HEAD_TEXT, frequent_tokens, head_hessian
from ssmpress.pack.layout import Matrix
from ssmpress.pack.layouts import int4
from ssmpress.pack.model import PackedModel, PackedTensors, pack_model, pack_tensors
from ssmpress.prune import dead_channels, narrow
from ssmpress.recipe.recipe import Recipe
from ssmpress.stages.network_source import NetworkSource
from ssmpress.stages.pruned import Pruned, narrowed
from ssmpress.stages.source import AnySource, Source


def pack_weights(
    recipe: Recipe, source: AnySource, pruned: Pruned, progress: Progress = silent
) -> PackedTensors:
    """The packed model: each matrix in the format that suits it; without dead channels, if it is no
    network of the user's own.

    A 4-bit head is rounded to what costs least on the calibration text, and the errors of the rows
    that are used most often are kept; without text it is rounded to the nearest.
    """
    source = narrowed(source, pruned)
    if isinstance(source, NetworkSource):
        machine = recipe.target.machine
        return pack_tensors(source.weights.matrices, pruned.tensors, recipe.pack, machine)
    return _pack_model(recipe, source, pruned, progress)


def _pack_model(recipe: Recipe, source: Source, pruned: Pruned, progress: Progress) -> PackedModel:
    config = source.checkpoint.config
    rounding = {}
    name = head_name(config)
    if name is not None and name in pruned.tensors and len(source.calibration) > 1:
        rounding[name] = partial(_round_head, recipe, source, pruned, progress=progress)
    tensors: Mapping[str, torch.Tensor] = pruned.tensors
    if not recipe.pack.keep_dead_channels:
        config, tensors = dead_channels.remove(config, tensors)
    packed = pack_model(config, tensors, recipe.pack, rounding, recipe.target.machine)
    removed = narrow.removed_channels(source.checkpoint.config, config)
    packed = replace(packed, removed_channels=removed, end_tokens=source.end_tokens)
    rows = rows_to_correct(packed, source)
    return packed if rows is None else correct_rows(packed, tensors[packed.head_name].numpy(), rows)


def rows_to_correct(packed: PackedModel, source: Source) -> NDArray[np.int64] | None:
    """The rows of a 4-bit head that are used most often, by the calibration text; None of a head in
    another format, or without text."""
    head = packed.matrices.get(packed.head_name)
    if packed.config.outputs or head is None or len(source.calibration) <= 1:
        return None
    if head.format.values is not Values.INT4:
        return None
    return frequent_tokens(source.calibration[:HEAD_TEXT], packed.config.vocab_size)


def correct_rows(packed: PackedModel, weight: Matrix, rows: NDArray[np.int64]) -> PackedModel:
    """The model, with the rounding errors of `rows` of its head, which was packed from `weight`."""
    frequent = frequent_rows(weight, packed.matrices[packed.head_name], rows)
    return replace(packed, frequent=frequent)


def _round_head(
    recipe: Recipe, source: Source, pruned: Pruned, weight: Matrix, progress: Progress
) -> int4.Rounded:
    """The head in 4 bits; on the CPU wherever the training was, for the same bytes."""
    torch.set_num_threads(recipe.threads)
    model = source.model(pruned.tensors)
    hessian = head_hessian(model, source.calibration[:HEAD_TEXT], recipe.seed, progress)
    return int4.round_weights(weight, hessian, partial(progress, "rounding the head"))


def removed_channels(packed: PackedTensors) -> tuple[int, ...]:
    """Of each layer, those that no longer reached the output; a network's are not looked for."""
    return packed.removed_channels if isinstance(packed, PackedModel) else ()


def packing_note(packed: PackedTensors) -> str:
    """What was removed, and which formats were chosen; which matrices fp16 could not hold."""
    removed = sum(removed_channels(packed))
    gone = f"removed {removed:,} channels that no longer reach the output; " if removed else ""
    chosen = Counter(matrix.format.name for matrix in packed.matrices.values())
    formats = ", ".join(f"{count} x {name}" for name, count in chosen.most_common())
    reasons = {name: matrix.reason for name, matrix in packed.matrices.items()}
    beyond = {name: why for name, why in reasons.items() if why.endswith(BEYOND_FP16)}
    wide = "".join(f"; {name} is kept in float32: {why}" for name, why in beyond.items())
    return (
        f"{gone}packed to {packed.nbytes / 1e6:.2f} MB: {formats}, each the smallest that is not "
        f"slower (the report says why){wide}"
    )
