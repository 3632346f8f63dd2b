"""The published one-shot methods that look at activations: Wanda, SparseGPT, and OWL's budgets.

All three need, per projection, the Gram matrix of its inputs over the calibration tokens. They
walk the model layer by layer, so that one layer's inputs are held at a time, and run on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor

from ssmpress.blocks.model import Layer, Mamba, State
from ssmpress.blocks.projection import Projection
from ssmpress.blocks.tensors import MatrixSpec, Role
from ssmpress.callbacks import Progress
from ssmpress.errors import UsageError
from ssmpress.prune.mask import keep_masks, zero_counts
from ssmpress.prune.model import Model
from ssmpress.prune.saliency import parameters_of
from ssmpress.recipe.settings.prune import Scope

OWL_OUTLIER = 5.0  # an outlier's score is so many times the layer's mean
OWL_SPREAD = 0.08  # a layer's sparsity differs from the mean by at most this
DAMP = 0.01  # of the Hessian's mean diagonal, added to it
BLOCK_COLUMNS = 128  # columns whose errors are passed on together


def check_inputs_known(
    specs: Mapping[str, MatrixSpec], names: tuple[str, ...], method: str
) -> None:
    """Refuse what has no inputs to look at, or none that are known.

    Raises:
        UsageError: the embedding or the head is among the names, or the matrices are those of a
            network of one's own.
    """
    if others := [name for name in names if specs[name].role is not Role.PROJECTION]:
        raise UsageError(
            f"{method} prunes projections only; got {others[0]}. Leave it out of --prunable, "
            "or use --method magnitude."
        )
    if unknown := [name for name in names if not specs[name].input]:
        raise UsageError(
            f"{method} looks at the inputs of every matrix, which are known of Mamba checkpoints "
            f"only; got {unknown[0]} of a network. Use --method gradient-magnitude with --scope "
            "global or layer."
        )


@contextmanager
def _observed(
    model: Mamba, number: int, see: Callable[[str, Tensor], None]
) -> Iterator[dict[str, str]]:
    """Tell `see` of every input of the layer's projections, each once: what they really multiply.

    Yields:
        Name of a projection -> what its input is called.
    """
    specs = {name: s for name, s in model.matrices.items() if s.layer == number}
    modules = [model.get_submodule(name.removesuffix(".weight")) for name in specs]
    inputs = {name: spec.input for name, spec in specs.items()}
    told: set[str] = set()
    for module, word in zip(modules, inputs.values(), strict=True):
        assert isinstance(module, Projection)
        if word not in told:
            module.observer = partial(see, word)
        told.add(word)
    try:
        yield inputs
    finally:
        for module in modules:
            module.observer = None  # type: ignore[assignment]


def layer_grams(
    model: Mamba, inputs: Sequence[Tensor], progress: Progress | None = None
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The Gram matrices of a layer: name of a projection -> X^T X (columns, columns), float32.

    A layer that is changed before the next one is asked for passes on what it then computes.

    Args:
        inputs: batches as `Backbone.embed` takes them; each runs at once.
    """
    with torch.no_grad():
        streams = [model.backbone.embed(part) for part in inputs]
        states = State.zeros(model.config, max(map(len, streams)), streams[0].device).layers
        for number, layer in enumerate(model.backbone.layers):
            assert isinstance(layer, Layer)
            grams: dict[str, Tensor] = {}

            def add(word: str, x: Tensor, grams: dict[str, Tensor] = grams) -> None:
                rows = x.flatten(0, -2).float()
                grams[word] = grams.get(word, 0) + rows.T @ rows

            with _observed(model, number, add) as words:
                _run_layer(layer, streams, states[number])
            yield number, {name: grams[word] for name, word in words.items()}
            streams = _run_layer(layer, streams, states[number])
            if progress:
                progress("activations", number + 1, model.config.n_layer)


def _run_layer(layer: Layer, batches: list[Tensor], zeros: tuple[Tensor, ...]) -> list[Tensor]:
    return [layer(x, *(state[: len(x)] for state in zeros))[0] for x in batches]


def wanda(model: Model, names: tuple[str, ...], grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """S = |W_ij| ||X_j||_2, with the norm over the calibration tokens.

    Args:
        grams: name -> X^T X.

    Source: Sun et al., arXiv 2306.11695, equation 1.
    """
    return {
        name: w.detach().float().abs() * grams[name].diagonal().clamp_min(0).sqrt()
        for name, w in parameters_of(model, names).items()
    }


def within_rows(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each score's rank in its row, so that every row loses the same part: Wanda's groups."""
    return {
        name: s.argsort(dim=1, stable=True).argsort(dim=1).float() for name, s in scores.items()
    }


def owl_shares(
    specs: Mapping[str, MatrixSpec], scores: Mapping[str, Tensor], sparsity: float
) -> dict[str, float]:
    """Sparsity of each matrix: less for layers with more outliers, `sparsity` on average.

    Args:
        specs: of the model's matrices. scores: Wanda's.

    Source: Yin et al., arXiv 2310.05175, section 3.2, with M = 5 and lambda = 0.08.
    """
    layer_of = {name: spec.layer for name, spec in specs.items()}
    layers: dict[int | None, list[Tensor]] = {}
    for name, score in scores.items():
        layers.setdefault(layer_of[name], []).append(score.flatten())
    outliers = {}
    for layer, parts in layers.items():
        joined = torch.cat(parts)
        outliers[layer] = float((joined > OWL_OUTLIER * joined.mean()).float().mean())
    low, high = min(outliers.values()), max(outliers.values())
    scaled = {k: 2 * OWL_SPREAD * (v - low) / max(high - low, 1e-12) for k, v in outliers.items()}
    mean = sum(scaled.values()) / len(scaled)
    return {name: min(1.0, max(0.0, sparsity - (scaled[layer_of[name]] - mean))) for name in scores}


def sparsegpt(
    model: Mamba,
    names: tuple[str, ...],
    inputs: Sequence[Tensor],
    zeros: Mapping[str, int],
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Prune matrix by matrix and let the kept weights make up for it; the model is changed.

    Args:
        inputs: as in layer_grams, on the model's device. zeros: name -> weights to prune.

    Returns:
        The keep masks.

    Source: Frantar and Alistarh, arXiv 2301.00774, algorithm 1.
    """
    keep: dict[str, Tensor] = {}
    weights = parameters_of(model, names)
    for _, grams in layer_grams(model, inputs, progress):
        for name in (name for name in grams if name in weights):
            w = weights[name].detach()
            keep[name] = sparsegpt_matrix(w, grams[name], zeros[name])
    return {name: keep[name] for name in names}


def inverse_factor(gram: Tensor) -> Tensor:
    """Upper triangular U with Uᵀ U = (H + damp)^-1; dead inputs get a unit diagonal.

    H = R Rᵀ with R upper triangular, which is the Cholesky factor of H from its last row and column
    to its first, and U = R^-1. LAPACK's potrf and trtri take 92 ms for 1536 columns on one core;
    inverting H and factorising the inverse took 221, as accurately.
    """
    h = gram.double()
    diagonal = h.diagonal()
    diagonal[diagonal == 0] = 1.0
    h = h + DAMP * diagonal.mean() * torch.eye(len(h), dtype=h.dtype, device=h.device)
    reversed_h = np.asfortranarray(h.cpu().numpy()[::-1, ::-1])
    lower, failed = lapack.dpotrf(reversed_h, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError(f"minor {failed} of the Gram matrix is not positive")
    inverse, _ = lapack.dtrtri(lower, lower=1, overwrite_c=1)
    factor = torch.from_numpy(np.ascontiguousarray(inverse[::-1, ::-1]))
    return factor.float().to(gram.device)


def sparsegpt_matrix(w: Tensor, gram: Tensor, zeros: int) -> Tensor:
    """Algorithm 1 on one matrix, in place.

        score = w^2 / [H^-1]_jj^2,   error_j = (w_j - pruned w_j) / [H^-1]_jj
        w_k -= error_j [H^-1]_jk     for every later column k

    Args:
        w: float32 (rows, columns). gram: (columns, columns). zeros: weights to prune, exactly.

    Returns:
        bool (rows, columns), True = keep.
    """
    columns = w.shape[1]
    factor = inverse_factor(gram)
    blocks = [slice(i, min(i + BLOCK_COLUMNS, columns)) for i in range(0, columns, BLOCK_COLUMNS)]
    sizes = [w[:, block].numel() for block in blocks]
    counts = zero_counts(sizes, zeros / w.numel())
    keep = torch.ones_like(w, dtype=torch.bool)
    for block, count in zip(blocks, counts, strict=True):
        u = factor[block, block]
        scores = (w[:, block] / u.diagonal()).square()
        part = keep_masks({"": scores}, count / scores.numel(), Scope.LAYER)[""]
        keep[:, block] = part
        current, errors = w[:, block].clone(), torch.empty_like(scores)
        for j in range(current.shape[1]):
            column = current[:, j].clone()
            current[:, j] = column * part[:, j]
            errors[:, j] = (column - current[:, j]) / u[j, j]
            current[:, j + 1 :] -= errors[:, j : j + 1] * u[j, j + 1 :]
        w[:, block] = current
        w[:, block.stop :] -= errors @ factor[block, block.stop :]
    return keep
