"""Bundles of the networks of `network_onnx`, and ssmrun and its worker on them."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import network_onnx
import ssmrun_bundle as sb
from ssmpress.machine import get_library_path


def bundle(folder: Path, make: Callable[..., Path], *arguments: Any, **task: Any) -> Path:
    """A bundle of the network that `make` writes, without ONNX Runtime; the folder may exist."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(get_library_path(), folder / "libssmpress_ops.so")
    make(folder / "model.onnx", *arguments, **task)
    sb.remake_manifest(folder)
    return folder


def of_each_type(folder: Path) -> Path:
    """A bundle of `twice`, beside which TYPE.onnx is the same of each type."""
    folder.mkdir(exist_ok=True)
    for dtype in network_onnx.ELEMENTS:
        network_onnx.twice(folder / f"{dtype}.onnx", dtype)
    return bundle(folder, network_onnx.twice)


def run(command: str, bundle: Path, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """With the installed ONNX Runtime, whose copy and hash would take most of the time."""
    runtime = ["--runtime", str(sb.runtime()), "--threads", "1"]
    return sb.ssmrun(command, bundle, *runtime, *arguments)


def work(bundle: Path) -> sb.Worker:
    """Its worker, with the same ONNX Runtime."""
    return sb.Worker(bundle, "--runtime", str(sb.runtime()))


def sent(array: NDArray[Any], **changes: Any) -> dict[str, Any]:
    """An array in a request; changes: other fields than its own."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"shape": list(array.shape), "type": str(array.dtype), "data": data, **changes}


def received(value: dict[str, Any]) -> NDArray[Any]:
    """An array of a reply."""
    return np.frombuffer(base64.b64decode(value["data"]), value["type"]).reshape(value["shape"])


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    """A .npy file as NumPy writes it."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version)
    return file.getvalue()
