"""A folder that appears whole or not at all, and folders that one process at a time works in.

All are owned through a lock (flock) on a file in them, which ends with the process that holds it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from ssmpress.errors import WriteError
from ssmpress.files import blaming, copy, leftovers, own, sync, unowned

_LOCK, _NEW, _OLD = ".lock", "new", "old"
_TEMPORARY = "ssmpress-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = (errno.ENOENT, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""There is nothing to exchange with; or the kernel, the file system or a sandbox cannot do it."""


@contextmanager
def replaced(target: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` when the block ends, or vanishes.

    It is made in a hidden folder beside `target`, which a killed process leaves behind and the next
    call removes. Its files reach the disk, then it changes places with `target` in one step where
    the file system can; where it cannot, a kill between two steps is mended by the next call.

    Args:
        check: called when the folder is filled; raises where `target` may no longer be replaced.

    Raises:
        WriteError: the folder, or a file of it that is named as if it were in `target` already,
            cannot be written.
    """
    mend(target)
    with _scratch(target) as scratch:
        new = scratch / _NEW
        with blaming(target):
            new.mkdir()
        try:
            yield new
        except WriteError as error:
            if not error.path.is_relative_to(new):
                raise
            raise WriteError(target / error.path.relative_to(new), error.reason) from error
        check()
        with blaming(target):
            sync_tree(new)
            _take_place(new, target, scratch / _OLD)
            sync(target.parent)


def nearest(path: Path) -> Path:
    """The path, or the last of the folders above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def obstacle(folder: Path) -> str | None:
    """Why nothing can be written below a folder, which need not exist yet; None if it can."""
    parent = nearest(folder)
    if not parent.is_dir():
        return f"{parent} is a file"
    return None if os.access(parent, os.W_OK | os.X_OK) else f"{parent} is not writable"


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` that this process owns; it is gone after the block."""
    with blaming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch, handle = _owned(target.parent, f".{target.name}.partial-")
    try:
        yield scratch
    finally:
        _remove(scratch, handle)


def _owned(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and the open lock in it, which this process holds."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if own(handle, folder / _LOCK):
            return folder, handle
        os.close(handle)


def _remove(folder: Path, handle: int) -> None:
    os.close(handle)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_unowned(folder: Path, flags: int = 0) -> None:
    """Remove a folder that no living process owns, and no link to one.

    Args:
        flags: with O_CREAT also one that has no lock.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    with unowned(folder / _LOCK, flags) as free:
        if free:
            shutil.rmtree(folder, ignore_errors=True)


class Temporary:
    """A new folder that is gone with this object, with `remove()`, or when the process ends.

    What killed processes have left under the same prefix is removed first.

    Args:
        parent: exists. prefix: of its name; no other kind of folder there begins with it.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: Path, prefix: str) -> None:
        for left in parent.glob(f"{prefix}*"):
            _remove_unowned(left, os.O_CREAT)
        self.path, handle = _owned(parent, prefix)
        self.remove = weakref.finalize(self, _remove, self.path, handle)


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder under the system's temporary one that this process owns; it is gone after the block.

    A killed process leaves it, and `clear_temporary` removes it.

    Raises:
        WriteError: it cannot be made.
    """
    place = Path(tempfile.gettempdir())
    with blaming(place):
        folder, handle = _owned(place, _TEMPORARY)
    try:
        yield folder
    finally:
        _remove(folder, handle)


def clear_temporary() -> None:
    """Remove the folders of `temporary` that killed processes of this user left.

    A folder without the lock is none of them, whatever its name.
    """
    for left in leftovers(Path(tempfile.gettempdir()) / _TEMPORARY, _TEMPORARY):
        if left.is_dir() and left.lstat().st_uid == os.getuid():
            _remove_unowned(left)


def mend(target: Path) -> None:
    """Remove what killed processes left beside `target`; what one moved aside is put back."""
    for scratch in leftovers(target, f".{target.name}.partial-"):
        if scratch.is_symlink() or not scratch.is_dir():
            continue
        with unowned(scratch / _LOCK, os.O_CREAT) as free:
            if not free:
                continue
            if (scratch / _OLD).is_dir() and not target.exists():
                with suppress(OSError):
                    (scratch / _OLD).rename(target)
            shutil.rmtree(scratch, ignore_errors=True)


def _take_place(new: Path, target: Path, aside: Path) -> None:
    """Rename `new` to `target`; what was there goes to `new` in the same step, or to `aside`."""
    if _exchanged(new, target):
        return
    while True:
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):
            target.rename(aside)
        try:
            new.rename(target)
            return
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue  # another process has put its own there
            if aside.exists():
                aside.rename(target)
            raise


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where that cannot be."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = [ctypes.c_char_p(os.fsencode(path)) for path in (one, other)]
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def sync_tree(folder: Path) -> None:
    """Have everything in a folder reach the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def clone(source: Path, target: Path) -> None:
    """Fill a folder with the files of another: the same ones (hard links), or copies.

    Raises:
        WriteError: a file cannot be written.
    """
    for path in sorted(source.iterdir()):
        twin = target / path.name
        if path.is_dir():
            with blaming(twin):
                twin.mkdir()
            clone(path, twin)
            continue
        try:
            os.link(path, twin)
        except OSError:
            copy(path, twin, path.stat().st_mode & 0o777)


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """A folder that no other living process works in: `folder`, or one beside it, FOLDER-2 ...

    What an earlier process left in it is there. After the block it is gone if it holds no work.
    """
    place, handle = _claim(folder)
    try:
        yield place
    finally:
        if not holds_work(place):
            shutil.rmtree(place, ignore_errors=True)
        os.close(handle)


def _claim(folder: Path) -> tuple[Path, int]:
    """The first of the folders that is nobody's, and the open lock in it."""
    for place in _places(folder):
        place.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # its owner has just finished
            continue
        if own(handle, place / _LOCK, wait=False):
            os.utime(handle)  # `expire` counts from the last claim
            return place, handle
        os.close(handle)
    raise AssertionError("unreachable: there is no end of names")


def _places(folder: Path) -> Iterator[Path]:
    """First those where work waits, then new names."""
    yield from (p for p in sorted(folder.parent.glob(f"{folder.name}*")) if holds_work(p))
    yield folder
    for number in count(2):
        yield folder.with_name(f"{folder.name}-{number}")


def expire(folder: Path, before: float) -> None:
    """Remove a claimed folder that is nobody's, if nothing was done in it since `before`.

    Args:
        before: seconds of the epoch.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    with suppress(OSError):  # another process works there, or removes it too
        newest = max(path.lstat().st_mtime for path in (*folder.rglob("*"), folder / _LOCK))
        if newest < before:
            _remove_unowned(folder)


def discard_work(folder: Path) -> None:
    """Empty a claimed folder: its work is finished and safe elsewhere."""
    for path in folder.iterdir():
        if path.name == _LOCK:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def holds_work(folder: Path) -> bool:
    """Whether there is anything in a claimed folder but its lock."""
    try:
        return any(not path.name.startswith(".") for path in folder.iterdir())
    except OSError:
        return False
