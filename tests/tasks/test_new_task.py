"""How much a new task touches: a file of its own and its line in `tasks.KINDS`, nothing else."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import dense
import jsonschema
import numpy as np
import pytest
import torch
from lra.prepare import byte_tokenizer

import rating_task
from conftest import mamba1_config
from extending import package_files
from report_schema import SCHEMA
from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.machine import get_library_path
from ssmpress.pack.model import pack_model
from ssmpress.pipeline import compress
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.runtime.loading import open_session
from ssmpress.tasks import KINDS
from ssmpress.tasks.task import SampleTask
from task_models import SIZES, recipe_of

DEVICE_PART = {"reference", "by_device", "metric_there"}
"""Only asked where there is a device, and then ssmrun must know the task too."""


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is known here, and to the processes that measure."""
    monkeypatch.setitem(KINDS, rating_task.Rating.kind, rating_task.Rating)
    (tmp_path / "sitecustomize.py").write_text("import rating_task\nrating_task.register()\n")
    path = [str(tmp_path), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


def make_model(folder: Path) -> Path:
    """An untrained checkpoint, and texts rated by how many of their letters are an a."""
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 20)):
        letters = [random.choice(list("ab c"), int(random.integers(5, 30))) for _ in range(count)]
        rows = [{"text": "".join(t), "rating": float((t == "a").mean())} for t in letters]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(text)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    task: Any = rating_task.Rating(max_length=24)
    model = Mamba(mamba1_config(vocab_size=256, task=task, **SIZES))
    dense.initialize(model)
    dense.save(model, folder / "model", folder / "tokenizer.json")
    return folder


def test_a_new_task_is_one_file(known: None, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    recipe = recipe_of(folder, tmp_path / "out", Values.INT8, recover=RecoverSettings(steps=2))
    report = compress(recipe).report
    jsonschema.validate(report, SCHEMA)
    assert report["quality"]["metric"] == "squared error" and report["quality"]["windows"] == 20
    assert report["recovery"]["steps"] == 2 and report["parity"]["ok"]
    assert report["latency"]["decode"]["compressed"]["p50_ms"] > 0
    assert (
        "over 20 predictions in 20 rated texts of at most 24 tokens"
        in (recipe.out / "report.md").read_text()
    )
    session = open_session(recipe.out / "model.onnx", threads=1, library=get_library_path())
    assert session.interface.task == rating_task.Rating(max_length=24)


def test_it_is_in_the_files_that_the_documentation_names() -> None:
    """Its own, and the line in `KINDS`, which `known` is."""
    assert package_files("A task") == {"tasks/NAME.py", "tasks/__init__.py"}


def test_its_graph_is_its_definition(known: None, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(make_model(tmp_path) / "model")
    path = export(pack_model(checkpoint.config, checkpoint.tensors, None), tmp_path / "m.onnx")[0]
    session = open_session(path, threads=1, library=None)
    tokens = np.random.default_rng(0).integers(256, size=(3, 20))
    with torch.no_grad():
        expected = Mamba.from_checkpoint(checkpoint).predict(torch.from_numpy(tokens)).numpy()
    rating = session.run({"input_ids": tokens})["rating"]
    np.testing.assert_allclose(rating, expected, rtol=0, atol=1e-5)


def test_it_answers_what_the_protocol_asks() -> None:
    asked = {name for name, _ in inspect.getmembers(SampleTask) if not name.startswith("_")}
    asked |= {name for cls in SampleTask.__mro__ for name in getattr(cls, "__annotations__", ())}
    missing = {name for name in asked if not hasattr(rating_task.Rating, name)}
    assert missing == DEVICE_PART
