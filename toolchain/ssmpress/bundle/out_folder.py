"""The folder of a bundle: made beside its place, then renamed; it replaces earlier bundles only."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssmpress.bundle.manifest import MANIFEST_NAME
from ssmpress.bundle.names import REPORTS
from ssmpress.errors import NO_ROOM, BadInputError, UsageError
from ssmpress.files import read_json
from ssmpress.report.sweep import SWEEP_NAME

_CANNOT_WRITE = (*NO_ROOM, errno.EBUSY, errno.ENOTEMPTY)
_SWEEP_FILES = {SWEEP_NAME, "sweep.md", "sweep.html"}


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends, and vanishes if it fails.

    Raises:
        UsageError: as `check_out`, before the block or after it.
    """
    check_out(out)
    target = out.resolve()
    folder = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write there: {error.strerror}.") from error
    try:
        yield folder
        check_out(out)  # hours may have passed
        _replace(folder, target)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise UsageError(
            f"--out {out}: cannot write there: {error.strerror}. Free some space, or choose "
            "another --out."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_out(out: Path) -> None:
    """Whether a bundle may be written to `out`: it is new, empty, or all of it is an earlier one's.

    Raises:
        UsageError: it is a file, holds a file that no run wrote, is a mount point (which cannot be
            renamed), or the working directory is in it.
    """
    target = out.resolve()
    if Path.cwd().is_relative_to(target):
        raise UsageError(
            f"--out {out}: expected a folder that can be replaced; got the one that this command "
            "runs in, or one above. Give a folder inside it."
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
    """The files of a manifest with itself, or the points of a sweep; none if it is not ours."""
    try:
        found: Any = read_json(path).get(key)
    except BadInputError:
        return set()
    if isinstance(found, dict) and key == "files":
        return {MANIFEST_NAME, *found}
    if isinstance(found, list) and key == "points":
        return {str(point.get("name")) for point in found if isinstance(point, dict)}
    return set()


def _replace(new: Path, out: Path) -> None:
    """Rename `new` to `out`; an earlier `out` is moved aside first and removed after."""
    old = out.with_name(f".{out.name}.replaced-{os.getpid()}")
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
