"""What test_faults.py does under faults; each function prepares an action as faults.py wants it.

Nothing is trained or timed: the files that a real run writes are written as it writes them.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import example_report
from conftest import random_checkpoint
from ssmpress import pipeline
from ssmpress.blocks.model import Mamba
from ssmpress.bundle import pages
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import notes_of
from ssmpress.files import write_text
from ssmpress.formats import Values
from ssmpress.machine import get_library_path, host_machine
from ssmpress.pipeline import Watch, compress
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.recover import PruneResult, prune_and_recover
from ssmpress.recipe.settings.deploy import DeploySettings
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import load
from tiny_run import CONFIG, tiny_recipe

Action = Callable[[], object]


def checkpoint(folder: Path) -> Callable[[Path], Action]:
    """Replace a checkpoint in both layouts."""
    earlier, later = (random_checkpoint(CONFIG, seed).tensors for seed in (1, 2))

    def begin(fresh: Path) -> Action:
        def write(tensors: dict[str, torch.Tensor]) -> None:
            for layout in ("mamba-ssm", "huggingface"):
                tokenizer = tiny_recipe(folder).model / "tokenizer.json"
                write_checkpoint(CONFIG, tensors, fresh / layout, layout, tokenizer)

        write(dict(earlier))
        return lambda: write(dict(later))

    return begin


def recovery(folder: Path) -> Callable[[Path], Action]:
    """Train some steps, saved after each; the action says what the run noted."""
    recipe = tiny_recipe(folder)
    source = load(recipe)
    settings = RecoverSettings(steps=3, batch=2, window=16, checkpoint_seconds=0.0)

    def train(place: Path) -> str:
        notes: list[str] = []
        prune_and_recover(
            Mamba.from_checkpoint(source.checkpoint),
            TextMaterial(source.calibration),
            recipe.prune,
            settings,
            note=notes.append,
            resume_file=place / "state.pt",
        )
        return "\n".join(notes)

    train(folder)  # what it imports is there for every child
    return lambda fresh: lambda: train(fresh)


def bundle(folder: Path) -> Callable[[Path], Action]:
    """Replace a bundle and its archive: everything of a run but training, proof and drawing."""
    recipe = tiny_recipe(folder, recover=RecoverSettings(steps=0))
    source = load(recipe)
    pruned = Pruned(source.checkpoint.tensors, PruneResult((), 0.0, 0, 0, "cpu"))
    results = example_report.results(model=source.describe())
    wheel = small_wheel(folder)
    pipeline.prune_weights = lambda *_, **__: pruned
    pipeline.validate = lambda *_: results
    pages._draw = lambda place: write_text(place / "report.html", "with charts")
    recipe = replace(
        recipe,
        pack=PackSettings(Values.FP32),
        deploy=DeploySettings(archive=True, onnxruntime=wheel),
    )

    def run(place: Path) -> str:
        notes: list[str] = []
        try:
            compress(replace(recipe, out=place / "out"), Watch(note=notes.append))
        except BaseException as error:
            error.args = (f"{error} {notes_of(error)}",)
            raise
        return "\n".join(note for note in notes if "charts" in note)

    run(folder)  # what it imports is there for every child

    def begin(fresh: Path) -> Action:
        shutil.copytree(folder / "out", fresh / "out")
        shutil.copy(folder / "out.tar.gz", fresh)
        return lambda: run(fresh)

    return begin


def small_wheel(folder: Path) -> Path:
    """A wheel whose library is the op library: small, and for this machine."""
    path = folder / f"onnxruntime-9.8.7-cp311-cp311-manylinux_2_28_{host_machine()}.whl"
    name, content = "onnxruntime/capi/libonnxruntime.so.9.8.7", get_library_path().read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
        record = f"{name},sha256={digest},{len(content)}\n"
        archive.writestr("onnxruntime-9.8.7.dist-info/RECORD", record)
    return path
