"""What the commands share: errors become one line on stderr and the exit code of errors.py."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ssmpress.cli.streams import checked_streams, say_error
from ssmpress.errors import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_INTERNAL,
    EXIT_USAGE,
    NO_MEMORY,
    WHAT_HELPS,
    SsmpressError,
    lacks_memory,
    lacks_package,
    notes_of,
)

_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def run_app(app: Callable[[], object]) -> int:
    """Run a command; its exit code.

    Args:
        app: a typer application, which ends with SystemExit, or a function.
    """
    try:
        with checked_streams():
            return _run(app)
    except SsmpressError as error:  # of the last bytes that were to be printed
        say_error(f"error: {error}")
        return error.exit_code


def _run(app: Callable[[], object]) -> int:
    try:
        app()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_INTERNAL if stop.code else 0
    except Exception as error:
        code, sentence = _explained(error)
        if code == EXIT_INTERNAL and os.environ.get("SSMPRESS_TRACEBACK"):
            raise
        say_error(sentence)
        for note in notes_of(error):
            say_error(f"{note}.")
        return code
    return 0


def _explained(error: Exception) -> tuple[int, str]:
    """The exit code and the sentence for an error."""
    if isinstance(error, SsmpressError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, OSError) and error.errno in WHAT_HELPS:
        if error.errno in _TOO_MANY_FILES:
            return EXIT_BAD_INPUT, f"error: {error.strerror}. {WHAT_HELPS[error.errno]}"
        place = error.filename or "the output"
        return EXIT_BAD_INPUT, f"error: {place}: cannot be written: {error.strerror}."
    if lacks_memory(error):
        return EXIT_DEVICE, f"error: {NO_MEMORY}"
    if missing := lacks_package(error):
        return EXIT_USAGE, f"error: {missing}"
    return EXIT_INTERNAL, (
        f"internal error: {type(error).__name__}: {error}. This is a defect of ssmpress; set "
        "SSMPRESS_TRACEBACK=1 for the place, and please report it."
    )
