"""What the commands share: errors become one line on stderr and the exit code of errors.py."""

from __future__ import annotations

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
)


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
    except SsmpressError as error:
        say_error(f"error: {error}")
        return error.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in WHAT_HELPS:
            place = error.filename or "the output"
            say_error(f"error: {place}: cannot be written: {error.strerror}.")
            return EXIT_BAD_INPUT
        if lacks_memory(error):
            say_error(f"error: {NO_MEMORY}")
            return EXIT_DEVICE
        if sentence := lacks_package(error):
            say_error(f"error: {sentence}")
            return EXIT_USAGE
        if os.environ.get("SSMPRESS_TRACEBACK"):
            raise
        say_error(
            f"internal error: {type(error).__name__}: {error}. This is a defect of ssmpress; set "
            "SSMPRESS_TRACEBACK=1 for the place, and please report it."
        )
        return EXIT_INTERNAL
    return 0
