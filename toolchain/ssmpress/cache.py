"""The cache: unfinished work that the same command goes on with, and what was downloaded."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ssmpress import folders
from ssmpress.errors import BadInputError

UNFINISHED = ("recovery", "sweep")
"""Kinds of unfinished work, with which its names begin."""

KEPT_DAYS = 30
"""Days after which unfinished work that no command went on with is removed."""


def cache_folder() -> Path:
    """The folder: under XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssmpress"


def check_cache() -> None:
    """Make the folder, and see that a file can be written there.

    Raises:
        BadInputError: it cannot be made or written.
    """
    with _explained():
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"room")


def remove_expired() -> None:
    """Remove unfinished work of more than `KEPT_DAYS` that no command went on with."""
    before = time.time() - KEPT_DAYS * 24 * 3600
    with suppress(OSError, RuntimeError):  # there is no cache, or no home
        for kind in UNFINISHED:
            for folder in cache_folder().glob(f"{kind}-*"):
                folders.expire(folder, before)


@contextmanager
def unfinished(name: str) -> Iterator[Path]:
    """A folder for one command's unfinished work, this process's alone while the block runs.

    Args:
        name: one of `UNFINISHED`, a hyphen, and a digest of everything that decides the work: the
            same command finds what it left.

    Raises:
        BadInputError: it cannot be made.
    """
    with ExitStack() as stack:
        with _explained():
            folder = stack.enter_context(folders.claimed(cache_folder() / name))
        yield folder


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        place = getattr(error, "filename", None) or "the home folder"
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(
            f"{place}: expected a folder for unfinished work; cannot write there: {reason}. Set "
            "XDG_CACHE_HOME to a folder that can be written."
        ) from error
