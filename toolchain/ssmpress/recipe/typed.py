"""How the settings are typed whose type does not tell: text -> value, and back."""

from __future__ import annotations

from functools import partial
from typing import Any

from ssmpress.errors import UsageError
from ssmpress.recipe.option import Typed
from ssmpress.recipe.suggest import did_you_mean

STEP_DIGITS = 9
_RECOVER_WORDS: dict[str, int | None] = {"auto": None, "none": 0}


def _part(
    name: str, text: str, expected: str = "numbers from 0 to 0.99, separated by commas,"
) -> float:
    """A part such as 0.7, which 70 and 70% are too; its range is the recipe's to check.

    1.5 is left as it is, to be refused: it may mean 1.5 % as well as 0.15.
    """
    try:
        value = float(text.removesuffix("%"))
    except ValueError as error:
        raise UsageError(
            f"{name}: expected {expected} or such as 70%; got {text[:40]!r}."
        ) from error
    return value / 100 if text.endswith("%") or value >= 2 else value


def _recovery_steps(name: str, text: str) -> int | None:
    """`auto`, `none` or a number."""
    if text in _RECOVER_WORDS:
        return _RECOVER_WORDS[text]
    if text.isdecimal() and len(text) <= STEP_DIGITS:
        return int(text)
    raise UsageError(
        f"{name}: expected auto, none or a number of steps; got {text[:40]!r}."
        f"{did_you_mean(text, _RECOVER_WORDS)}"
    )


def _steps_written(steps: Any) -> str:
    words = {value: word for word, value in _RECOVER_WORDS.items()}
    return words.get(steps, str(steps))


PART = Typed(_part)
ONE_PART = Typed(partial(_part, expected="a number from 0 to 0.99"))
RECOVERY_STEPS = Typed(_recovery_steps, _steps_written, tuple(_RECOVER_WORDS), unset="auto")
