"""Writing a file so that a reader finds the old one or the new one, never half of it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ssmpress.errors import BadInputError

JSON_LIMIT = 64 << 20
"""Bytes a report or manifest may have; real ones stay far below 1 MB."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, fsync it, rename it, fsync the folder.

    Raises:
        BadInputError: the folder does not exist or cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written: {error.strerror}.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise BadInputError(f"{path}: cannot be written: {error.strerror}.") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Readable JSON: two spaces, keys in their order, UTF-8, no NaN.

    Raises:
        ValueError: a number is not finite; `schema.json_types` makes them None.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read an object, strictly: no NaN, no key twice, at most `JSON_LIMIT` bytes.

    Raises:
        BadInputError: the file is missing, too large, or not such an object.
    """
    try:
        if not path.is_file():
            raise BadInputError(f"{path}: expected a JSON file; there is none.")
        if path.stat().st_size > JSON_LIMIT:
            raise BadInputError(f"{path}: expected at most {JSON_LIMIT:,} bytes.")
        value = json.loads(
            path.read_bytes(), parse_constant=_no_constant, object_pairs_hook=_unique
        )
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: expected a JSON object: {error}.") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: expected a JSON object; got {type(value).__name__}.")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """The rename itself reaches the disk only with its folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
