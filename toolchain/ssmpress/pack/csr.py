"""Matrices as scipy's CSR, for people who look at them: a file each, read by `load_npz`."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from ssmpress.errors import BadInputError
from ssmpress.files import blaming, replaced
from ssmpress.pack.layout import Mask, Matrix

if TYPE_CHECKING:
    import torch

CSR_FOLDER = "csr"
"""Its name beside the checkpoint layouts."""


def to_csr(weight: Matrix, keep_mask: Mask) -> scipy.sparse.csr_array:
    """The kept weights of a matrix (r, c) as CSR, float32; zeros that are kept stay stored."""
    start = np.concatenate([[0], np.cumsum(keep_mask.sum(1))])
    columns = np.nonzero(keep_mask)[1]
    return scipy.sparse.csr_array((weight[keep_mask], columns, start), shape=weight.shape)


def write_csr(matrices: Container[str], tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write every matrix that has zeros to `folder`/NAME.npz, without its zeros.

    Args:
        matrices: names of the tensors that are. tensors: float32, by name; pruned weights are 0.

    Raises:
        WriteError: a file cannot be written.
    """
    with blaming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, tensor in tensors.items():
        if name not in matrices:
            continue
        weight = tensor.numpy().reshape(len(tensor), -1)
        if (weight == 0).any():
            with replaced(folder / f"{name}.npz") as file:
                scipy.sparse.save_npz(file, to_csr(weight, weight != 0), compressed=False)


def check_csr_target(folder: Path) -> None:
    """Whether `write_csr` may write there.

    Raises:
        BadInputError: it holds other files.
    """
    if not folder.exists():
        return
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else ["a file"]
    if others := [name for name in names if not name.endswith(".npz")]:
        raise BadInputError(
            f"{folder}: expected a new folder or earlier .npz files; got {others[0]} there. "
            "Give another folder."
        )
