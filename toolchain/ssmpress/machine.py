"""This machine, and the binaries that the package carries by machine: op library and runner."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ssmpress.errors import DeviceError

LIBRARY_NAME = "libssmpress_ops.so"
ISA_VARIABLE = "SSMPRESS_ISA"
"""Environment variable that forces one of the sets of docs/kernels.md; unknown names fail."""

RUNNER_NAME = "ssmrun"
MACHINES = ("x86_64", "aarch64")
"""Machines that the package carries an op library and a runner for, as `uname -m` names them."""


def host_machine() -> str:
    """This machine, as `MACHINES` spells it; one of another name as the system says it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def get_library_path(machine: str | None = None) -> Path:
    """Path of the op library, for `SessionOptions.register_custom_ops_library`.

    Args:
        machine: of `MACHINES`; None is this host.

    Raises:
        DeviceError: the installed package has none for it (a source tree that was not built).
    """
    return _packaged(LIBRARY_NAME, "op library", machine)


def get_runner_path(machine: str | None = None) -> Path:
    """Path of `ssmrun`, which runs a bundle without Python.

    Raises:
        DeviceError: as for `get_library_path`.
    """
    return _packaged(RUNNER_NAME, "runner", machine)


def _packaged(name: str, what: str, machine: str | None) -> Path:
    path = Path(__file__).parent / "lib" / (machine or host_machine()) / name
    if not path.is_file():
        raise DeviceError(
            f"{path}: the {what} is missing; expected it beside the Python files. "
            "Install the package: pip install ."
        )
    return path


def python_environment() -> dict[str, str]:
    """The environment for a Python process of one's own, in which that finds the package."""
    home = str(Path(__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    path = home if not inherited else home + os.pathsep + inherited
    return {**os.environ, "PYTHONPATH": path}
