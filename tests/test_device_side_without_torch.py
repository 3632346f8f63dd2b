"""The device side runs where torch is not installed, and each layer imports only to its right."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

from blocked_imports import HEAVY, python
from conftest import random_checkpoint, small_config
from ssmpress.graph.export import export
from ssmpress.pack.model import pack_model
from ssmpress.tasks import Classification, Forecasting, LanguageModel

ROOMS = (
    "ssmpress.devices",
    "ssmpress.gate",
    "ssmpress.measure",
    "ssmpress.bundle",
    "ssmpress.runtime",
    "ssmpress.report",
    "ssmpress.tasks",
    "ssmpress.data",
    "ssmpress.recipe",
    "ssmpress.results",
)
GROUND = (
    "cache",
    "callbacks",
    "errors",
    "files",
    "folders",
    "formats",
    "machine",
    "replies",
)
MODULES = sorted(
    {"ssmpress", "ssmpress.cli.gate", "ssmpress.graph.ops", *ROOMS}
    | {f"ssmpress.{name}" for name in GROUND}
    | {
        module.name
        for room in ROOMS
        for module in pkgutil.walk_packages(import_module(room).__path__, f"{room}.")
    }
)


FIRST = """
import sys
from importlib import import_module
from traceback import print_exc

failed = []
for module in MODULES:
    for name in [name for name in sys.modules if name.split(".")[0] == "ssmpress"]:
        del sys.modules[name]
    try:
        import_module(module)
    except Exception:
        failed.append(module)
        print_exc()
assert not failed, failed
"""


def test_imports_without_torch() -> None:
    """Each module first, before any other of the package: in a circle, only some can be."""
    assert len(MODULES) > 90
    blocked = (*HEAVY, "scipy", "onnx", "onnx_ir", "safetensors")
    done = python(f"MODULES = {MODULES!r}\n{FIRST}", blocked)
    assert done.returncode == 0, done.stderr


def test_importing_costs_no_runtime() -> None:
    """ONNX Runtime is imported when a session is opened, not before."""
    code = "import ssmpress.measure.interleaved, sys; print('onnxruntime' in sys.modules)"
    assert python(code, HEAVY).stdout.strip() == "False"


def test_the_block_itself_works() -> None:
    assert "torch is blocked" in python("import torch", HEAVY).stderr


def test_the_gate_and_the_report_need_no_runtime() -> None:
    done = python("import ssmpress.gate.judge, ssmpress.report.markdown", (*HEAVY, "onnxruntime"))
    assert done.returncode == 0, done.stderr


TASKS = (
    LanguageModel(),
    Classification(classes=("a", "b"), max_length=9),
    Forecasting(lookback=8, horizon=4, variates=("x",), mean=(0.0,), std=(1.0,), patch=4, stride=4),
)
USE = """
import sys
from pathlib import Path

import numpy as np

from ssmpress.callbacks import silent
from ssmpress.data.labelled import from_lists
from ssmpress.data.series import SeriesWindows
from ssmpress.runtime.loading import open_session

random = np.random.default_rng(0)
evaluations = {
    "language-model": random.integers(61, size=(3, 24)),
    "classification": from_lists([random.integers(61, size=5)] * 4, [0, 1, 0, 1], 9),
    "forecast": SeriesWindows(random.normal(size=(30, 1)).astype(np.float32), 8, 4),
}
for path in map(Path, PATHS):
    session = open_session(path, threads=1, library=None)
    task = session.interface.task
    evaluation = evaluations[task.kind]
    assert task.evaluate(session, evaluation, silent).value > 0
    task.digest(evaluation)
    timing = task.timing(evaluation)
    task.first_prediction(session)
    prefill, singles = task.timed_round(session, random, 5, timing.singles)
    assert prefill > 0 and len(singles) == timing.singles
    assert task.by_session(session, task.parity_sample(evaluation))
    assert task.reference(session, evaluation, path.parent).outputs
print("torch" in sys.modules)
"""


def test_every_task_measures_without_torch(tmp_path: Path) -> None:
    """torch is imported inside the functions that compute with it only."""
    paths = []
    for task in TASKS:
        changes: Any = {"task": task, "vocab_size": 61 if task.reads_tokens else 0}
        checkpoint = random_checkpoint(small_config(**changes))
        packed = pack_model(checkpoint.config, checkpoint.tensors, None)
        paths += [str(path) for path in export(packed, tmp_path / f"{task.kind}.onnx")]
    done = python(f"PATHS = {paths!r}\n{USE}", HEAVY)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
