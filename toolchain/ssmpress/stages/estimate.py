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
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
import torch

from ssmpress.blocks.tensors import head_name, weights_of
from ssmpress.graph.export import build
from ssmpress.pack.choose import matrix_format
from ssmpress.pack.frequent import MOST_ROWS, stored_errors
from ssmpress.pack.layouts import sections_of
from ssmpress.pack.matrix import PackedMatrix
from ssmpress.pack.model import PackedModel, PackedTensors, pack_tensors
from ssmpress.prune import dead_channels, mask
from ssmpress.prune.model import Weights
from ssmpress.prune.one_shot import Scores, one_shot
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.prune import Method, Scope
from ssmpress.stages.bundle import write_graph
from ssmpress.stages.network_source import NetworkSource
from ssmpress.stages.packed import rows_to_correct
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import AnySource

PRUNED_WEIGHTS = 200_000_000
"""Of a model that is pruned for its plan. It takes as much memory as the start of recovery, and one
backward pass over 128 tokens."""

_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Estimate:
    """model: packed; the matrices of a model of blocks have no contents. graph_bytes: of model.onnx
    but for them."""

    model: PackedTensors
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
    source: AnySource,
    pruned: Pruned | None,
    sparsity: float,
    scores: Scores | None = None,
) -> Estimate:
    """The model that `recipe` would make.

    Args:
        pruned: weights that are known; None: none are. sparsity: of the prunable weights.
        scores: of other points of a sweep, found and filled in if empty.
    """
    tensors: Mapping[str, torch.Tensor] = {}
    if pruned is not None:
        tensors = pruned.tensors
    elif 0 < sum(t.numel() for t in source.tensors.values()) <= PRUNED_WEIGHTS:
        tensors = _pruned_at_once(recipe, source, sparsity, scores)
    if isinstance(source, NetworkSource):
        return _of_network(recipe, source, tensors or source.tensors)
    config = source.checkpoint.config
    if tensors and not recipe.pack.keep_dead_channels:
        config, tensors = dead_channels.remove(config, tensors)
    packed = _packed(recipe, weights_of(config), tensors, sparsity, head_name(config))
    model = PackedModel(packed.tensors, packed.matrices, config)
    if (frequent := rows_to_correct(model, source)) is not None:
        ids = frequent[:MOST_ROWS]
        nothing = np.zeros((len(ids), model.matrices[model.head_name].columns), np.float32)
        model = replace(model, frequent=stored_errors(ids, nothing))
    return Estimate(model, ir.serde.serialize_model(build(model)).ByteSize())


def _of_network(
    recipe: Recipe, source: NetworkSource, tensors: Mapping[str, torch.Tensor]
) -> Estimate:
    """A network is packed and written, since the exporter shares constants that are equal."""
    packed = pack_tensors(source.weights.matrices, tensors, recipe.pack, recipe.target.machine)
    with TemporaryDirectory() as folder:
        written = write_graph(source, packed, Path(folder) / "model.onnx")
        size = sum(file.stat().st_size for file in written)
    return Estimate(packed, size - sum(map(packed.bytes_of, packed.matrices)))


def _packed(
    recipe: Recipe,
    weights: Weights,
    tensors: Mapping[str, torch.Tensor],
    sparsity: float,
    head: str | None = None,
) -> PackedTensors:
    """What packing makes of weights, without contents.

    Args:
        tensors: pruned; without them every prunable matrix loses `sparsity` of its own. head: the
            matrix that scores tokens.
    """
    shapes, specs = weights.shapes, weights.matrices
    stored = {name: int(torch.count_nonzero(t)) for name, t in tensors.items()}
    prunable = mask.prunable_names(weights, recipe.prune.prunable)
    matrices = {}
    for name, shape in shapes.items():
        if name not in specs:
            continue
        kept = stored.get(name, round((1 - sparsity * (name in prunable)) * prod(shape)))
        rows, columns = reversed(shape[:2]) if specs[name].transposed else shape[:2]
        chosen, reason = matrix_format(
            specs[name],
            (rows, columns),
            kept,
            recipe.pack,
            recipe.target.machine,
            scores_tokens=name == head,
        )
        contents = dict.fromkeys(sections_of(chosen), _NOTHING)
        matrices[name] = PackedMatrix(chosen, rows, columns, kept, contents, reason)
    others = {name: np.zeros(s, np.float32) for name, s in shapes.items() if name not in specs}
    return PackedTensors(others, matrices)


def _pruned_at_once(
    recipe: Recipe, source: AnySource, sparsity: float, scores: Scores | None
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
    model, material = source.model(), source.material()
    names = mask.prunable_names(model, settings.prunable)
    keep = one_shot(model, names, material, little, sparsity, recipe.seed, scores=scores)
    tensors = dict(source.tensors)
    return tensors | {name: tensors[name] * keep[name] for name in names}
