"""Where a network's weights are: one file, or the parts of a folder, read as what was saved."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssmpress.checkpoint import foreign
from ssmpress.checkpoint.names import printable
from ssmpress.checkpoint.weight_files import read_weights, regular_file, shard_files
from ssmpress.errors import BadInputError

_EXPECTED = "weights (.safetensors, .pt, .pth, .bin, .ckpt, .npz), or a folder with them"
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_KNOWN = ("model.safetensors", "pytorch_model.bin", "pytorch_model.safetensors")
_SHARD = re.compile(r"-\d+-of-\d+\.")
_TRAINING = re.compile(r"optim|sched|scaler|rng|training_args", re.IGNORECASE)
"""In names of files that training loops write beside the weights."""

_NUMPY_KINDS = "fiub"  # floats, integers, bools


def files_of(path: Path) -> dict[Path, set[str]]:
    """Weight file -> the tensors that it must hold; empty where no index says.

    Raises:
        BadInputError: there is none, or several and nothing says which.
    """
    if not path.is_dir():
        regular_file(path, _EXPECTED)
        if _SHARD.search(path.name):
            raise BadInputError(
                f"{path}: expected {_EXPECTED}; got one part of several. Give the folder: "
                f"{path.parent}."
            )
        return {path: set()}
    if index := next((path / name for name in _INDICES if (path / name).is_file()), None):
        return shard_files(index)
    if known := next((path / name for name in _KNOWN if (path / name).is_file()), None):
        return {known: set()}
    foreign.check_folder(path)
    suffixes = (*foreign.WEIGHT_SUFFIXES, ".tar", ".npz")
    inside = (file for file in path.iterdir() if file.suffix in suffixes)
    files = sorted(file for file in inside if not _TRAINING.search(file.name))
    if len(files) != 1:
        got = ", ".join(printable(file.name) for file in files[:5]) or "none"
        way = f" Give the file itself, such as {files[0]}." if files else ""
        raise BadInputError(f"{path}: expected one file of weights in it; got {got}.{way}")
    return {files[0]: set()}


def read_sources(files: Mapping[Path, set[str]]) -> Any:
    """What the files hold: of one file whatever was saved, of parts the tensors of all.

    Raises:
        BadInputError: as `read_weights`; a tensor is missing, or there twice.
    """
    if len(files) == 1:
        (path,) = files
        return _read(path, files[path])
    whole: dict[str, Any] = {}
    for path, promised in files.items():
        part = _read(path, promised)
        if twice := sorted(set(part) & set(whole)):
            raise BadInputError(
                f"{path}: {printable(twice[0])}: expected each tensor once; got it in two shards. "
                "Remove the shards that do not belong to the index."
            )
        whole.update(part)
    return whole


def _read(path: Path, promised: set[str]) -> Any:
    value = _arrays(path) if _is_npz(path) else read_weights(path)
    missing = sorted(promised - set(value if isinstance(value, dict) else ()))
    if missing:
        raise BadInputError(
            f"{path}: {printable(missing[0])}: expected this tensor here, the index says so; got "
            f"none ({len(missing)} missing). Get the shard again."
        )
    return value


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False  # no zip file, or a damaged one, which the reader of its kind refuses
    return bool(names) and all(name.endswith(".npy") for name in names)


def _arrays(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of a .npz by name.

    Raises:
        BadInputError: it is damaged, or has other arrays than of numbers.
    """
    from ssmpress.data.npz import read_arrays

    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    try:
        arrays = read_arrays(path, names)
    except Exception as error:  # NumPy and zipfile raise a dozen kinds on damaged input
        pickled = "allow_pickle" in str(error)
        reason = "an array of Python objects, which only a pickle can hold" if pickled else error
        raise BadInputError(
            f"{path}: expected arrays of numbers; got: {str(reason).rstrip('.')}. Write it again: "
            "numpy.savez('weights.npz', **{name: t.numpy() for name, t in "
            "model.state_dict().items()})."
        ) from error
    for name, array in arrays.items():
        if array.dtype.kind not in _NUMPY_KINDS:
            raise BadInputError(
                f"{path}: {printable(name)}: expected an array of numbers; got {array.dtype}."
            )
    native = {n: a.astype(a.dtype.newbyteorder("="), copy=False) for n, a in arrays.items()}
    return {name: torch.from_numpy(array) for name, array in native.items()}
