"""An action for test_faults.py that needs no model: a folder is replaced in two steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ssmpress import folders
from ssmpress.files import write_text

Action = Callable[[], object]


def folder_in_two_steps(folder: Path) -> Callable[[Path], Action]:
    """Replace a folder as on a file system that cannot exchange two names."""
    folders._exchanged = lambda one, other: False

    def begin(fresh: Path) -> Action:
        def write(text: str) -> None:
            with folders.replaced(fresh / "out", lambda: None) as new:
                for name in ("a", "b"):
                    write_text(new / name, text)

        write("earlier")
        return lambda: write("later")

    return begin
