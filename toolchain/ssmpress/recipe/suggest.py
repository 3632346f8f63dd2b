"""Did you mean: a wrong word of an option is answered with the right one."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar

from ssmpress.errors import UsageError

Choice = TypeVar("Choice", bound=str)


def one_of(option: str, text: str, choices: Iterable[Choice]) -> Choice:
    """The choice that `text` names.

    Raises:
        UsageError: there is none; the closest one is suggested.
    """
    known = list(choices)
    for choice in known:
        if choice == text:
            return choice
    raise UsageError(
        f"{option}: expected {listed(known)}; got {text!r}.{did_you_mean(text, known)}"
    )


def did_you_mean(text: str, choices: Iterable[str]) -> str:
    """ " Did you mean fp16?", or nothing where no choice is close."""
    from difflib import get_close_matches  # only for an error

    names = {str(choice).lower(): str(choice) for choice in choices}
    close = get_close_matches(text.lower(), names, 1, cutoff=0.5)
    return f" Did you mean {names[close[0]]}?" if close else ""


def listed(choices: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    *first, end = map(str, choices)
    return f"{', '.join(first)} {last} {end}" if first else end


def values_of(kind: type[StrEnum]) -> str:
    """`a|b|c`, for a help text."""
    return "|".join(kind)
