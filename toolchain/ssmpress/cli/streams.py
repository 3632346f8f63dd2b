"""What the commands print: fit for a terminal, and with an end where nobody reads it any more."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssmpress.errors import EXIT_BAD_INPUT, SsmpressError
from ssmpress.printable import visible


class OutputError(SsmpressError):
    """stdout takes no more: its disk is full, or whoever read it went away."""

    exit_code = EXIT_BAD_INPUT


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print on stdout, or stderr, what a terminal may be shown: see `printable.visible`."""
    stream = sys.stderr if err else sys.stdout
    stream.write(visible(text) + end)
    stream.flush()


def say_error(text: str) -> None:
    """Print an error on stderr, further lines set in: none of them looks like one of ours."""
    say(text.replace("\n", "\n    "), err=True)


@contextmanager
def checked_streams() -> Iterator[None]:
    """While the block runs stdout raises `OutputError`, whichever library writes to it.

    What goes to stderr is lost where that takes no more: a run of hours goes on without its
    progress, and its exit code tells the end.
    """
    _open_standard_files()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream(sys.stdout, raises=True), _Stream(sys.stderr, raises=False)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = streams


def _open_standard_files() -> None:
    """Open what was closed of stdin, stdout and stderr: the next file opened would get its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


class _Stream:
    """stdout or stderr; after its first error all else goes nowhere, also what Python does last.

    stream: None, as Python has it, where the file was closed before the start.
    """

    def __init__(self, stream: Any, *, raises: bool) -> None:
        self._closed = stream is None
        self._stream = Path(os.devnull).open("w") if stream is None else stream  # noqa: SIM115
        self._raises = raises

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        fit = text.encode(encoding, "backslashreplace").decode(encoding)
        self._guard(lambda: self._stream.write(fit))
        return len(text)

    def flush(self) -> None:
        if not self._closed:
            self._guard(self._stream.flush)

    def _guard(self, act: Callable[[], Any]) -> None:
        try:
            act()
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if self._raises:
                reason = error.strerror or error
                raise OutputError(f"the output: cannot be written: {reason}.") from error
