"""How large a bundle's model will be, before anything is trained or packed: for the plan.

The graph is built as a run builds it, around matrices without contents; those are as many bytes as
their layouts predict for the zeros that they will have. Those are known with `--pruned`; elsewhere
the weights are pruned at once, by a little of the calibration text, as far as that takes seconds;
of larger models every matrix is taken to lose the same part.

Measured on models that are pruned at once: within 2 % as int8 (tests/test_plan.py); as fp16 up to
6 %, where a matrix is near the density at which its format changes. Recovery leaves more channels
without use, and those are removed: what was trained is smaller than this, the demo by 10 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx_ir as ir
import torch

from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import matrix_specs, tensor_shapes
from ssmpress.formats import Format, Structure, Values
from ssmpress.graph.export import build
from ssmpress.pack.choose import matrix_format
from ssmpress.pack.frequent import FrequentRows
from ssmpress.pack.head_error import HEAD_TEXT, frequent_tokens
from ssmpress.pack.layouts import LAYOUTS, sections_of
from ssmpress.pack.matrix import PackedMatrix, pack
from ssmpress.pack.model import PackedModel
from ssmpress.prune import dead_channels, mask
from ssmpress.prune.materials import material_of
from ssmpress.prune.one_shot import Scores, one_shot
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.prune import Method, Scope
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import Source

PRUNED_WEIGHTS = 200_000_000
"""Of a model that is pruned for its plan. It takes as much memory as the start of recovery, and one
backward pass over 128 tokens."""

_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Estimate:
    """model: packed, but its matrices have no contents. bytes_of: of each matrix, as predicted.
    graph_bytes: of all the rest of model.onnx."""

    model: PackedModel
    bytes_of: Mapping[str, int]
    graph_bytes: int

    @property
    def model_bytes(self) -> int:
        """The bytes of model.onnx."""
        return self.graph_bytes + sum(self.bytes_of.values())


def estimate(
    recipe: Recipe,
    source: Source,
    pruned: Pruned | None,
    sparsity: float,
    scores: Scores | None = None,
) -> Estimate:
    """The model that `recipe` would make.

    Args:
        pruned: weights that are known; None: none are. sparsity: of the prunable weights.
        scores: of other points of a sweep, found and filled in if empty.
    """
    config, stored = source.checkpoint.config, dict[str, int]()
    tensors: Mapping[str, torch.Tensor] = {}
    if pruned is not None:
        tensors = pruned.tensors
    elif 0 < sum(t.numel() for t in source.checkpoint.tensors.values()) <= PRUNED_WEIGHTS:
        tensors = _pruned_at_once(recipe, source, sparsity, scores)
    if tensors:
        if not recipe.pack.keep_dead_channels:
            config, tensors = dead_channels.remove(config, tensors)
        stored = {name: int(torch.count_nonzero(t)) for name, t in tensors.items()}
    shapes, specs = tensor_shapes(config), matrix_specs(config)
    prunable = mask.prunable_names(config, recipe.prune.prunable)
    matrices, sizes = {}, {}
    for name, shape in shapes.items():
        if name not in specs:
            continue
        kept = stored.get(name, round((1 - sparsity * (name in prunable)) * prod(shape)))
        rows, columns = shape
        chosen, reason = matrix_format(
            config, name, (rows, columns), kept, recipe.pack, recipe.target.machine
        )
        contents = dict.fromkeys(sections_of(chosen), _NOTHING)
        matrices[name] = PackedMatrix(chosen, rows, columns, kept, contents, reason)
        sizes[name] = LAYOUTS[chosen].predicted_bytes(rows, columns, kept)
    others = {name: np.zeros(s, np.float32) for name, s in shapes.items() if name not in specs}
    model = PackedModel(config, others, matrices)
    model = PackedModel(config, others, matrices, _frequent(model, source, config))
    graph = ir.serde.serialize_model(build(model))
    return Estimate(model, sizes, graph.ByteSize())


def _pruned_at_once(
    recipe: Recipe, source: Source, sparsity: float, scores: Scores | None
) -> dict[str, torch.Tensor]:
    """The weights with about the zeros that the run leaves: by its own rule on little text, or by
    magnitude where its rule takes minutes."""
    torch.set_num_threads(recipe.threads)
    settings = recipe.prune
    gradient = settings.method is Method.GRADIENT_MAGNITUDE
    little = replace(
        settings,
        method=settings.method if gradient else Method.MAGNITUDE,
        scope=Scope.LAYER if settings.scope is Scope.OWL else settings.scope,
        calibration_batches=1,
        calibration_batch=2,
        calibration_window=min(settings.calibration_window, 64),
    )
    names = mask.prunable_names(source.checkpoint.config, settings.prunable)
    model = Mamba.from_checkpoint(source.checkpoint)
    material = material_of(source.task, source.calibration)
    keep = one_shot(model, names, material, little, sparsity, recipe.seed, scores=scores)
    tensors = dict(source.checkpoint.tensors)
    return tensors | {name: tensors[name] * keep[name] for name in names}


def _frequent(model: PackedModel, source: Source, config: ModelConfig) -> FrequentRows | None:
    """Corrected rows, as many as a 4-bit head gets, all zeros."""
    head = model.matrices.get(model.head_name)
    read = source.calibration
    if config.outputs or head is None or head.format.values is not Values.INT4 or len(read) <= 1:
        return None
    ids = frequent_tokens(read[:HEAD_TEXT], config.vocab_size)[: np.iinfo(np.int16).max]
    errors = np.zeros((len(ids) + 1, head.columns), np.float32)
    int8 = Format(Structure.DENSE, Values.INT8)
    return FrequentRows(ids, pack(errors, np.ones(errors.shape, bool), int8))
