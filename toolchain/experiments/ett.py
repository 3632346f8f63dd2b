"""Train a Mamba forecaster on ETT, prune it with recovery, and measure both beside a linear model.

    PYTHONPATH=toolchain:toolchain/experiments python toolchain/experiments/ett.py \\
        --data ETT-small.zip --set ETTh1 --out build/ett

12 months train, 4 validate and 4 test (a month is 30 days), z-scored by the training part; lookback
96, horizon 96; the error is over every window of the test part. Minutes of two cores.

OUT/ETTh1-s0/ has the checkpoints dense, 50, 70 and 90 for `compress`, OUT/ETTh1-s0.json what was
measured, and OUT/ETTh1-{train,valid,test}.csv the parts in the file's own units:

    compress build/ett/ETTh1-s0/dense --pruned build/ett/ETTh1-s0/70 \\
        --calibration build/ett/ETTh1-train.csv --evaluation build/ett/ETTh1-test.csv

Source: Zhou et al., arXiv 2012.07436 (the data and its split); the sizes are this recipe's own.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
import zipfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dense
import numpy as np
import torch
from numpy.typing import NDArray

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.model import Mamba
from ssmpress.data.series import SeriesWindows, read_csv, scaled
from ssmpress.errors import BadInputError
from ssmpress.prune import batches
from ssmpress.prune.distill import Teacher
from ssmpress.prune.mask import prunable_names, sparsity_summary
from ssmpress.prune.materials import material_of
from ssmpress.prune.recover import prune_and_recover
from ssmpress.recipe.settings.prune import PROJECTIONS, PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.tasks import Forecasting

SETS = ("ETTh1", "ETTh2", "ETTm1", "ETTm2")
LOOKBACK = HORIZON = 96
MONTHS = (12, 4, 4)
MONTH_STEPS = {"h": 30 * 24, "m": 30 * 24 * 4}
PARTS = ("train", "valid", "test")
RIDGE = 1e-3
"""Of the mean diagonal, added to the linear model's normal equations."""


@dataclass(frozen=True)
class Settings:
    """Sizes and training of one set. Small states: the lookback is a few tokens long."""

    training: dense.Training
    d_model: int = 64
    n_layer: int = 2
    d_state: int = 4
    patch: int = 16
    stride: int = 16
    recover_epochs: float = 3.0
    recover_rate: float = 5e-4
    distill: float = 0.5


_TRAINING = dense.Training(
    epochs=6, seconds=900, batch=32, learning_rate=1e-3, dropout=0.2, checks=16
)
SETTINGS = {
    "ETTh1": Settings(_TRAINING),
    "ETTh2": Settings(replace(_TRAINING, epochs=4, dropout=0.3)),
    "ETTm1": Settings(replace(_TRAINING, epochs=2)),
    "ETTm2": Settings(replace(_TRAINING, epochs=2)),
}
"""Found in few runs; the sets by the quarter of an hour are four times as long."""


@dataclass(frozen=True)
class Series:
    """One set. raw: its three parts in the file's units; the last two begin LOOKBACK steps early,
    so that their first window forecasts their first step."""

    name: str
    heading: list[str]
    raw: dict[str, NDArray[np.float64]]

    def task(self, settings: Settings) -> Forecasting:
        """The task of a model for this set."""
        train = self.raw["train"]
        return Forecasting(
            lookback=LOOKBACK,
            horizon=HORIZON,
            variates=tuple(self.heading),
            mean=tuple(map(float, train.mean(0))),
            std=tuple(map(float, train.std(0))),
            patch=settings.patch,
            stride=settings.stride,
        )

    def windows(self, part: str, task: Forecasting) -> SeriesWindows:
        """Every window of a part, z-scored."""
        return SeriesWindows(scaled(self.raw[part], task), LOOKBACK, HORIZON)


def read_series(data: Path, name: str) -> Series:
    """A set from the public zip, or from NAME.csv in a folder."""
    file = data / f"{name}.csv"
    if data.suffix == ".zip":
        with zipfile.ZipFile(data) as archive:
            inside = [n for n in archive.namelist() if n.endswith(f"/{name}.csv")]
            if len(inside) != 1:
                raise BadInputError(f"{data}: expected one {name}.csv in it; got {len(inside)}.")
            text = archive.read(inside[0]).decode()
        rows = list(csv.reader(io.StringIO(text)))
        heading = rows[0][1:]
        values = np.array([row[1:] for row in rows[1:]], float)
    else:
        heading, values = read_csv(file)
    ends = np.cumsum(MONTHS) * MONTH_STEPS[name[3]]
    if len(values) < ends[-1]:
        raise BadInputError(f"{data}: {name}: expected {ends[-1]:,} rows; got {len(values):,}.")
    starts = (0, ends[0] - LOOKBACK, ends[1] - LOOKBACK)
    parts = zip(PARTS, starts, ends, strict=True)
    return Series(name, heading, {part: values[start:end] for part, start, end in parts})


def linear_baseline(series: Series, task: Forecasting) -> dict[str, float]:
    """One linear map for all variates, from the lookback less its last value; least squares.

    Source: NLinear of Zeng et al., arXiv 2205.13504, solved in closed form with a small ridge.
    """

    def rows(part: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
        windows = series.windows(part, task)
        inputs, targets, _ = windows.arrays(np.arange(windows.count))
        last = inputs[:, -1:]
        flat = [
            x.transpose(0, 2, 1).reshape(-1, x.shape[1]).astype(np.float64)
            for x in (inputs - last, targets - last)
        ]
        return np.concatenate([flat[0], np.ones((len(flat[0]), 1))], 1), flat[1], last

    x, y, _ = rows("train")
    gram = x.T @ x
    weights = np.linalg.solve(
        gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y
    )
    x, y, _ = rows("test")
    difference = x @ weights - y
    return {"mse": float((difference**2).mean()), "mae": float(np.abs(difference).mean())}


@dataclass
class Bench:
    """What all parts of one run share."""

    series: Series
    settings: Settings
    out: Path
    seed: int

    def __post_init__(self) -> None:
        self.run = f"{self.series.name}-s{self.seed}"
        self.task = self.series.task(self.settings)
        self.log = dense.logger(self.out / f"{self.run}.log", self.run)
        self.result: dict[str, Any] = {"linear": linear_baseline(self.series, self.task)}

    def windows(self, part: str) -> SeriesWindows:
        """Every window of a part."""
        return self.series.windows(part, self.task)

    def keep(self, name: str, model: Mamba, metrics: dict[str, Any]) -> None:
        """Save a part's weights and its row; the test part is read here alone."""
        dense.round_to_half(model)
        metrics["test"] = batches.metric(model, self.windows("test"), 256)
        metrics["valid"] = batches.metric(model, self.windows("valid"), 256)
        dense.save(model, self.out / self.run / name)
        self.result[name] = metrics
        dense.write_json(self.out / f"{self.run}.json", self.result)
        self.log({"part": name, "test": metrics["test"], "valid": metrics["valid"]})


def train_dense(bench: Bench) -> Mamba:
    """The dense model, from nothing."""
    s = bench.settings
    training = replace(s.training, seed=bench.seed)
    torch.manual_seed(bench.seed)
    mixer = Mamba1Config(d_inner=2 * s.d_model, d_state=s.d_state, dt_rank=-(-s.d_model // 16))
    layers = (LayerConfig(mixer=mixer),) * s.n_layer
    config = ModelConfig(d_model=s.d_model, vocab_size=0, layers=layers, task=bench.task)
    model = Mamba(config)
    dense.initialize(model)
    best = dense.train(
        model,
        [bench.windows("train")],
        bench.windows("valid"),
        training,
        bench.log,
        lambda metrics: -metrics["mse"],
    )
    best |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "settings": asdict(s) | {"training": asdict(training)},
    }
    bench.keep("dense", model, best)
    return model


def prune(bench: Bench, model: Mamba, teacher: Teacher, percent: int) -> None:
    """Prune the model on, in place, and let the dense one teach."""
    s, windows = bench.settings, bench.windows("train")
    batch = s.training.batch
    recover = RecoverSettings(
        steps=round(s.recover_epochs * windows.count / batch),
        batch=batch,
        learning_rate=s.recover_rate,
        distill=s.distill,
        ramp=0.4,
        weight_decay=s.training.weight_decay,
    )
    started = time.monotonic()
    result = prune_and_recover(
        model,
        material_of(model.config.task, windows),
        PruneSettings(sparsity=percent / 100),
        recover,
        seed=bench.seed,
        teacher=teacher,
    )
    names = prunable_names(model, PROJECTIONS)
    weights = {name: w for name, w in model.tensors().items() if name in names}
    summary = sparsity_summary(model, weights)
    bench.keep(
        str(percent),
        model,
        {
            "steps": result.steps,
            "seconds": round(time.monotonic() - started, 1),
            "sparsity": {key: summary[key] for key in ("prunable", "model", "by_component")},
            "recover": asdict(recover),
        },
    )


def write_parts(series: Series, out: Path) -> None:
    """The parts as CSV files, for `compress`."""
    out.mkdir(parents=True, exist_ok=True)
    for part, values in series.raw.items():
        with (out / f"{series.name}-{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(series.heading)
            writer.writerows(values.tolist())


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="ETT-small.zip, or a folder")
    parser.add_argument("--set", choices=SETS, default="ETTh1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sparsities", type=int, nargs="*", default=[50, 70, 90])
    for name in ("d_model", "n_layer", "d_state", "patch", "stride"):
        parser.add_argument("--" + name.replace("_", "-"), type=int)
    parser.add_argument("--recover-epochs", type=float)
    parser.add_argument("--steps", type=int, help="of dense training, instead of epochs")
    for name in ("epochs", "learning_rate", "dropout", "batch", "weight_decay"):
        kind = int if name == "batch" else float
        parser.add_argument("--" + name.replace("_", "-"), type=kind)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, prune, measure."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)

    def changes(*names: str) -> dict[str, Any]:
        return {
            name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None
        }

    settings = SETTINGS[arguments.set]
    training = replace(
        settings.training,
        **changes("steps", "epochs", "learning_rate", "dropout", "batch", "weight_decay"),
    )
    sizes = changes("d_model", "n_layer", "d_state", "patch", "stride", "recover_epochs")
    series = read_series(arguments.data, arguments.set)
    write_parts(series, arguments.out)
    bench = Bench(
        series, replace(settings, training=training, **sizes), arguments.out, arguments.seed
    )
    bench.log({"linear": bench.result["linear"]})
    model = train_dense(bench)
    teacher = Teacher(deepcopy(model))
    for percent in arguments.sparsities:
        prune(bench, model, teacher, percent)


if __name__ == "__main__":
    main()
