"""Masks from the unpruned weights and the calibration data alone: every method and scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor

from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import MatrixSpec
from ssmpress.callbacks import Progress
from ssmpress.errors import UsageError
from ssmpress.prune import baselines
from ssmpress.prune.mask import keep_masks, protect, zero_counts
from ssmpress.prune.material import CalibrationBatch, Material
from ssmpress.prune.model import Model
from ssmpress.prune.narrow import Kept
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.saliency import gradient_magnitude, magnitude, parameters_of
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope


def check_combination(
    specs: Mapping[str, MatrixSpec],
    names: tuple[str, ...],
    prune: PruneSettings,
    sparsity: float,
) -> None:
    """Refuse what cannot be done together. specs: of the model's matrices.

    Raises:
        UsageError: a method, scope, pattern, sparsity and components that do not fit.
    """
    pattern = Pattern.parse(prune.pattern)
    if pattern is not None:
        pattern.check_sparsity(sparsity)
        if turned := [name for name in names if specs[name].transposed]:
            raise UsageError(
                f"--pattern: expected matrices that are stored row by row; got {turned[0]}, which "
                "the network multiplies from the right (x @ W). Leave it out of --prunable, or "
                "prune without a pattern."
            )
        if prune.method is Method.SPARSEGPT:
            raise UsageError(
                f"--method sparsegpt is unstructured; got --pattern {prune.pattern}. "
                "Use --method gradient-magnitude for patterns."
            )
        if pattern.grouped and prune.scope is Scope.OWL:
            raise UsageError(
                f"--pattern {prune.pattern} fixes the sparsity of every row, --scope owl that of "
                "every layer. Choose one of them."
            )
    if prune.method in (Method.WANDA, Method.SPARSEGPT):
        baselines.check_inputs_known(specs, names, f"--method {prune.method}")
    if prune.scope is Scope.OWL:
        baselines.check_inputs_known(specs, names, "--scope owl")


def grams(
    model: Model,
    names: tuple[str, ...],
    batches: Sequence[CalibrationBatch],
    progress: Progress | None,
) -> dict[str, Tensor]:
    """name -> X^T X of the unpruned model's inputs. batches: on the model's device."""
    layers = baselines.layer_grams(_mamba(model), inputs_of(batches), progress)
    everything = {name: gram for _, layer in layers for name, gram in layer.items()}
    return {name: everything[name] for name in names}


@dataclass
class Scores:
    """What the unpruned model tells of its weights, the same for every sparsity: found once.

    by_weight: name -> float32, the lowest go; None until found. activations: name -> X^T X.
    states: what stays of its states, before the others are found; None until chosen, or where all
    of it stays.
    """

    by_weight: dict[str, Tensor] | None = None
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    states: tuple[Mapping[str, Kept], ...] | None = None


def one_shot(
    model: Model,
    names: tuple[str, ...],
    material: Material,
    prune: PruneSettings,
    sparsity: float,
    seed: int,
    progress: Progress | None = None,
    scores: Scores | None = None,
) -> dict[str, Tensor]:
    """Keep masks; SparseGPT also changes the weights it keeps.

    Args:
        scores: of this model with these settings at any sparsity; found and filled in if empty.
    """
    check_combination(model.matrices, names, prune, sparsity)
    batches = material.calibration(prune, seed, next(model.parameters()).device)
    if prune.method is Method.SPARSEGPT and prune.scope is Scope.LAYER:
        # Its own scores decide within each matrix: no pass over the dense model is needed.
        sizes = [w.numel() for w in parameters_of(model, names).values()]
        zeros = dict(zip(names, zero_counts(sizes, sparsity), strict=True))
        return baselines.sparsegpt(_mamba(model), names, inputs_of(batches), zeros, progress)
    known = scores or Scores()
    if known.by_weight is None:
        _find(known, model, names, batches, prune, progress)
    assert known.by_weight is not None
    shares = None
    if prune.scope is Scope.OWL:
        shares = baselines.owl_shares(
            model.matrices, baselines.wanda(model, names, known.activations), sparsity
        )
    limited = protect(known.by_weight, prune.matrix_limit)
    keep = keep_masks(limited, sparsity, prune.scope, Pattern.parse(prune.pattern), shares)
    if prune.method is Method.SPARSEGPT:
        zeros = {name: mask.numel() - int(mask.sum()) for name, mask in keep.items()}
        return baselines.sparsegpt(_mamba(model), names, inputs_of(batches), zeros, progress)
    return keep


def _mamba(model: Model) -> Mamba:
    """The model whose matrices' inputs are known: `check_combination` refuses others."""
    return cast(Mamba, model)


def inputs_of(batches: Sequence[CalibrationBatch]) -> list[Tensor]:
    """The inputs of batches of a `Mamba`."""
    return [batch.inputs for batch in batches if batch.inputs is not None]


def _find(
    scores: Scores,
    model: Model,
    names: tuple[str, ...],
    batches: Sequence[CalibrationBatch],
    prune: PruneSettings,
    progress: Progress | None,
) -> None:
    if prune.method in (Method.WANDA, Method.SPARSEGPT) or prune.scope is Scope.OWL:
        scores.activations = grams(model, names, batches, progress)
    scores.by_weight = _scores(model, names, batches, prune, scores.activations, progress)


def _scores(
    model: Model,
    names: tuple[str, ...],
    batches: Sequence[CalibrationBatch],
    prune: PruneSettings,
    activations: Mapping[str, Tensor],
    progress: Progress | None,
) -> dict[str, Tensor]:
    if prune.method is Method.MAGNITUDE:
        return magnitude(model, names)
    if prune.method is Method.GRADIENT_MAGNITUDE:
        return gradient_magnitude(model, names, batches, prune.alpha, progress)
    if prune.method is Method.WANDA:
        scores = baselines.wanda(model, names, activations)
        rows = prune.scope is not Scope.GLOBAL and prune.pattern == "unstructured"
        return baselines.within_rows(scores) if rows else scores
    weights = dict(model.named_parameters())
    scores = {}
    for name in names:
        diagonal = baselines.inverse_factor(activations[name]).diagonal()
        scores[name] = (weights[name].detach() / diagonal).square()
    return scores
