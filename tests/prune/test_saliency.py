"""Scores of the methods against their definitions, and what cannot be combined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import random_checkpoint, small_config
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import matrix_specs, weights_of
from ssmpress.errors import BadInputError, UsageError
from ssmpress.prune import baselines
from ssmpress.prune.mask import apply_masks, prunable_names, zero_counts
from ssmpress.prune.material import CalibrationBatch
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.materials.text import window_batch
from ssmpress.prune.one_shot import grams, one_shot
from ssmpress.prune.saliency import gradient_magnitude, magnitude, mean_gradient_magnitude
from ssmpress.recipe.settings.prune import PROJECTIONS, Method, PruneSettings, Scope

CONFIG = small_config()
NAMES = prunable_names(weights_of(CONFIG), PROJECTIONS)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 4000).astype(np.uint16)
SETTINGS = PruneSettings(calibration_batches=3, calibration_batch=2, calibration_window=16)


def model() -> Mamba:
    return Mamba.from_checkpoint(random_checkpoint(CONFIG))


MATERIAL = TextMaterial(TOKENS)


def windows(count: int = 3) -> torch.Tensor:
    return torch.from_numpy(TOKENS[: count * 32].astype(np.int64)).view(count, 2, 16)


def batches(count: int = 3) -> list[CalibrationBatch]:
    return [window_batch(tokens) for tokens in windows(count)]


def test_gradient_magnitude_is_the_mean_of_absolute_gradients() -> None:
    mamba, alpha = model(), 0.5
    expected = {name: torch.zeros_like(w) for name, w in magnitude(mamba, NAMES).items()}
    weights = dict(mamba.named_parameters())
    for tokens in windows():
        mamba.zero_grad()
        logits = mamba.logits(tokens)
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        for name in NAMES:
            expected[name] += weights[name].grad.abs() / 3
    mamba.zero_grad()
    scores = gradient_magnitude(mamba, NAMES, batches(), alpha)
    ratios = [
        scores[name] / (weights[name].detach().abs() * expected[name].pow(alpha)).clamp_min(1e-20)
        for name in NAMES
    ]
    # one common factor, which changes no order
    assert float(torch.cat([r.flatten() for r in ratios]).std()) < 1e-4 * float(ratios[0].mean())
    assert all(w.grad is None for w in weights.values())


def test_inverse_factor_is_that_of_the_damped_gram_matrix():
    x = torch.randn(300, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 7] = 0  # a dead input
    gram = (
        x.T
        @ x
        * torch.logspace(-3, 3, 70, dtype=torch.float64).outer(
            torch.logspace(-3, 3, 70, dtype=torch.float64)
        )
    )
    h = gram.clone()
    h[7, 7] = 1
    h += baselines.DAMP * h.diagonal().mean() * torch.eye(70)
    factor = baselines.inverse_factor(gram).double()
    assert bool((factor.tril(-1) == 0).all()) and bool((factor.diagonal() > 0).all())
    # float32 results: 2^-24 of each of 70 terms of a row of the product.
    torch.testing.assert_close(
        factor @ h @ factor.T, torch.eye(70, dtype=torch.float64), rtol=0, atol=1e-4
    )


def test_alpha_zero_is_magnitude() -> None:
    mamba = model()
    scores = gradient_magnitude(mamba, NAMES, batches(), alpha=0.0)
    assert all(torch.equal(scores[name], w) for name, w in magnitude(mamba, NAMES).items())


def test_calibration_needs_a_batch() -> None:
    with pytest.raises(BadInputError, match="at least one batch"):
        mean_gradient_magnitude(model(), NAMES, [])


def test_grams_are_of_the_inputs_of_the_projections() -> None:
    mamba = model()
    found = grams(mamba, NAMES, batches(2), None)
    tokens = windows(2).flatten(0, 1)
    with torch.no_grad():
        x = mamba.backbone.layers[0].norm(mamba.backbone.embedding(tokens)).flatten(0, 1)
    gram = found["backbone.layers.0.mixer.in_proj.weight"]
    torch.testing.assert_close(gram, x.T @ x, rtol=1e-4, atol=1e-3)
    for name in NAMES:
        assert found[name].shape == (mamba.tensors()[name].shape[1],) * 2


def test_wanda_prunes_every_row_alike() -> None:
    keep = one_shot(
        model(),
        NAMES,
        MATERIAL,
        replace(SETTINGS, method=Method.WANDA, scope=Scope.LAYER),
        0.6,
        seed=0,
    )
    for mask in keep.values():
        kept = mask.sum(1)
        assert int(kept.max() - kept.min()) <= 1


def test_owl_leaves_more_to_layers_with_outliers() -> None:
    calm = torch.rand(50, 40)
    wild = calm.clone()
    wild[:, :2] *= 100
    scores = {f"backbone.layers.{i}.mixer.in_proj.weight": s for i, s in enumerate((calm, wild))}
    shares = baselines.owl_shares(matrix_specs(CONFIG), scores, 0.7)
    low, high = sorted(shares.values())
    assert shares["backbone.layers.1.mixer.in_proj.weight"] == low
    assert high - low == pytest.approx(2 * baselines.OWL_SPREAD)
    assert (low + high) / 2 == pytest.approx(0.7)


@pytest.mark.parametrize("block", [8, 128])
def test_sparsegpt_loses_less_than_its_own_mask_without_the_update(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "BLOCK_COLUMNS", block)
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(24, 24, generator=generator)
    x = torch.randn(500, 24, generator=generator) @ mixing  # correlated inputs
    w = torch.randn(10, 24, generator=generator)
    updated = w.clone()
    keep = baselines.sparsegpt_matrix(updated, x.T @ x, zeros=120)
    assert int((~keep).sum()) == 120
    assert bool((updated[~keep] == 0).all())
    with_update = (x @ (updated - w).T).norm()
    without = (x @ (w * keep - w).T).norm()
    assert with_update < 0.95 * without


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("scope", Scope)
def test_every_method_and_scope_prunes_exactly(method: Method, scope: Scope) -> None:
    mamba = model()
    settings = replace(SETTINGS, method=method, scope=scope)
    keep = one_shot(mamba, NAMES, MATERIAL, settings, 0.7, seed=0)
    total = sum(mask.numel() for mask in keep.values())
    assert sum(int((~mask).sum()) for mask in keep.values()) == round(0.7 * total)
    apply_masks(dict(mamba.named_parameters()), keep)
    with torch.no_grad():
        assert bool(torch.isfinite(mamba.logits(windows()[0])).all())
    if scope is Scope.LAYER:
        counts = [int((~mask).sum()) for mask in keep.values()]
        assert counts == zero_counts([mask.numel() for mask in keep.values()], 0.7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": Method.SPARSEGPT, "pattern": "block 2x1"}, "sparsegpt is unstructured"),
        ({"scope": Scope.OWL, "pattern": "1:2"}, "Choose one of them"),
        ({"method": Method.WANDA, "prunable": ("embedding",)}, "prunes projections only"),
        ({"scope": Scope.OWL, "prunable": ("embedding",)}, "--scope owl prunes projections only"),
        ({"pattern": "1:4"}, "always has sparsity 0.75"),
    ],
)
def test_what_cannot_be_combined_is_refused(changes: dict[str, object], message: str) -> None:
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    names = prunable_names(weights_of(CONFIG), settings.prunable)
    with pytest.raises(UsageError, match=message):
        one_shot(model(), names, MATERIAL, settings, 0.5, seed=0)
