"""Files that appear whole or not at all; JSON that is read strictly; the SHA-256 of a file.

What is half-written lies beside its place under a name of its own and belongs to the process that
holds a lock (flock) on it. A lock ends with its process, however that ends: whatever nobody holds
was left by a process that was killed, and goes when the same place is written again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmpress.errors import BadInputError, WriteError
from ssmpress.strict_json import parse_json

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

JSON_LIMIT = 16 << 20
"""Bytes a report or manifest may have; real ones stay far below 1 MB."""

_BLOCK = 1 << 20
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


class Output(io.BufferedWriter):
    """A file that remembers the disk's first error: torch.save tells another one in its place."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        with self._remembered():
            return super().write(data)

    def flush(self) -> None:
        with self._remembered():
            super().flush()

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            raise


@contextmanager
def replaced(path: Path) -> Iterator[Output]:
    """A file to write, which takes the place of `path` when the block ends, or vanishes.

    It is written beside `path`, reaches the disk (fsync) and is renamed; the folder reaches the
    disk too. A reader finds the old file or the new one, never half of it.

    Raises:
        WriteError: it cannot be written, whatever a library in the block says instead.
    """
    remove_abandoned(path)
    file = _create(path)
    new = Path(file.name)
    try:
        try:
            yield file
        except Exception as error:
            if file.failure is None:
                raise
            raise WriteError(path, file.failure) from error
        with blaming(path):
            file.flush()
            make_readable(new)
            os.fsync(file.fileno())
            new.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):  # of bytes that never reached the disk
            file.close()
        new.unlink(missing_ok=True)


def _create(path: Path) -> Output:
    """A new file beside `path` that this process holds the lock of."""
    while True:
        with blaming(path):
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            file = Output(io.FileIO(name, "wb", opener=lambda *_, handle=handle: handle))
        except BaseException:
            os.close(handle)
            Path(name).unlink(missing_ok=True)
            raise
        if own(handle, Path(name)):
            return file
        file.close()


def check_replaceable(path: Path) -> None:
    """Whether `replaced(path)` will be able to write, as far as can be seen beforehand.

    Raises:
        WriteError: it will not.
    """
    file = _create(path)
    file.close()
    Path(file.name).unlink(missing_ok=True)


@contextmanager
def blaming(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Name the file that a block writes, where that raises an OSError or one of `kinds`.

    Raises:
        WriteError: in place of such an error.
    """
    failures: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except failures as error:
        raise WriteError(path, error) from error


def own(handle: int, path: Path, *, wait: bool = True) -> bool:
    """Take the lock of an open file; False: it is another's (without `wait`), or was removed.

    A file system without locks is no obstacle: there nothing is ever removed as nobody's.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return _is_at(handle, path)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one that has this name."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


@contextmanager
def unowned(path: Path, flags: int = 0) -> Iterator[bool]:
    """Whether no living process holds the lock of a file; if so, it is held during the block.

    Args:
        flags: for opening it beside O_RDWR; O_CREAT makes one that is missing.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = _is_at(handle, path)
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)


def remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` have left beside it."""
    for left in leftovers(path, f".{path.name}.", ".tmp"):
        with unowned(left) as free:
            if free:
                left.unlink(missing_ok=True)


def leftovers(path: Path, prefix: str, suffix: str = "") -> list[Path]:
    """What stands beside `path` under a name that `tempfile` made of prefix and suffix."""
    made = re.compile(re.escape(prefix) + r"\w{1,8}" + re.escape(suffix))
    try:
        return [left for left in path.parent.iterdir() if made.fullmatch(left.name)]
    except OSError:
        return []


def copy(source: Path, target: Path, mode: int | None = None) -> None:
    """Copy a file, whole or not at all.

    Args:
        mode: permissions of the copy; None leaves the usual ones.

    Raises:
        BadInputError: `source` cannot be read. WriteError: `target` cannot be written.
    """
    with replaced(target) as file:
        try:
            with source.open("rb") as data:
                shutil.copyfileobj(data, file, _BLOCK)
        except OSError as error:
            if file.failure is not None:
                raise
            raise BadInputError(f"{source}: cannot be read: {error.strerror}.") from error
    if mode is not None:
        with blaming(target):
            target.chmod(mode)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all (`replaced`).

    Raises:
        WriteError: the folder does not exist or cannot be written.
    """
    with replaced(path) as file:
        file.write(content)


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
    """Read an object, as strictly as `parse_json`, of at most `JSON_LIMIT` bytes.

    Raises:
        BadInputError: the file is missing, too large, or not such an object.
    """
    try:
        if not path.is_file():
            raise BadInputError(f"{path}: expected a JSON file; there is none.")
        if path.stat().st_size > JSON_LIMIT:
            raise BadInputError(f"{path}: expected at most {JSON_LIMIT:,} bytes.")
        value = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: expected a JSON object: {error}.") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: expected a JSON object; got {type(value).__name__}.")
    return value


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file, read a block at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file or folder reach the disk; a rename does so only with its folder."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_readable(path: Path) -> None:
    """Give a file the permissions that open() would have given it: tempfile's are its owner's."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
