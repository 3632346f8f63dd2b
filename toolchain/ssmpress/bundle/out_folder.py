"""The folder of a bundle: made beside its place, then renamed; it replaces earlier bundles only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ssmpress import folders
from ssmpress.bundle.manifest import MANIFEST_NAME
from ssmpress.bundle.names import REPORTS, SIGNATURE_NAME
from ssmpress.errors import WHAT_HELPS, BadInputError, UsageError, WriteError
from ssmpress.files import read_json
from ssmpress.report.sweep import SWEEP_NAME

SCRATCH_LETTERS = 24
"""Of a name, for the folder beside `out` that a bundle is made in."""

_SWEEP_FILES = {SWEEP_NAME, "sweep.md", "sweep.html"}


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends, and vanishes if it fails.

    Raises:
        UsageError: as `check_out`, before the block or after it, or nothing can be made there.
        WriteError: a file of it cannot be written.
    """
    target = out.resolve()
    with ExitStack() as stack:
        try:
            folders.mend(target)
            check_out(out)
            folder = stack.enter_context(folders.replaced(target, partial(check_out, out)))
        except WriteError as error:
            raise UsageError(f"--out {out}: cannot write there: {error.words}.") from error
        with _no_room(out, folder):
            yield folder


@contextmanager
def _no_room(out: Path, folder: Path) -> Iterator[None]:
    """Say of an error of the disk that names no file, or one of the bundle, where there is no room.

    Raises:
        UsageError: in its place.
    """
    try:
        yield
    except OSError as error:
        inside = error.filename is None or Path(error.filename).is_relative_to(folder)
        if error.errno not in WHAT_HELPS or not inside:
            raise
        cure = WHAT_HELPS[error.errno]
        raise UsageError(f"--out {out}: cannot write there: {error.strerror}. {cure}") from error


def check_out(out: Path) -> None:
    """Whether a bundle may be written to `out`: it is new, empty, or all of it is an earlier one's.

    Raises:
        UsageError: it is a file, holds a file that no run wrote, is a mount point (which cannot be
            renamed), the working directory is in it, or the folder above cannot be written.
    """
    target = out.resolve()
    _check_names(out, target)
    if Path.cwd().is_relative_to(target):
        raise UsageError(
            f"--out {out}: expected a folder that can be replaced; got the one that this command "
            "runs in, or one above. Give a folder inside it."
        )
    if why := folders.obstacle(target.parent):
        raise UsageError(
            f"--out {out}: cannot write there: {why}. Check its permissions, or choose another "
            "--out."
        )
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(
            f"--out {out}: expected a new folder, an empty one or an earlier bundle; got a file. "
            "Choose another --out."
        )
    if os.path.ismount(target):
        raise UsageError(
            f"--out {out}: expected a folder that can be replaced; got a mount point. Give a "
            "folder inside it."
        )
    if others := _other_files(target):
        raise UsageError(
            f"--out {out}: expected a new folder, an empty one or an earlier bundle; it holds "
            f"other files, such as {others[0]}. Choose another --out."
        )


def _check_names(out: Path, target: Path) -> None:
    """Whether the file system takes the names, and that of the folder that is made beside."""
    # os.path answers where Path raises: of a name that is too long.
    parent = next(p for p in target.parents if os.path.isdir(p))  # noqa: PTH112
    longest = os.pathconf(parent, "PC_NAME_MAX") - SCRATCH_LETTERS
    if any(len(os.fsencode(part)) > longest for part in target.parts):
        raise UsageError(
            f"--out {str(out)[:60]}…: expected names of at most {longest} bytes; got a longer "
            "one. Choose another --out."
        )


def _other_files(folder: Path, also: frozenset[str] = frozenset()) -> list[str]:
    """What no run wrote there. also: names that may stand beside those of the manifest."""
    own = {*also, *_names(folder / MANIFEST_NAME, "files")}
    points = _names(folder / SWEEP_NAME, "points")
    own |= _SWEEP_FILES if points else set()
    others = []
    for entry in sorted(folder.iterdir()):
        if entry.name in points and entry.is_dir() and not entry.is_symlink():
            inside = _other_files(entry, frozenset(REPORTS))
            others += [f"{entry.name}/{name}" for name in inside]
        elif entry.name not in own:
            others.append(entry.name)
    return others


def _names(path: Path, key: str) -> set[str]:
    """The files of a manifest, with itself and a signature, or the points of a sweep; else none."""
    try:
        names: Any = read_json(path).get(key)
    except BadInputError:
        return set()
    if isinstance(names, dict) and key == "files":
        return {MANIFEST_NAME, SIGNATURE_NAME, *names}
    if isinstance(names, list) and key == "points":
        return {str(point.get("name")) for point in names if isinstance(point, dict)}
    return set()
