"""The file from which a killed recovery goes on. Replaced as a whole: temporary, fsync, rename."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.callbacks import Note
from ssmpress.errors import BadInputError, WriteError
from ssmpress.files import blaming, replaced
from ssmpress.prune.material import Material

FORMAT = 2


def fingerprint(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], material: Material, device: str
) -> str:
    """SHA-256 of everything that decides the result: settings, first weights, data, device."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(f"{FORMAT} {torch.__version__} {device}".encode())
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor).data)
    for piece in material.pieces():
        digest.update(piece)
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor's values, in order: uint8 (n,)."""
    whole = tensor.detach().cpu().contiguous().view(-1)
    return whole.view(torch.uint8).numpy()


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


class Keeper:
    """The file of one run, or of a run that has none and saves nothing.

    Args:
        fingerprint: of the run; computed only where there is a file.
        note: called where the state cannot be saved, which does not end the run.
    """

    def __init__(self, path: Path | None, fingerprint: Callable[[], str], note: Note) -> None:
        self.path, self._note = path, note
        self._fingerprint = "" if path is None else fingerprint()
        self._saved_step, self._warned = 0, False

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """What an earlier process saved, or None."""
        if self.path is None:
            return None
        state = load(self.path, self._fingerprint, device)
        self._saved_step = 0 if state is None else int(state["step"])
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write what the steps after `state["step"]` of them depend on; a disk that takes no more
        is noted once."""
        if self.path is None:
            return
        try:
            save(self.path, {"fingerprint": self._fingerprint, **state})
            self._saved_step, self._warned = int(state["step"]), False
        except WriteError as error:
            if not self._warned:
                step = self._saved_step
                where = f"goes on at step {step}" if step else "starts again"
                self._note(f"{error} Recovery continues; if it is interrupted, it {where}.")
            self._warned = True

    def discard(self) -> None:
        """Remove the file: nothing can go on from it."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
