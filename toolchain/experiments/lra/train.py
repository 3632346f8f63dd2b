"""Train a dense Mamba on a task of Long Range Arena, prune it with recovery, and measure both.

    PYTHONPATH=toolchain:toolchain/experiments python -m lra.train listops \\
        --data build/lra/listops --out build/lra/out

Data that is not there yet is made by lra.prepare first; Text takes its public files, --train and
--test. Every part is written as soon as it is done, and a part that is
there is not done again: OUT/TASK-sN/{dense,50,70,90} are checkpoints for `compress`,
OUT/TASK-sN.json has the test accuracies, and OUT/TASK-sN.log the progress. Sparsities follow one
another: the 70 % model starts from the 50 % one; the dense model teaches all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dense
import numpy as np
import torch
from lra import prepare
from lra.tracing import TraceHead
from numpy.typing import NDArray

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.data.labelled import LabelledTexts, load_labelled
from ssmpress.prune import batches
from ssmpress.prune.device import device_name
from ssmpress.prune.distill import Teacher
from ssmpress.prune.mask import prunable_names, sparsity_summary
from ssmpress.prune.materials import material_of
from ssmpress.prune.recover import prune_and_recover
from ssmpress.recipe.settings.prune import PROJECTIONS, PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.tasks import Classification
from ssmpress.tasks.block import read_block

CHECK_TEXTS = 2000
"""Texts of the validation part that a check during training looks at."""


@dataclass(frozen=True)
class Settings:
    """Sizes and training of one task. stages: easier parts that training begins with."""

    d_model: int
    n_layer: int
    vocab_size: int
    training: dense.Training
    stages: tuple[str, ...] = ()
    recover_rate: float = 1e-3
    recover_batch: int = 128
    recover_steps: int = 700
    distill: float = 0.7


SETTINGS = {
    "listops": Settings(
        d_model=128,
        n_layer=6,
        vocab_size=16,
        training=dense.Training(batch=128, learning_rate=1.5e-3, steps=7900),
    ),
    "text": Settings(
        d_model=128,
        n_layer=4,
        vocab_size=256,
        training=dense.Training(
            batch=64,
            learning_rate=2e-3,
            steps=5900,
            weight_decay=0.1,
            dropout=0.2,
            token_noise=0.1,
        ),
        recover_rate=5e-4,
        recover_batch=64,
        recover_steps=1200,
    ),
    "pathfinder": Settings(
        d_model=128,
        n_layer=6,
        vocab_size=256,
        training=dense.Training(batch=64, learning_rate=1.5e-3, steps=8400, stage_part=0.15),
        stages=("4", "6", "9", "14"),
        recover_steps=500,
    ),
}
"""Found in few runs: minutes of a GPU rather than hours."""


@dataclass
class Bench:
    """What all parts of one run share."""

    name: str
    settings: Settings
    task: Classification
    data: Path
    out: Path
    device: torch.device
    seed: int

    def __post_init__(self) -> None:
        self.run = f"{self.name}-s{self.seed}"
        self.log = dense.logger(self.out / f"{self.run}.log", self.run)
        self.result_file = self.out / f"{self.run}.json"

    def samples(self, part: str) -> LabelledTexts:
        """A part of the data."""
        path = self.data / f"{part}.npz"
        return load_labelled([path], None, self.task, self.settings.vocab_size)

    def traces(self, part: str) -> NDArray[np.uint8]:
        """The curve of each pixel, of Pathfinder's easier parts."""
        with np.load(self.data / f"{part}.npz") as file:
            traces: NDArray[np.uint8] = file["traces"]
        return traces

    def config(self) -> ModelConfig:
        """The dense model's sizes."""
        s = self.settings
        mixer = Mamba1Config(d_inner=2 * s.d_model, dt_rank=-(-s.d_model // 16))
        layers = (LayerConfig(mixer=mixer),) * s.n_layer
        return ModelConfig(
            d_model=s.d_model, vocab_size=s.vocab_size, layers=layers, task=self.task
        )

    def folder(self, name: str) -> Path:
        """Where a part's checkpoint goes."""
        return self.out / self.run / name

    def load(self, name: str) -> Mamba:
        """A part that is done."""
        return Mamba.from_checkpoint(read_checkpoint(self.folder(name)), self.device)

    def result(self) -> dict[str, Any]:
        """What was measured so far."""
        if self.result_file.is_file():
            content: dict[str, Any] = json.loads(self.result_file.read_text())
            return content
        return {}

    def keep(self, name: str, model: Mamba, content: dict[str, Any]) -> None:
        """Save a part's weights and its row; the test texts are read here alone."""
        dense.round_to_half(model)
        started = time.monotonic()
        test = self.samples("test")
        content["test"] = batches.metric(model, test, dense.CHECK_BATCH)["accuracy"]
        content["test_texts"] = test.count
        content["test_seconds"] = round(time.monotonic() - started, 1)
        dense.save(model, self.folder(name), self.data / "tokenizer.json")
        dense.write_json(self.result_file, {**self.result(), name: content})
        self.log({"part": name, "test": content["test"]})


def train_dense(bench: Bench) -> None:
    """The dense model, from nothing."""
    settings = bench.settings
    training = replace(settings.training, seed=bench.seed)
    torch.manual_seed(bench.seed)
    model = Mamba(bench.config())
    dense.initialize(model)
    model.to(bench.device)
    stages = [bench.samples(part) for part in (*settings.stages, "train")]
    hint = None
    if settings.stages and training.hint_weight:
        head = TraceHead(settings.d_model)
        hint = dense.Hint(head, [*map(bench.traces, settings.stages), None])
    valid = bench.samples("valid").head(CHECK_TEXTS)
    best = dense.train(
        model, stages, valid, training, bench.log, lambda metrics: metrics["accuracy"], hint
    )
    best |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": device_name(bench.device),
        "torch": torch.__version__,
        "settings": asdict(settings) | {"training": asdict(training)},
    }
    bench.keep("dense", model, best)


def prune(bench: Bench, percent: int, start: str, steps: int | None) -> None:
    """Prune on from `start` and let the dense model teach."""
    model, settings = bench.load(start), bench.settings
    prune_settings = PruneSettings(sparsity=percent / 100, calibration_batch=16)
    recover = RecoverSettings(
        steps=steps or settings.recover_steps,
        batch=settings.recover_batch,
        learning_rate=settings.recover_rate,
        distill=settings.distill,
        ramp=0.4,
        token_noise=settings.training.token_noise,
        weight_decay=settings.training.weight_decay,
    )

    def progress(what: str, done: int, total: int) -> None:
        bench.log({"part": str(percent), "what": what, "step": done, "of": total})

    result = prune_and_recover(
        model,
        material_of(model.config.task, bench.samples("train")),
        prune_settings,
        recover,
        seed=bench.seed,
        progress=progress,
        teacher=Teacher(bench.load("dense")),
    )
    names = prunable_names(model, PROJECTIONS)
    weights = {name: w for name, w in model.tensors().items() if name in names}
    summary = sparsity_summary(model, weights)
    bench.keep(
        str(percent),
        model,
        {
            "from": start,
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "sparsity": {key: summary[key] for key in ("prunable", "model", "by_component")},
            "recover": asdict(recover),
            "history": list(result.history)[-1:],
        },
    )


def open_bench(arguments: argparse.Namespace) -> Bench:
    """The settings, with what the command line changes."""
    settings = SETTINGS[arguments.task]
    options = (
        "seconds",
        "steps",
        "batch",
        "dropout",
        "learning_rate",
        "token_noise",
        "weight_decay",
        "checks",
        "stage_part",
        "hint_weight",
    )
    given_options = {key: getattr(arguments, key) for key in options}
    changes = {key: value for key, value in given_options.items() if value is not None}
    if "seconds" in changes:
        changes.setdefault("steps", None)
    training = replace(settings.training, **changes)
    sizes = {
        key: getattr(arguments, key) for key in ("d_model", "n_layer") if getattr(arguments, key)
    }
    return Bench(
        name=arguments.task,
        settings=replace(settings, training=training, **sizes),
        task=read_block(Classification, json.loads((arguments.data / "task.json").read_text())),
        data=arguments.data,
        out=arguments.out,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        seed=arguments.seed,
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(SETTINGS))
    parser.add_argument("--data", type=Path, required=True, help="from lra.prepare, or for it")
    parser.add_argument("--train", type=Path, nargs="+", default=[], help="for lra.prepare")
    parser.add_argument("--test", type=Path, nargs="+", default=[], help="for lra.prepare")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of dense training")
    parser.add_argument("--seconds", type=float, help="of dense training, instead of --steps")
    parser.add_argument("--prune-steps", type=int, help="of recovery, per sparsity")
    parser.add_argument("--sparsities", type=int, nargs="*", default=[50, 70, 90])
    for name in ("batch", "d_model", "n_layer", "checks"):
        parser.add_argument("--" + name.replace("_", "-"), type=int)
    for name in (
        "learning_rate",
        "dropout",
        "token_noise",
        "weight_decay",
        "stage_part",
        "hint_weight",
    ):
        parser.add_argument("--" + name.replace("_", "-"), type=float)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Do the parts that are missing, in order."""
    arguments = parse(argv)
    if not (arguments.data / "task.json").is_file():
        files = ["--train", *map(str, arguments.train), "--test", *map(str, arguments.test)]
        prepare.main(
            [arguments.task, "--out", str(arguments.data), *(files if arguments.train else [])]
        )
    bench = open_bench(arguments)
    if "dense" not in bench.result():
        train_dense(bench)
    start = "dense"
    for percent in arguments.sparsities:
        if str(percent) not in bench.result():
            prune(bench, percent, start, arguments.prune_steps)
        start = str(percent)


if __name__ == "__main__":
    main()
