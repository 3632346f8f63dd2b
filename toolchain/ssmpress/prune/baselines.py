"""The published one-shot methods that look at activations: Wanda, SparseGPT, and OWL's budgets.

All three need, per projection, the Gram matrix of its inputs over the calibration tokens. They
walk the model layer by layer, so that one layer's inputs are held at a time, and run on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ssmpress.blocks.model import Layer, Mamba, State
from ssmpress.callbacks import Progress
from ssmpress.errors import UsageError
from ssmpress.prune.mask import component_of, keep_masks, layer_of, zero_counts
from ssmpress.prune.saliency import parameters_of
from ssmpress.recipe.settings import PROJECTIONS, Scope

OWL_OUTLIER = 5.0  # an outlier's score is so many times the layer's mean
OWL_SPREAD = 0.08  # a layer's sparsity differs from the mean by at most this
DAMP = 0.01  # of the Hessian's mean diagonal, added to it
BLOCK_COLUMNS = 128  # columns whose errors are passed on together


def check_projections(names: tuple[str, ...], method: str) -> None:
    """Refuse what has no inputs to look at.

    Raises:
        UsageError: the embedding or the head is among the names.
    """
    if others := [name for name in names if component_of(name) not in PROJECTIONS]:
        raise UsageError(
            f"{method} prunes projections only; got {others[0]}. Leave it out of --prunable, "
            "or use --method magnitude."
        )


@contextmanager
def _inputs(layer: Layer) -> Iterator[dict[str, Tensor]]:
    """Inputs (tokens, columns) of the four projections, filled by running the layer."""
    found: dict[str, Tensor] = {}
    mixer = layer.mixer

    def keep_input(component: str) -> Any:
        def hook(module: object, args: tuple[Tensor, ...]) -> None:
            found[component] = args[0].detach().flatten(0, -2).float()

        return hook

    def keep_delta(module: object, args: object, output: Tensor) -> None:
        found["dt_proj"] = output.detach()[..., : mixer.dt_rank].flatten(0, -2).float()

    handles = [
        getattr(mixer, component).register_forward_pre_hook(keep_input(component))
        for component in ("in_proj", "x_proj", "out_proj")
    ]
    handles.append(mixer.x_proj.register_forward_hook(keep_delta))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _run_layer(layer: Layer, batches: list[Tensor], state: State) -> list[Tensor]:
    return [layer(x, state.conv[0][: len(x)], state.scan[0][: len(x)])[0] for x in batches]


def layer_grams(
    model: Mamba, inputs: Sequence[Tensor], progress: Progress | None = None
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """For each layer, component -> X^T X (columns, columns) of its inputs, float32.

    A layer that is changed before the next one is asked for passes on what it then computes.

    Args:
        inputs: batches as `Backbone.embed` takes them; each runs at once.
    """
    with torch.no_grad():
        streams = [model.backbone.embed(part) for part in inputs]
        state = State.zeros(model.config, max(map(len, streams)), streams[0].device)
        for number, layer in enumerate(model.backbone.layers):
            assert isinstance(layer, Layer)
            grams: dict[str, Tensor] = {}
            for x in streams:
                with _inputs(layer) as seen:
                    _run_layer(layer, [x], state)
                for component, rows in seen.items():
                    grams[component] = grams.get(component, 0) + rows.T @ rows
            yield number, grams
            streams = _run_layer(layer, streams, state)
            if progress:
                progress("activations", number + 1, model.config.n_layer)


def wanda(model: Mamba, names: tuple[str, ...], grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def owl_shares(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
    """Sparsity of each matrix: less for layers with more outliers, `sparsity` on average.

    Args:
        scores: Wanda's.

    Source: Yin et al., arXiv 2310.05175, section 3.2, with M = 5 and lambda = 0.08.
    """
    layers: dict[int | None, list[Tensor]] = {}
    for name, score in scores.items():
        layers.setdefault(layer_of(name), []).append(score.flatten())
    outliers = {}
    for layer, parts in layers.items():
        joined = torch.cat(parts)
        outliers[layer] = float((joined > OWL_OUTLIER * joined.mean()).float().mean())
    low, high = min(outliers.values()), max(outliers.values())
    scaled = {k: 2 * OWL_SPREAD * (v - low) / max(high - low, 1e-12) for k, v in outliers.items()}
    mean = sum(scaled.values()) / len(scaled)
    return {name: min(1.0, max(0.0, sparsity - (scaled[layer_of(name)] - mean))) for name in scores}


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
    for number, grams in layer_grams(model, inputs, progress):
        for name in (name for name in names if layer_of(name) == number):
            w = weights[name].detach()
            keep[name] = sparsegpt_matrix(w, grams[component_of(name)], zeros[name])
    return {name: keep[name] for name in names}


def inverse_factor(gram: Tensor) -> Tensor:
    """Upper Cholesky factor of (H + damp)^-1; dead inputs get a unit diagonal."""
    h = gram.double()
    diagonal = h.diagonal()
    diagonal[diagonal == 0] = 1.0
    h = h + DAMP * diagonal.mean() * torch.eye(len(h), dtype=h.dtype, device=h.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


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
