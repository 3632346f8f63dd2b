"""Safe reading of weight files: torch.save archives, safetensors, and their sharded forms.

What is read is not trusted. Pickles run through torch's weights-only loader, and only from
archives whose every entry was checked; safetensors hold no code. Older files that are plain
pickles or tar archives are refused: loading those has run code in releases of torch that are
still in use. Every failure becomes a BadInputError.
"""

from __future__ import annotations

import re
import stat
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ssmpress.checkpoint.pickle_check import UnfitPickleError, check_pickle
from ssmpress.errors import BadInputError
from ssmpress.strict_json import parse_json

JSON_LIMIT = 32 << 20
"""Bytes of a config.json or index; the index of a model with 10,000 tensors has 1 MB."""

_PICKLE_LIMIT = 64 << 20  # bytes of data.pkl, which names the tensors
_SHARD_LIMIT = 1024
_ENTRY_LIMIT = 1 << 17  # entries of an archive, one per tensor
_SAVE_AGAIN = (
    "Load it where it comes from and save the weights only: "
    "torch.save(model.state_dict(), 'weights.pt')."
)


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


def beside(path: Path, name: str) -> Path | None:
    """The file of that name in the folder, or beside the file or beside what it is a link to; None
    where there is none."""
    folders = [path] if path.is_dir() else [path.parent, path.resolve().parent]
    files = (folder / name for folder in folders)
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


def read_weights(path: Path) -> dict[str, Any]:
    """Read one weight file; its first bytes tell the format, not its name.

    Args:
        path: a torch.save archive or a safetensors file.

    Returns:
        What the file holds: tensors by name, or for torch.save possibly a dict around them. The
        tensors may be maps of the file; copy what you keep.

    Raises:
        BadInputError: it is missing, damaged, not one of the formats, or holds more than tensors.
    """
    regular_file(path, "a state dict (.pt, .pth, .bin or .safetensors)")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}.") from error
    if head[:4] == b"PK\x03\x04":
        return _read_archive(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        raise BadInputError(
            f"{path}: expected a torch.save archive; got a plain pickle, which may run code when "
            f"it is loaded (torch older than 1.6 also wrote these). {_SAVE_AGAIN}"
        )
    if head.startswith(b"version https://git-lfs"):
        raise BadInputError(
            f"{path}: expected weights; got a Git LFS pointer. Fetch the file: git lfs pull."
        )
    raise BadInputError(
        f"{path}: expected a torch.save archive or a safetensors file; got neither "
        f"(it starts with {head[:8].hex(' ')}). Check the path and the download."
    )


def _read_archive(path: Path) -> dict[str, Any]:
    _check_archive(path)
    try:  # no mmap: with it torch reads past a record that is shorter than its tensor
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise BadInputError(
                f"{path}: expected tensors only; got the Python object {found[1]}, which is not "
                f"loaded because it may run code. {_SAVE_AGAIN}"
            ) from error
        reason = re.split(r"\. |\n", str(error))[0].rstrip(".")[:200] or type(error).__name__
        raise BadInputError(
            f"{path}: expected a torch.save archive of tensors; got: {reason}. {_SAVE_AGAIN}"
        ) from error
    if not isinstance(value, dict):
        raise BadInputError(
            f"{path}: expected a state dict (name -> tensor); got {type(value).__name__}. "
            f"{_SAVE_AGAIN}"
        )
    return value


def _check_archive(path: Path) -> None:
    """Check every entry before anything is unpickled: stored plainly, in the file, intact."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if problem := _archive_problem(entries, path.stat().st_size):
                raise BadInputError(f"{path}: {problem}. {_SAVE_AGAIN}")
            for entry in entries:
                if entry.filename.split("/", 1)[-1] == "data.pkl":
                    check_pickle(archive.read(entry))
                if entry.CRC == 0:  # torch can be told to leave the checksums out
                    continue
                with archive.open(entry) as file:
                    while file.read(1 << 20):
                        pass
    except BadInputError:
        raise
    except UnfitPickleError as error:
        raise BadInputError(
            f"{path}: expected a state dict (name -> tensor); got {error}. {_SAVE_AGAIN}"
        ) from error
    except Exception as error:  # zipfile raises a dozen kinds on damaged input
        raise BadInputError(
            f"{path}: expected a torch.save archive; it is damaged or cut short: "
            f"{str(error).rstrip('.')}. Copy or download it again."
        ) from error


def _archive_problem(entries: list[zipfile.ZipInfo], size: int) -> str | None:
    names = [entry.filename.split("/", 1)[-1] for entry in entries]
    if "constants.pkl" in names:
        return "expected a state dict; got a TorchScript program"
    if "data.pkl" not in names:
        return "expected a torch.save archive; got a zip file without data.pkl"
    if len(entries) > _ENTRY_LIMIT:
        return f"expected at most {_ENTRY_LIMIT} entries; got {len(entries)}"
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        return "expected a torch.save archive, which is not compressed; got a compressed one"
    # torch takes such an entry for a folder, reads nothing and leaves the tensor uninitialised
    if any(entry.external_attr & 0x10 or entry.is_dir() for entry in entries):
        return "expected a torch.save archive; got one with an entry marked as a folder"
    if sum(entry.file_size for entry in entries) > size:
        return f"its entries claim more bytes than the file's {size:,}; it is damaged"
    pickles = (e for e, name in zip(entries, names, strict=True) if name == "data.pkl")
    if any(entry.file_size > _PICKLE_LIMIT for entry in pickles):
        return f"expected a data.pkl of at most {_PICKLE_LIMIT:,} bytes"
    return None


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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
