"""JSON that somebody else wrote: read strictly, so that whoever uses it meets no surprise.

What comes out has at most `DEPTH` levels, every integer fits 64 bits, every float is finite, every
text is valid Unicode, and no object has a key twice. `runtimes/runner/json/` has the same rules.
"""

from __future__ import annotations

import json
import math
from typing import Any

DEPTH = 100
"""Levels of nesting; real files have fewer than 20."""

_LOWEST, _HIGHEST = -(1 << 63), (1 << 64) - 1


def parse_json(content: str | bytes, *, foreign: bool = False) -> Any:
    """Parse one JSON value.

    Args:
        content: text, or UTF-8, UTF-16 or UTF-32 as JSON allows.
        foreign: the file is another program's: NaN and Infinity, which Python writes although
            they are no JSON, are let through.

    Returns:
        The value. An integer beyond 64 bits becomes the nearest float.

    Raises:
        ValueError: it is not JSON, or breaks a rule of this module; says which.
    """
    try:
        value = json.loads(
            content,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_unique,
            parse_constant=float if foreign else _no_constant,
        )
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEPTH} levels deep") from error
    _check(value)
    return value


def _check(value: Any) -> None:
    """Depth and texts; a loop, because the depth is what is not known yet."""
    level = [value]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                for key in item:
                    _check_text(key)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {DEPTH} levels deep")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("a text has half of a surrogate pair") from error


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is beyond every float")
    return value


def _integer(digits: str) -> int | float:
    if len(digits) <= 20 and _LOWEST <= (value := int(digits)) <= _HIGHEST:
        return value
    return _finite(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value
