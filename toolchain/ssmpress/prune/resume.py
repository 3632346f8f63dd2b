"""The file from which a killed recovery goes on. Replaced as a whole: temporary, fsync, rename."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmpress.errors import BadInputError
from ssmpress.files import blaming, replaced
from ssmpress.prune.order import Calibration

FORMAT = 2


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


class StateError(BadInputError):
    """A saved state is damaged or belongs to another run, so that nothing can go on from it."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state; whoever is killed at any moment leaves the old file or the new one.

    Raises:
        WriteError: it cannot be written; an earlier state is still there.
    """
    with blaming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        torch.save({"format": FORMAT, **state}, file)


def load(path: Path, expected: str, device: torch.device) -> dict[str, Any] | None:
    """The state that `save` wrote, or None where there is no file.

    Raises:
        StateError: the file is damaged, or belongs to another run.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state["fingerprint"]
    except FileNotFoundError:
        return None
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise StateError(
            f"{path}: expected the state of an unfinished recovery; got: {str(error)[:120]}. "
            "Delete it to start again."
        ) from error
    if found != expected:
        raise StateError(
            f"{path}: belongs to a run with another model, text, device or settings. "
            "Repeat that command to go on with it, or delete the file to start again."
        )
    result: dict[str, Any] = state
    return result
