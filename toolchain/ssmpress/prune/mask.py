"""Which weights stay: keep masks (True = keep) from scores, with an exact number of zeros.

Sparsity is zeros / prunable weights; the sparsity of the whole model is always told beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod
from operator import mul
from typing import Any

import torch
from torch import Tensor

from ssmpress.blocks.tensors import Role
from ssmpress.errors import UsageError
from ssmpress.prune.model import Weights
from ssmpress.prune.pattern import Pattern
from ssmpress.recipe.settings.prune import MAX_SPARSITY, PROJECTIONS, Scope, SparsityOf
from ssmpress.recipe.suggest import did_you_mean

MOST_LISTED = 24
"""Choices that a message lists: a network of one's own may have hundreds of names."""


class NotFiniteError(ValueError):
    """A score of a weight is NaN or infinite."""


def prunable_names(weights: Weights, words: Iterable[str]) -> tuple[str, ...]:
    """Names of the matrices that `words` ask for, in the model's order.

    A tied head is the embedding: asking for either gives the embedding, once.

    Args:
        words: components of the model's own, such as `in_proj`; names of parameters; patterns of
            either, such as `encoder.*`; "projections" stands for all that its layers have.

    Raises:
        UsageError: a word that names no matrix of the model, or what cannot be pruned.
    """
    wanted = {name for word in words for name in _named(weights, word)}
    if not any(spec.prunable for spec in weights.matrices.values()):
        raise UsageError(
            "--sparsity: expected a model with weights to prune, such as linear layers or 1x1 "
            "convolutions; got one without. Without them there is nothing to compress."
        )
    if not wanted:
        raise UsageError(
            f"--prunable: expected at least one of {_listed(_components(weights))}; got none."
        )
    return tuple(name for name in weights.matrices if name in wanted)


def _named(weights: Weights, word: str) -> list[str]:
    """The matrices that one word of `--prunable` asks for."""
    specs = {name: spec for name, spec in weights.matrices.items() if spec.prunable}
    if word in PROJECTIONS:
        return [name for name, spec in specs.items() if spec.role is Role.PROJECTION]
    if word == Role.LM_HEAD and _head_is_tied(weights):
        word = Role.EMBEDDING
    found = [n for n, spec in specs.items() if fnmatchcase(spec.component, word) or n == word]
    found = found or [name for name in specs if fnmatchcase(name, word)]
    choices = _components(weights)
    if found or word in choices:
        return found
    reason = weights.never_pruned.get(word) or _no_matrix(weights, word)
    if reason:
        raise UsageError(
            f"--prunable: expected names from {_listed(choices)}; {word} cannot be pruned: "
            f"{reason}."
        )
    hint = did_you_mean(word, (*choices, *PROJECTIONS, *specs))
    raise UsageError(f"--prunable: expected names from {_listed(choices)}; got {word!r}.{hint}")


def _components(weights: Weights) -> list[str]:
    """What people call the matrices that may be pruned: those of the layers, then the ends."""
    specs = weights.matrices.values()
    layers = dict.fromkeys(spec.component for spec in specs if spec.role is Role.PROJECTION)
    has_ends = any(spec.role is not Role.PROJECTION for spec in specs)
    return [*layers, *([str(Role.EMBEDDING), str(Role.LM_HEAD)] if has_ends else [])]


def _head_is_tied(weights: Weights) -> bool:
    """Whether the embedding scores the tokens too: no other matrix is at the end."""
    roles = {spec.role for spec in weights.matrices.values()}
    return Role.EMBEDDING in roles and not roles & {Role.LM_HEAD, Role.TASK}


def _no_matrix(weights: Weights, word: str) -> str:
    """Why a parameter's name, or its last part, names nothing that can be pruned, or ""."""
    others = [name for name in weights.shapes if name not in weights.matrices]
    if any(word in (name, name.rpartition(".")[2]) for name in others):
        return "it is no matrix that an input is multiplied with"
    return ""


def _listed(choices: Sequence[str]) -> str:
    """The first of the choices, and how many more there are."""
    rest = len(choices) - MOST_LISTED
    return ", ".join(choices[:MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def resolve_sparsity(
    weights: Weights, words: Sequence[str], sparsity: float, sparsity_of: SparsityOf
) -> float:
    """The sparsity of the prunable weights that `sparsity` of `sparsity_of` needs.

    Raises:
        UsageError: more zeros than MAX_SPARSITY of the prunable weights; names the highest value.
    """
    if sparsity_of is SparsityOf.PRUNABLE:
        return sparsity
    shapes = weights.shapes
    names = prunable_names(weights, words)
    part = sum(prod(shapes[name]) for name in names) / sum(map(prod, shapes.values()))
    if sparsity > MAX_SPARSITY * part:
        highest = int(MAX_SPARSITY * part * 1000) / 1000
        raise UsageError(
            f"--sparsity {sparsity} --sparsity-of model: {', '.join(words)} are {part:.1%} of "
            f"the model, so the highest possible is {highest}. Lower it, or prune more components."
        )
    return sparsity / part


def keep_masks(
    scores: Mapping[str, Tensor],
    sparsity: float,
    scope: Scope = Scope.GLOBAL,
    pattern: Pattern | None = None,
    shares: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Prune the lowest scores: exactly round(sparsity * number of scores) of them.

    Ties are broken by position: of equal scores the first in checkpoint order goes first. With a
    pattern, blocks or groups take the place of single weights.

    Args:
        scores: name -> float (rows, columns) or (rows, columns, 1[, 1]), finite, all on one device.
        sparsity: zeros / weights, 0 .. 1.
        scope: one threshold over all of them, or one in each matrix by itself (counts then differ
            by at most one from sparsity * size and still add up exactly).
        pattern: None is unstructured.
        shares: name -> sparsity that a matrix has relative to the others, for Scope.OWL; None is
            the same for all.

    Returns:
        name -> bool, True = keep.

    Raises:
        NotFiniteError: a score is NaN or infinite.
        UsageError: the pattern does not fit the shapes or the sparsity.
    """
    _check_finite(scores)
    return _keep(scores, sparsity, scope, pattern, shares)


def tighten(
    keep: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    sparsity: float,
    scope: Scope = Scope.GLOBAL,
    pattern: Pattern | None = None,
    shares: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """`keep_masks` where what is already pruned stays pruned: masks only grow.

    The number of zeros is exact unless more than that are pruned already.
    """
    _check_finite(scores)
    lowest = {name: scores[name].masked_fill(~keep[name], -torch.inf) for name in scores}
    tighter = _keep(lowest, sparsity, scope, pattern, shares)
    return {name: tighter[name] & keep[name] for name in tighter}


def _check_finite(scores: Mapping[str, Tensor]) -> None:
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise NotFiniteError(f"{name}: expected finite scores; got NaN or infinity.")


def _keep(
    scores: Mapping[str, Tensor],
    sparsity: float,
    scope: Scope,
    pattern: Pattern | None,
    shares: Mapping[str, float] | None,
) -> dict[str, Tensor]:
    if pattern is None:
        return _keep_highest(scores, sparsity, scope, shares)
    matrices = {name: score.flatten(1) for name, score in scores.items()}
    units = {name: pattern.units(name, score) for name, score in matrices.items()}
    if pattern.grouped:
        kept = {name: pattern.keep_in_groups(score, sparsity) for name, score in matrices.items()}
    else:
        units = _keep_highest(units, sparsity, scope, shares)
        kept = {name: pattern.expand(keep) for name, keep in units.items()}
    return {name: keep.view_as(scores[name]) for name, keep in kept.items()}


def _keep_highest(
    scores: Mapping[str, Tensor],
    sparsity: float,
    scope: Scope,
    shares: Mapping[str, float] | None,
) -> dict[str, Tensor]:
    names, sizes = list(scores), [score.numel() for score in scores.values()]
    flat = [score.reshape(-1) for score in scores.values()]
    if scope is Scope.GLOBAL:
        kept = _drop_lowest(torch.cat(flat), round(sparsity * sum(sizes)))
        parts = [part.clone() for part in torch.split(kept, sizes)]
    else:
        zeros = zero_counts(sizes, sparsity, [shares[name] for name in names] if shares else None)
        parts = [_drop_lowest(score, count) for score, count in zip(flat, zeros, strict=True)]
    return {name: part.view_as(scores[name]) for name, part in zip(names, parts, strict=True)}


def zero_counts(
    sizes: Sequence[int], sparsity: float, shares: Sequence[float] | None = None
) -> list[int]:
    """Zeros per matrix, rounded so that the total is exactly round(sparsity * total).

    Args:
        sizes: weights per matrix. sparsity: of all of them together.
        shares: sparsity of each matrix relative to the others; a matrix cannot lose more than all.
    """
    shares = shares or [1.0] * len(sizes)
    mean = sum(map(mul, sizes, shares)) / max(1, sum(sizes))
    exact = [
        min(size, size * share * sparsity / mean) for size, share in zip(sizes, shares, strict=True)
    ]
    zeros = [int(wanted) for wanted in exact]
    missing = round(sparsity * sum(sizes)) - sum(zeros)
    order = sorted(range(len(sizes)), key=lambda i: zeros[i] - exact[i])
    while missing > 0:
        for i in order:
            if missing > 0 and zeros[i] < sizes[i]:
                zeros[i] += 1
                missing -= 1
    return zeros


def _drop_lowest(flat: Tensor, count: int) -> Tensor:
    """False at the `count` lowest values, the first positions first among equals."""
    if count <= 0:
        return torch.ones_like(flat, dtype=torch.bool)
    # kthvalue is the faster one on a CPU, and runs as a single block on a GPU
    threshold = flat.sort().values[count - 1] if flat.is_cuda else flat.kthvalue(count).values
    keep = flat > threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    spared = flat.numel() - count - int(keep.sum())
    keep[ties[len(ties) - spared :]] = True
    return keep


def protect(scores: Mapping[str, Tensor], limit: float) -> dict[str, Tensor]:
    """Raise the highest scores of each matrix, so that none loses more than `limit` of its weights.

    Args:
        limit: 0 .. 1; 1 changes nothing. It must exceed the sparsity that is then asked for.
    """
    if limit >= 1:
        return dict(scores)
    highest = torch.stack([score.max() for score in scores.values()]).max()
    raised = {}
    for name, score in scores.items():
        flat = score.reshape(-1).clone()
        flat[flat.topk(flat.numel() - int(limit * flat.numel())).indices] = highest
        raised[name] = flat.view_as(score)
    return raised


def apply_masks(tensors: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> None:
    """Write zeros where `keep` is False, in place (also over NaN or negative zero)."""
    with torch.no_grad():
        for name, mask in keep.items():
            tensors[name].masked_fill_(~mask, 0.0)


def sparsity_summary(weights: Weights, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sparsity of the prunable weights, the model, each component, each layer and both.

    Args:
        tensors: the prunable weights by name, or their keep masks: what is zero or False is gone.

    Returns:
        {"prunable": s, "model": s, "by_component": {component: s}, "by_layer": [s per layer],
        "matrix": [{component: s} per layer]}, each s = zeros / weights.
    """
    specs = weights.matrices
    counts = {
        name: (t.numel() - int(torch.count_nonzero(t)), t.numel()) for name, t in tensors.items()
    }
    zeros = sum(zero for zero, _ in counts.values())
    by_component: dict[str, list[tuple[int, int]]] = {}
    layers = 1 + max((s.layer for s in specs.values() if s.layer is not None), default=-1)
    matrix: list[dict[str, list[tuple[int, int]]]] = [{} for _ in range(layers)]
    for name, count in counts.items():
        component, layer = specs[name].component, specs[name].layer
        by_component.setdefault(component, []).append(count)
        if layer is not None:
            matrix[layer].setdefault(component, []).append(count)
    return {
        "prunable": _ratio(list(counts.values())),
        "model": zeros / sum(map(prod, weights.shapes.values())),
        "by_component": {name: _ratio(some) for name, some in by_component.items()},
        "by_layer": [_ratio([one for some in row.values() for one in some]) for row in matrix],
        "matrix": [{name: _ratio(some) for name, some in row.items()} for row in matrix],
    }


def _ratio(counts: list[tuple[int, int]]) -> float:
    return sum(zero for zero, _ in counts) / max(1, sum(total for _, total in counts))
