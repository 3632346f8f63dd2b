"""Typed access to a config.json that may be anybody's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ssmpress.errors import BadInputError

_NO_LIMIT = 3.0e38
"""What stands for infinity, which JSON has not: nearly the largest float32."""


class JsonReader:
    """The values of a JSON object, each checked, with errors that name the key.

    Args:
        where: the file and the place in it, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def fail(self, key: str, expected: str, advice: str = "") -> BadInputError:
        """The error about a key."""
        value = self.values.get(key, "nothing")
        got = repr(value) if key in self.values else value
        got = got if len(got) <= 60 else got[:57] + "..."
        return BadInputError(
            f"{self.where}: {ascii(key[:60])[1:-1]}: expected {expected}; got {got}. "
            + (advice or "Correct it, or take the file that came with the weights.")
        )

    def integer(self, key: str, default: int | None = None, limit: int = 1 << 31) -> int:
        """An integer from 1 to `limit`; `default` where the key is not there."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise self.fail(key, f"an integer from 1 to {limit}")
        return value

    def number(self, key: str, default: float, limit: float = 1e9) -> float:
        """A positive number below the limit."""
        value = self.values.get(key, default)
        if not _is_positive(value, limit):
            raise self.fail(key, "a positive number")
        return float(value)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """So many positive numbers; ones where the key is not there or null."""
        values = self.values.get(key)
        if values is None:
            return (1.0,) * count
        if not isinstance(values, list) or len(values) != count:
            raise self.fail(key, f"{count} numbers")
        if not all(_is_positive(value, 1e9) for value in values):
            raise self.fail(key, f"{count} positive numbers")
        return tuple(map(float, values))

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def object(self, key: str) -> JsonReader:
        """An object inside; an empty one where the key is not there or null."""
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return JsonReader(value, f"{self.where}: {key}")

    def chosen(self, key: str, *values: Any) -> None:
        """Whether the key, if it is there and not null, has one of these values."""
        if self.values.get(key) is not None and self.values[key] not in values:
            words = [json.dumps(v) if isinstance(v, bool) else repr(v) for v in values]
            raise self.fail(key, " or ".join(words) or "null")

    def limits(self, key: str) -> tuple[float, float | None]:
        """A pair of a least and a largest value, the second None where it is infinite or the key
        is not there; transformers may write infinity as {"__float__": "Infinity"}."""
        pair = self.values.get(key)
        if pair is None:
            return 0.0, None
        numbers = [_number(item) for item in pair] if isinstance(pair, list) else []
        if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
            raise self.fail(key, "two numbers, the first at least 0 and below the second")
        return numbers[0], None if numbers[1] >= _NO_LIMIT else numbers[1]

    def rank(self, key: str, d_model: int, limit: int) -> int:
        """The rank of Mamba-1's delta projection: a number, or "auto"."""
        if self.values.get(key, "auto") == "auto":
            return math.ceil(d_model / 16)
        return self.integer(key, limit=limit)

    def expanded(self, d_model: int, limit: int) -> int:
        """int(expand * d_model), as mamba-ssm and Hugging Face compute it."""
        width = int(self.number("expand", 2) * d_model)
        if not 1 <= width <= limit:
            raise self.fail("expand", f"expand * {d_model} from 1 to {limit}")
        return width


def limits_json(key: str, low: float, high: float | None) -> dict[str, Any]:
    """What `JsonReader.limits` reads back: a number of JSON's, which has no infinity, and no key
    where there is no limit."""
    if low == 0 and high is None:
        return {}
    return {key: [low, _NO_LIMIT if high is None else high]}


def _is_positive(value: Any, limit: float) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and 0 < value < limit


def _number(value: Any) -> float:
    """A number of JSON, or what transformers writes for one that JSON has not; NaN if neither."""
    if isinstance(value, dict) and value.get("__float__") == "Infinity":
        return math.inf
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    finite = plain and abs(value) < 1e300
    return float(value) if finite or value == math.inf else math.nan
