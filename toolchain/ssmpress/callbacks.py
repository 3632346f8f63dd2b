"""How long work tells what it does: the types of its callbacks. None of them may raise."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many units are done, and how many there are."""

Steps = Callable[[int, int], None]
"""Called with how many units are done and how many there are, where only one thing is done."""

Note = Callable[[str], None]
"""Called with one sentence about a decision."""


def silent(*_: object) -> None:
    """The callback that tells nobody."""
