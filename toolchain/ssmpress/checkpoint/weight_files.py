"""Safe reading of weight files: torch.save archives, safetensors, and their sharded forms.

What is read is not trusted. Pickles are read from archives whose every entry was checked
(archive.py), and nothing that they name is imported or called; safetensors hold no code. Older
files that are plain pickles or tar archives are refused: loading those has run code in releases of
torch that are still in use. Every failure becomes a BadInputError.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ssmpress.checkpoint import archive, foreign
from ssmpress.errors import BadInputError
from ssmpress.strict_json import parse_json

JSON_LIMIT = 32 << 20
"""Bytes of a config.json or index; the index of a model with 10,000 tensors has 1 MB."""

_SHARD_LIMIT = 1024


def regular_file(path: Path, expected: str) -> Path:
    """The path, if it is a readable regular file that is not empty: no folder, pipe or device.

    Raises:
        BadInputError: it is not; the message says what was expected there.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"{path}: expected {expected}; got: {reason}.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "something that is no regular file"
        raise BadInputError(f"{path}: expected {expected}; got {kind}.")
    if status.st_size == 0:
        raise BadInputError(
            f"{path}: expected {expected}; got an empty file. The download or copy failed; repeat."
        )
    return path


def folders_of(path: Path) -> list[Path]:
    """The folders of a checkpoint's files: itself, or that of a file and of what it links to."""
    return [path] if path.is_dir() else [path.parent, path.resolve().parent]


def beside(path: Path, name: str) -> Path | None:
    """The file of that name in one of the checkpoint's folders; None where there is none."""
    files = (folder / name for folder in folders_of(path))
    return next((file for file in files if file.exists() or file.is_symlink()), None)


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Read a small JSON file that holds an object.

    Raises:
        BadInputError: it is missing, over JSON_LIMIT, not UTF-8, not an object, or not what
            `parse_json` lets through.
    """
    size = regular_file(path, expected).stat().st_size
    if size > JSON_LIMIT:
        raise BadInputError(
            f"{path}: expected {expected} of at most {JSON_LIMIT:,} bytes; got {size:,}. "
            "Check that it is the right file."
        )
    try:
        value = parse_json(path.read_bytes().decode("utf-8"), foreign=True)
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{path}: expected {expected}; it is not valid JSON: {error}. Get the file again."
        ) from error
    if not isinstance(value, dict):
        raise BadInputError(
            f"{path}: expected {expected}, a JSON object; got {type(value).__name__}. "
            "Take the file that came with the weights."
        )
    return value


def read_weights(path: Path) -> Any:
    """Read one weight file; its first bytes tell the format, not its name.

    Args:
        path: a torch.save archive or a safetensors file.

    Returns:
        What the file holds: tensors by name, or what a training loop put around them. The tensors
        may be maps of the file; copy what you keep. Objects of other classes are stand-ins.

    Raises:
        BadInputError: it is missing, damaged, or not one of the formats.
    """
    return _read_archive_or(path, archive.read_archive, _safetensors)


def read_shapes(path: Path) -> Any:
    """`read_weights` without the values: tensors have `shape` and `dtype` only.

    Raises:
        BadInputError: as `read_weights`, but what only the values could show.
    """
    return _read_archive_or(path, archive.read_archive_shapes, _safetensors_shapes)


def _read_archive_or(
    path: Path, read_archive: Callable[[Path], Any], read_safetensors: Callable[[Path], Any]
) -> Any:
    regular_file(path, "a state dict (.pt, .pth, .bin or .safetensors)")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}.") from error
    if head[:4] == b"PK\x03\x04":
        return read_archive(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return read_safetensors(path)
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        raise BadInputError(
            f"{path}: expected a torch.save archive; got a plain pickle, which may run code when "
            "it is loaded (torch older than 1.6 also wrote these). " + archive.SAVE_AGAIN
        )
    if head.startswith(b"version https://git-lfs"):
        raise BadInputError(
            f"{path}: expected weights; got a Git LFS pointer. Fetch the file: git lfs pull."
        )
    foreign.check_head(path, head)
    raise BadInputError(
        f"{path}: expected a torch.save archive or a safetensors file; got neither "
        f"(it starts with {head[:8].hex(' ')}). Check the path and the download."
    )


@dataclass(frozen=True)
class Described:
    """A tensor of which only the header was read."""

    shape: tuple[int, ...]
    dtype: str


def _safetensors(path: Path) -> dict[str, Any]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _safetensors_shapes(path: Path) -> dict[str, Any]:
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {n: Described(tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except Exception as error:
        raise BadInputError(
            f"{path}: expected a safetensors file; got: {str(error).rstrip('.')}. "
            "Copy or download it again."
        ) from error


def shard_files(index: Path) -> dict[Path, set[str]]:
    """Read the index of a sharded checkpoint.

    Args:
        index: model.safetensors.index.json or pytorch_model.bin.index.json.

    Returns:
        Shard -> the names of the tensors that the index puts there, sorted by file name.

    Raises:
        BadInputError: the index is malformed, or names anything but plain files of its folder.
    """
    mapping = read_json(index, "the index of a sharded checkpoint").get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise BadInputError(
            f"{index}: weight_map: expected an object of tensor names and file names; "
            f"got {'nothing' if mapping is None else type(mapping).__name__}. Get it again."
        )
    shards: dict[str, set[str]] = {}
    for tensor, name in mapping.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w\-][\w.\-]*", name):
            raise BadInputError(
                f"{index}: {tensor[:80]}: expected the plain name of a file in this folder; "
                f"got {str(name)[:80]!r}. The index is damaged or hostile; do not use it."
            )
        shards.setdefault(name, set()).add(tensor)
    if len(shards) > _SHARD_LIMIT:
        raise BadInputError(f"{index}: expected at most {_SHARD_LIMIT} shards; got {len(shards)}.")
    return {_inside(index.parent, name): shards[name] for name in sorted(shards)}


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder, if it is no link to somewhere else.

    In the download cache of Hugging Face every file of snapshots/<revision> is a link to
    ../../blobs; that one place outside is allowed.
    """
    path = regular_file(folder / name, "a shard of the checkpoint")
    home, target = folder.resolve(), path.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if target.parent not in allowed:
        raise BadInputError(
            f"{path}: expected a file inside {folder}; got a link to {target}. "
            "Copy the shard into the folder."
        )
    return path
