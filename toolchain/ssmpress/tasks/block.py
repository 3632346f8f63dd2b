"""The `task` block of config.json as a frozen dataclass: how its fields are read and checked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ssmpress.errors import BadInputError

LIMIT = 1 << 20
"""Largest length, and most classes or variates, that a block may name."""

Block = TypeVar("Block")


def block_dict(task: Any) -> dict[str, Any]:
    """The block of a task: its kind and its fields, tuples as lists."""
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    return {"kind": task.kind} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def read_block(cls: type[Block], values: Mapping[str, Any]) -> Block:
    """The task of a class from the fields of a block of its kind.

    Raises:
        BadInputError: a field is unknown, missing, or out of range.
    """
    kind = cls.kind  # type: ignore[attr-defined]
    known = fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in known]
    if unknown := sorted(set(values) - {"kind", *names}):
        raise block_error(ascii(unknown[0])[1:-1], f"no such field in a {kind}", "one")
    if missing := [name for name in names if name not in values]:
        raise block_error(missing[0], f"this field of a {kind}", "nothing")
    lists = {field.name for field in known if str(field.type).startswith("tuple")}
    return cls(**{name: _tuple(name, values[name], name in lists) for name in names})


def check_integer(name: str, value: object) -> None:
    """A length or a count, from 1 to LIMIT."""
    if type(value) is not int or not 1 <= value <= LIMIT:
        raise block_error(name, f"an integer from 1 to {LIMIT}", value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of a few words."""
    if value not in choices:
        raise block_error(name, " or ".join(choices), value)


def check_names(name: str, values: tuple[object, ...], least: int) -> None:
    """Different names, at least so many."""
    good = all(isinstance(value, str) and value for value in values)
    if not good or not least <= len(values) <= LIMIT or len(set(values)) < len(values):
        raise block_error(name, f"at least {least} different names", list(values))


def check_numbers(
    name: str, values: tuple[object, ...], count: int, per: str, *, positive: bool
) -> None:
    """Finite numbers, one for each of `count` things that are called `per`."""
    good = all(_is_number(x) and (not positive or x > 0) for x in values)  # type: ignore[operator]
    if len(values) != count or not good:
        range_ = "positive finite" if positive else "finite"
        raise block_error(name, f"{count} {range_} numbers, one per {per}", values)


def block_error(field: str, expected: str, got: object) -> BadInputError:
    """The error about one field of a block."""
    return BadInputError(
        f"task.{field[:60]}: expected {expected}; got {shortened(got)}. "
        "Correct config.json, or take the one that came with the weights."
    )


def shortened(value: object) -> str:
    """A value of a damaged block, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _tuple(name: str, value: Any, is_list: bool) -> Any:
    if not is_list:
        return value
    if not isinstance(value, list | tuple):
        raise block_error(name, "a list", value)
    return tuple(value)


def _is_number(value: object) -> bool:
    """Finite; the comparison, unlike math.isfinite, holds of an integer of any size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max
