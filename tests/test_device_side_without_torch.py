"""The device side runs where torch is not installed, and each layer imports only to its right."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

from blocked_imports import HEAVY, python

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
    "results",
)
MODULES = sorted(
    {"ssmpress", "ssmpress.cli.gate", "ssmpress.graph.ops", *ROOMS}
    | {f"ssmpress.{name}" for name in GROUND}
    | {
        module.name
        for room in ROOMS
        for module in pkgutil.iter_modules(import_module(room).__path__, f"{room}.")
    }
)


@pytest.mark.parametrize("module", MODULES)
def test_imports_without_torch(module: str) -> None:
    done = python(f"import {module}", (*HEAVY, "scipy", "onnx", "onnx_ir", "safetensors"))
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
