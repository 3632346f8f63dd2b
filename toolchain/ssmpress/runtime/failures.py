"""Errors of ONNX Runtime and of memory, as errors of ssmpress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssmpress.errors import (
    NO_MEMORY,
    DeviceError,
)


@contextmanager
def naming_model(path: Path) -> Iterator[None]:
    """Raise a DeviceError that begins with the path where memory runs out inside."""
    try:
        yield
    except MemoryError as error:
        raise DeviceError(f"{path}: {NO_MEMORY}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text: ONNX Runtime appends stack traces."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
