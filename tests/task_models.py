"""A small classifier and a small forecaster, trained in seconds, with their data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import dense
import numpy as np
import torch
from lra.prepare import byte_tokenizer

from conftest import mamba1_config
from ssmpress.blocks.model import Mamba
from ssmpress.data.labelled import load_labelled
from ssmpress.data.series import load_series
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.formats import Values
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.tasks import Classification, Forecasting, Task

CLASSES = ("few", "many")
SIZES = {"d_model": 16, "n_layer": 2, "d_state": 4, "d_inner": 32, "dt_rank": 2}


def write_texts(path: Path, count: int, seed: int) -> None:
    """Random letters; the class says whether they have more a than b."""
    random = np.random.default_rng(seed)
    with path.open("w") as file:
        for i in range(count):
            many = i % 2
            odds = [0.3, 0.1] if many else [0.1, 0.3]
            letters = random.choice(
                list("abcd "), int(random.integers(20, 60)), p=[*odds, *[0.2] * 3]
            )
            row = {"text": "x" + "".join(letters), "label": CLASSES[many]}
            file.write(json.dumps(row) + "\n")


def write_series(path: Path, steps: int, seed: int) -> None:
    """Two waves with noise, beside a column that no model reads."""
    random = np.random.default_rng(seed)
    t = np.arange(steps) + int(random.integers(1000))
    columns = [50 + 10 * np.sin(t / 3), -3 + np.sin(t / 5 + 1)]
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["date", "load", "oil"])
        for i in range(steps):
            noisy = [float(c[i] * (1 + 0.02 * random.normal())) for c in columns]
            rows.writerow([f"2026-01-01 {i}", *noisy])


def train(task: Task, folder: Path, load: Any, vocab_size: int) -> Path:
    """A checkpoint that learned from train.* of the folder."""
    torch.manual_seed(0)
    model = Mamba(mamba1_config(vocab_size=vocab_size, task=task, **SIZES))
    dense.initialize(model)
    training = dense.Training(steps=150, batch=32, learning_rate=1e-2, checks=3)
    sign = 1 if isinstance(task, Classification) else -1
    name = "accuracy" if sign == 1 else "mse"
    samples = load("train")
    dense.train(model, [samples], samples, training, lambda line: None, lambda m: sign * m[name])
    tokenizer = folder / "tokenizer.json"
    dense.save(model, folder / "model", tokenizer if tokenizer.exists() else None)
    return folder / "model"


def make_classifier(folder: Path) -> Path:
    """The folder, now of model/, train.jsonl and test.jsonl."""
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    for seed, (part, count) in enumerate((("train", 400), ("test", 200))):
        write_texts(folder / f"{part}.jsonl", count, seed)
    task = Classification(classes=CLASSES, max_length=50)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    train(
        task,
        folder,
        lambda part: load_labelled([folder / f"{part}.jsonl"], tokenizer, task, 256),
        256,
    )
    return folder


def make_forecaster(folder: Path) -> Path:
    """The folder, now of model/, train.csv and test.csv."""
    for seed, (part, steps) in enumerate((("train", 500), ("test", 250))):
        write_series(folder / f"{part}.csv", steps, seed)
    task = Forecasting(
        lookback=24,
        horizon=8,
        variates=("load", "oil"),
        mean=(50.0, -3.0),
        std=(7.0, 0.7),
        patch=8,
        stride=8,
    )
    train(task, folder, lambda part: load_series([folder / f"{part}.csv"], task), 0)
    return folder


def recipe_of(folder: Path, out: Path, values: Values, **changes: Any) -> Recipe:
    """Half of the weights, 20 steps of recovery."""
    suffix = "jsonl" if (folder / "train.jsonl").exists() else "csv"
    files = DataSettings(
        calibration=(folder / f"train.{suffix}",), evaluation=(folder / f"test.{suffix}",)
    )
    settings: dict[str, Any] = {
        "model": folder / "model",
        "out": out,
        "prune": PruneSettings(sparsity=0.5),
        "recover": RecoverSettings(steps=20),
        "pack": PackSettings(values),
        "data": files,
        "gate": GateSettings(min_retention=0.5),
        "threads": 1,
    }
    return Recipe(**(settings | changes))
