"""A file that a path names, before anything is read: errors that say what is wrong with it."""

from __future__ import annotations

import stat
from pathlib import Path

from ssmpress.errors import BadInputError

XZ, GZIP, NPY = b"\xfd7zXZ\x00", b"\x1f\x8b", b"\x93NUMPY"
"""What such files begin with."""


def cause(error: BaseException) -> str:
    """What went wrong, as the middle of a sentence."""
    return str(error).rstrip(". \n") or type(error).__name__


def regular_file(path: Path, what: str) -> Path:
    """The path, if it is a file that can be read from start to end: no folder, pipe or device."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or cause(error)
        raise BadInputError(f"{path}: expected {what}; got: {reason}. Check the path.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "something that is not a regular file"
        raise BadInputError(f"{path}: expected {what}; got {kind}. Give the file itself.")
    return path


def first_bytes(path: Path) -> bytes:
    """The first 6 bytes, or fewer of a shorter file."""
    try:
        with path.open("rb") as file:
            return file.read(6)
    except OSError as error:
        raise BadInputError(
            f"{path}: cannot be read: {error.strerror}. Check its permissions."
        ) from error
