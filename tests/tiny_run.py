"""A run of the whole flow within seconds: a random model of a few thousand weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from conftest import random_checkpoint, small_config
from paths import DEMO
from ssmpress.blocks.config import ModelConfig
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings

CONFIG = small_config(vocab_size=1024, n_layer=1)
"""The vocabulary of the demo's tokenizer."""


def tiny_recipe(
    folder: Path, config: ModelConfig = CONFIG, layout: str = "mamba-ssm", **changes: Any
) -> Recipe:
    """Compress the model in `folder`, which is written there, to `folder`/out."""
    model = folder / "model"
    if not model.is_dir():
        tensors = random_checkpoint(config).tensors
        write_checkpoint(config, tensors, model, layout, tokenizer=DEMO / "tokenizer.json")
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, 1700).astype(np.int32)
        np.save(folder / "calibration.npy", tokens[:600])
        np.save(folder / "evaluation.npy", tokens[600:])
    settings: dict[str, Any] = {
        "model": model,
        "out": folder / "out",
        "prune": PruneSettings(calibration_batches=1, calibration_window=16),
        "recover": RecoverSettings(steps=3, batch=2, window=16, checkpoint_seconds=0.0),
        "data": DataSettings(
            calibration=(folder / "calibration.npy",),
            evaluation=(folder / "evaluation.npy",),
            window=40,
        ),
        "gate": GateSettings(min_retention=None),
        "threads": 1,
    }
    return Recipe(**{**settings, **changes})
