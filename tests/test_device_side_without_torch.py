"""The device side runs where torch is not installed, and each layer imports only to its right."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MODULES = (
    "ssmpress", "ssmpress.errors", "ssmpress.ops", "ssmpress.recipe", "ssmpress.data",
    "ssmpress.report", "ssmpress.report.results", "ssmpress.report.schema",
    "ssmpress.report.files", "ssmpress.report.manifest", "ssmpress.report.tables",
    "ssmpress.report.markdown", "ssmpress.report.terminal", "ssmpress.gate",
    "ssmpress.report.prose", "ssmpress.report.charts", "ssmpress.report.html",
    "ssmpress.report.junit", "ssmpress.report.summary", "ssmpress.policy", "ssmpress.bootstrap",
    "ssmpress.gate_cli", "ssmpress.gate_rules", "ssmpress.gate_intervals", "ssmpress.text_model",
    "ssmpress.pick", "ssmpress.suggest", "ssmpress.report.sweep", "ssmpress.report.sweep_page",
    "ssmpress.report.tradeoff", "ssmpress.evaluate", "ssmpress.interface", "ssmpress.run",
    "ssmpress.worker_process",
    "ssmpress.device_worker", "ssmpress.device",
    "ssmpress.deploy", "ssmpress.emulate", "ssmpress.remote_device", "ssmpress.ssh", "ssmpress.adb",
    "ssmpress.boards", "ssmpress.bundle", "ssmpress.report.device_charts",
    "ssmpress.report.device_tables",
)  # fmt: skip

_BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Block())
"""


def python(code: str, blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"BLOCKED = {blocked!r}\n{_BLOCKED}\n{code}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


HEAVY = ("torch", "transformers", "mamba_ssm")


@pytest.mark.parametrize("module", MODULES)
def test_imports_without_torch(module: str) -> None:
    done = python(f"import {module}", (*HEAVY, "scipy", "onnx", "onnx_ir", "safetensors"))
    assert done.returncode == 0, done.stderr


def test_importing_costs_no_runtime() -> None:
    """ONNX Runtime is imported when a session is opened, not before."""
    code = "import ssmpress.device, sys; print('onnxruntime' in sys.modules)"
    assert python(code, HEAVY).stdout.strip() == "False"


def test_the_block_itself_works() -> None:
    assert "torch is blocked" in python("import torch", HEAVY).stderr


def test_the_gate_and_the_report_need_no_runtime() -> None:
    done = python("import ssmpress.gate, ssmpress.report.markdown", (*HEAVY, "onnxruntime"))
    assert done.returncode == 0, done.stderr
