"""What the commands share: errors become one line on stderr and the exit code of errors.py."""

from __future__ import annotations

import os

import typer

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


def run_app(app: typer.Typer) -> int:
    """Run a command; the exit code. A command that ends by itself exits from within."""
    try:
        app()
    except SsmpressError as error:
        typer.echo(f"error: {error}", err=True)
        return error.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in WHAT_HELPS:
            place = error.filename or "the output"
            typer.echo(f"error: {place}: cannot be written: {error.strerror}.", err=True)
            return EXIT_BAD_INPUT
        if lacks_memory(error):
            typer.echo(f"error: {NO_MEMORY}", err=True)
            return EXIT_DEVICE
        if sentence := lacks_package(error):
            typer.echo(f"error: {sentence}", err=True)
            return EXIT_USAGE
        if os.environ.get("SSMPRESS_TRACEBACK"):
            raise
        typer.echo(
            f"internal error: {type(error).__name__}: {error}. This is a defect of ssmpress; set "
            "SSMPRESS_TRACEBACK=1 for the place, and please report it.",
            err=True,
        )
        return EXIT_INTERNAL
    return 0
