"""User-facing exceptions: one sentence that says what, where, expected, got and what to do.

Every exception carries the exit code that the command line documents:

====  =====================================================================
code  meaning
====  =====================================================================
0     pass
1     internal error (a defect of ssmpress)
2     usage: an option has a value it cannot have
3     the quality gate failed
4     the latency or size gate failed
5     inconclusive: a gate's metric is missing or too noisy to decide
6     bad input: a file is missing, damaged, or disagrees with another, or one
      cannot be written
7     the device is unavailable
130   interrupted by the user
====  =====================================================================
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

EXIT_PASS = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_QUALITY = 3
EXIT_LATENCY_OR_SIZE = 4
EXIT_INCONCLUSIVE = 5
EXIT_BAD_INPUT = 6
EXIT_DEVICE = 7
EXIT_INTERRUPTED = 130

COMPRESS_PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "scipy")
"""Packages that only compressing needs: the extra `compress` of pyproject.toml."""

NO_MEMORY = "not enough memory on this device. Free some, give a shorter text, or a smaller model."
"""The end of every sentence about memory."""

WHAT_HELPS = {
    errno.ENOSPC: "Free some space, or write to another place.",
    errno.EDQUOT: "Free some of your quota, or write to another place.",
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f), or write to another place.",
    errno.EROFS: "Write to another place.",
    errno.EIO: "Check the disk, or write to another place.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "Too many files are open on this machine: end another program.",
}
"""Numbers of an OSError that speaks of the machine, never of a defect of ssmpress, and the cure."""


def check_packages() -> None:
    """Whether what compressing needs is installed, without importing any of it.

    Raises:
        ModuleNotFoundError: one is not; `lacks_package` has the sentence.
    """
    for name in COMPRESS_PACKAGES:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def lacks_package(error: BaseException) -> str:
    """A sentence for an import that failed because only the plain package is installed, or ""."""
    name = (getattr(error, "name", None) or "").split(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in COMPRESS_PACKAGES:
        return ""
    return (
        f"compressing a model needs {name}, which is not installed: expected what "
        "pip install 'ssmpress[compress]' brings. Judging reports and running bundles need none "
        "of it."
    )


class SsmpressError(Exception):
    """An error with a message meant for the person who ran the command."""

    exit_code = EXIT_INTERNAL


class UsageError(SsmpressError):
    """An option has a value it cannot have, alone or together with another one."""

    exit_code = EXIT_USAGE


class BadInputError(SsmpressError):
    """A file is missing, damaged, hostile, or disagrees with another one."""

    exit_code = EXIT_BAD_INPUT


class WriteError(BadInputError):
    """A file cannot be written whole: the disk is full, fails, or may not be written.

    path: the file as the user knows it. reason: the system's error, or a library's. words: what it
    said, without a full stop.
    """

    def __init__(self, path: Path, reason: Exception) -> None:
        self.path, self.reason = path, reason
        number = reason.errno if isinstance(reason, OSError) else None
        words = (reason.strerror if isinstance(reason, OSError) else None) or str(reason)
        self.words = words.rstrip(".")
        cure = WHAT_HELPS.get(number or 0, "Check the folder's permissions and the free space.")
        super().__init__(f"{path}: cannot be written: {self.words}. {cure}")


class ParityError(SsmpressError):
    """The exported graph does not compute what the masked PyTorch model computes."""

    exit_code = EXIT_INTERNAL


class DeviceError(SsmpressError):
    """A device, or the op library built for it, cannot be used."""

    exit_code = EXIT_DEVICE


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, or a library's in its own words."""
    texts = ("bad_alloc", "Failed to allocate memory", "t allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


@contextmanager
def noting(sentence: str) -> Iterator[None]:
    """Add a sentence, without a full stop, to whatever ends the block early (`__notes__`)."""
    try:
        yield
    except BaseException as error:
        error.add_note(sentence)
        raise


def notes_of(error: BaseException) -> list[str]:
    """What `noting` added."""
    return getattr(error, "__notes__", [])
