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

from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import head_name, matrix_specs, tensor_shapes, weights_of
from ssmpress.graph.export import build
from ssmpress.pack.choose import matrix_format
from ssmpress.pack.frequent import MOST_ROWS, stored_errors
from ssmpress.pack.layouts import sections_of
from ssmpress.pack.matrix import PackedMatrix
from ssmpress.pack.model import PackedModel
from ssmpress.prune import dead_channels, mask
from ssmpress.prune.materials import material_of
from ssmpress.prune.one_shot import Scores, one_shot
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.prune import Method, Scope
from ssmpress.stages.packed import rows_to_correct
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import Source

PRUNED_WEIGHTS = 200_000_000
"""Of a model that is pruned for its plan. It takes as much memory as the start of recovery, and one
backward pass over 128 tokens."""

_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Estimate:
    """model: packed, but its matrices have no contents. graph_bytes: of model.onnx but for them."""

    model: PackedModel
    graph_bytes: int

    def bytes_of(self, name: str) -> int:
        """The bytes of a matrix, as its layout predicts them."""
        matrix = self.model.matrices[name]
        return matrix.layout.predicted_bytes(matrix.rows, matrix.columns, matrix.stored)

    @property
    def model_bytes(self) -> int:
        """The bytes of model.onnx."""
        return self.graph_bytes + sum(map(self.bytes_of, self.model.matrices))


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
    prunable = mask.prunable_names(weights_of(config), recipe.prune.prunable)
    matrices = {}
    for name, shape in shapes.items():
        if name not in specs:
            continue
        kept = stored.get(name, round((1 - sparsity * (name in prunable)) * prod(shape)))
        rows, columns = shape
        chosen, reason = matrix_format(
            specs[name],
            (rows, columns),
            kept,
            recipe.pack,
            recipe.target.machine,
            scores_tokens=name == head_name(config),
        )
        contents = dict.fromkeys(sections_of(chosen), _NOTHING)
        matrices[name] = PackedMatrix(chosen, rows, columns, kept, contents, reason)
    others = {name: np.zeros(s, np.float32) for name, s in shapes.items() if name not in specs}
    model = PackedModel(others, matrices, config)
    if (frequent := rows_to_correct(model, source)) is not None:
        ids = frequent[:MOST_ROWS]
        nothing = np.zeros((len(ids), matrices[model.head_name].columns), np.float32)
        model = replace(model, frequent=stored_errors(ids, nothing))
    return Estimate(model, ir.serde.serialize_model(build(model)).ByteSize())


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
    model = Mamba.from_checkpoint(source.checkpoint)
    names = mask.prunable_names(model, settings.prunable)
    material = material_of(source.task, source.calibration)
    keep = one_shot(model, names, material, little, sparsity, recipe.seed, scores=scores)
    tensors = dict(source.checkpoint.tensors)
    return tensors | {name: tensors[name] * keep[name] for name in names}
