"""The file from which a killed recovery goes on. Replaced as a whole: temporary, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmpress.errors import BadInputError
from ssmpress.prune.order import Calibration

FORMAT = 1
ABANDONED_SECONDS = 3600
"""A save that takes longer has ended with its process."""


def fingerprint(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], text: Calibration, device: str
) -> str:
    """SHA-256 of everything that decides the result: settings, first weights, text, device."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(f"{FORMAT} {torch.__version__} {device}".encode())
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    if not isinstance(text, np.ndarray):
        digest.update(text.digest())
        return digest.hexdigest()
    for start in range(0, len(text), 1 << 22):
        digest.update(np.ascontiguousarray(text[start : start + (1 << 22)], np.int32).data)
    return digest.hexdigest()


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state; whoever is killed at any moment leaves the old file or the new one.

    The same command may run twice at once: each process writes a file of its own before it renames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    discard_abandoned(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def discard_abandoned(path: Path) -> None:
    """Remove what processes that were killed while they saved have left.

    A process that is not here may be another machine's with the same cache: its file is new.
    """
    for file in path.parent.glob(f"{path.name}.*.new"):
        process = file.name.removesuffix(".new").rpartition(".")[2]
        here = process.isdecimal() and Path("/proc", process).exists()
        with suppress(FileNotFoundError):
            if not here and time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                file.unlink()


def load(path: Path, expected: str, device: torch.device) -> dict[str, Any] | None:
    """The state that `save` wrote, or None where there is no file.

    Raises:
        BadInputError: the file is damaged, or belongs to another run.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state["fingerprint"]
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise BadInputError(
            f"{path}: expected the state of an unfinished recovery; got: {str(error)[:120]}. "
            "Delete it to start again."
        ) from error
    if found != expected:
        raise BadInputError(
            f"{path}: belongs to a run with another model, text, device or settings. "
            "Repeat that command to go on with it, or delete the file to start again."
        )
    result: dict[str, Any] = state
    return result
