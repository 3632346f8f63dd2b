"""Answers of a worker process as numbers and arrays. A device is not trusted: all of it is checked.

`device_worker.py` and `ssmrun worker` (docs/ssmrun.md) answer the same requests.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.errors import DeviceError
from ssmpress.results.measured import Round
from ssmpress.strict_json import parse_json

Reply = Mapping[str, Any]
_TEXT_LIMIT = 300
_LIST_LIMIT = 1024
_DEPTH_LIMIT = 4
_LARGEST = 1 << 62
_VALUES_LIMIT = 1 << 20
"""Values in an answer: each takes up to 64 bytes here, of 2 that came. Arrays are one text each."""


def number(reply: Reply, key: str) -> float:
    """A finite number of at least 0.

    Raises:
        DeviceError: there is none of that name.
    """
    value = reply.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unexpected(key, "a number", value)
    return _finite(key, value)


def integer(reply: Reply, key: str) -> int:
    """An integer of at least 0, of 64 bits."""
    value = reply.get(key)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _unexpected(key, "an integer of at least 0", value)
    return value


def numbers(reply: Reply, key: str, count: int) -> tuple[float, ...]:
    """Exactly `count` finite numbers of at least 0."""
    values = reply.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise _unexpected(key, f"a list of {count} numbers", values)
    return tuple(number({key: value}, key) for value in values)


def flags(reply: Reply, key: str, count: int) -> tuple[bool, ...]:
    """Exactly `count` booleans."""
    values = reply.get(key)
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(isinstance(value, bool) for value in values)
    ):
        raise _unexpected(key, f"a list of {count} booleans", values)
    return tuple(values)


def document(text: str, what: str) -> dict[str, Any]:
    """What a command on the device printed: one JSON object.

    Raises:
        DeviceError: it is something else.
    """
    try:
        return parsed(text.encode())
    except ValueError as error:
        raise _unexpected(what, "a JSON object", text) from error


def parsed(content: bytes | bytearray) -> dict[str, Any]:
    """One JSON object of at most 2^20 values.

    Raises:
        ValueError: it is something else, or has more.
    """
    if sum(map(content.count, (b",", b"[", b"{"))) > _VALUES_LIMIT:
        raise ValueError(f"expected at most {_VALUES_LIMIT:,} values")
    reply = parse_json(bytes(content))
    if not isinstance(reply, dict):
        raise ValueError("expected an object")
    return reply


def turn(reply: Reply, decode_tokens: int, *, warmup: bool) -> Round:
    """The answer to `round`."""
    return Round(
        number(reply, "prefill_ms"), numbers(reply, "decode_ms", decode_tokens), warmup=warmup
    )


def array(reply: Any, key: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """A float32 array, base64 of little-endian bytes under `key` with its `shape` beside it."""
    value = reply.get(key) if isinstance(reply, Mapping) else None
    if not isinstance(value, str) or reply.get("shape") != list(shape):
        raise _unexpected(key, f"float32 {tuple(shape)} in base64", reply)
    raw = _decoded(key, value, 4 * math.prod(shape))
    return np.frombuffer(raw, "<f4").reshape(tuple(shape)).astype(np.float32)


def _decoded(key: str, value: object, size: int) -> bytes:
    """So many bytes in base64."""
    if not isinstance(value, str):
        raise _unexpected(key, "base64", value)
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _unexpected(key, "base64", value) from error
    if len(raw) != size:
        raise _unexpected(key, f"{size} bytes", f"{len(raw)} bytes")
    return raw


def typed_array(
    reply: Any, path: tuple[str, str], dtype: np.dtype[Any], shape: Sequence[int]
) -> NDArray[Any]:
    """An array of any type, an object {"shape", "type", "data"} at a path of two keys."""
    outer = reply.get(path[0]) if isinstance(reply, Mapping) else None
    value = outer.get(path[1]) if isinstance(outer, Mapping) else None
    key, name = ".".join(path), str(dtype)
    expected = {"shape": list(shape), "type": name}
    if not isinstance(value, Mapping) or any(value.get(k) != v for k, v in expected.items()):
        raise _unexpected(key, f"{name} {tuple(shape)} in base64", value)
    raw = _decoded(key, value.get("data"), dtype.itemsize * math.prod(shape))
    return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(tuple(shape)).astype(dtype)


def facts(reply: Reply, key: str) -> dict[str, Any]:
    """A JSON object for the report, cut to a reasonable size."""
    value = reply.get(key)
    if not isinstance(value, Mapping):
        raise _unexpected(key, "an object", value)
    return dict(_cut(value, 0))


def _cut(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value[:_TEXT_LIMIT]
    if depth >= _DEPTH_LIMIT:
        return None
    if isinstance(value, Mapping):
        items = list(value.items())[:_LIST_LIMIT]
        return {str(k)[:_TEXT_LIMIT]: _cut(item, depth + 1) for k, item in items}
    if isinstance(value, list):
        return [_cut(item, depth + 1) for item in value[:_LIST_LIMIT]]
    if isinstance(value, int | float) and not abs(value) < _LARGEST:
        return None
    return value


def _finite(key: str, value: float) -> float:
    try:
        result = float(value)
    except OverflowError:  # JSON's integers have no bound
        result = math.inf
    if not math.isfinite(result) or result < 0:
        raise _unexpected(key, "a finite number of at least 0", result)
    return result


def _unexpected(key: str, expected: str, got: object) -> DeviceError:
    return DeviceError(
        f"the device's worker: {key}: expected {expected}; got {str(got)[:80]!r}. The bundle's "
        "ssmrun and this package may be of different versions."
    )
