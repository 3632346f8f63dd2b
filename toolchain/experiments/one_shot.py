"""Every one-shot method x scope x sparsity on one model: perplexity without any recovery.

    PYTHONPATH=toolchain python toolchain/experiments/one_shot.py --model mamba-31m \\
        --train wiki_000.xz --valid valid.detok.txt --test test.detok.txt --out build/wikitext

Writes OUT/one_shot.json. Nothing is chosen from it, so the test text is measured.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from wikitext import Bench, open_bench, parse, perplexity

from ssmpress.blocks.model import Mamba
from ssmpress.prune import baselines
from ssmpress.prune.device import device_name
from ssmpress.prune.mask import apply_masks, keep_masks, prunable_names, sparsity_summary
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.one_shot import grams, inputs_of
from ssmpress.prune.saliency import combine, magnitude, mean_gradient_magnitude
from ssmpress.recipe.settings.prune import PROJECTIONS, Method, PruneSettings, Scope

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass
class Measured:
    """What all rows share: computed once from the dense model."""

    names: tuple[str, ...]
    windows: list[Tensor]
    scores: dict[Method, dict[str, Tensor]]
    wanda: dict[str, Tensor]


def measure(model: Mamba, bench: Bench) -> Measured:
    """Scores of every method."""
    names = prunable_names(model, PROJECTIONS)
    batches = TextMaterial(bench.train).calibration(PruneSettings(), 0, bench.device)
    windows = inputs_of(batches)
    activations = grams(model, names, batches, None)
    gradients = mean_gradient_magnitude(model, names, batches)
    weights, wanda = magnitude(model, names), baselines.wanda(model, names, activations)
    sparsegpt = {
        name: (w / baselines.inverse_factor(activations[name]).diagonal()).square()
        for name, w in weights.items()
    }
    scores = {
        Method.MAGNITUDE: weights,
        Method.GRADIENT_MAGNITUDE: combine(weights, gradients, 1.0),
        Method.WANDA: wanda,
        Method.SPARSEGPT: sparsegpt,
    }
    return Measured(names, windows, scores, wanda)


def row(bench: Bench, measured: Measured, method: Method, scope: Scope, sparsity: float) -> Any:
    """One row of the table."""
    model, start = bench.load(), time.monotonic()
    shares = None
    if scope is Scope.OWL:
        shares = baselines.owl_shares(model.matrices, measured.wanda, sparsity)
    scores = measured.scores[method]
    if method is Method.WANDA and scope is not Scope.GLOBAL:
        scores = baselines.within_rows(scores)
    keep = keep_masks(scores, sparsity, scope, None, shares)
    if method is Method.SPARSEGPT:
        zeros = {name: mask.numel() - int(mask.sum()) for name, mask in keep.items()}
        keep = baselines.sparsegpt(model, measured.names, measured.windows, zeros)
    else:
        apply_masks(dict(model.named_parameters()), keep)
    summary = sparsity_summary(model, keep)
    text = bench.valid if bench.test is None else bench.test
    return {
        "method": method,
        "scope": scope,
        "sparsity": sparsity,
        "model_sparsity": round(summary["model"], 4),
        "perplexity": round(perplexity(model, text, bench.window), 3),
        "by_component": {name: round(s, 4) for name, s in summary["by_component"].items()},
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> None:
    """Measure all rows; the file is written anew after each, so that a stopped run keeps them."""
    bench = open_bench(parse())
    bench.out.mkdir(parents=True, exist_ok=True)
    measured = measure(bench.load(), bench)
    result: dict[str, Any] = {
        "device": device_name(bench.device),
        "torch": torch.__version__,
        "dense": bench.quality(bench.teacher.model, test=True),
        "rows": [],
    }
    for sparsity in SPARSITIES:
        for method in Method:
            for scope in Scope:
                result["rows"].append(row(bench, measured, method, scope, sparsity))
                print(json.dumps(result["rows"][-1]), flush=True)
                (bench.out / "one_shot.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
