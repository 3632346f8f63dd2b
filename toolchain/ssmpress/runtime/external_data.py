"""Which files a model's tensors lie in, read before ONNX Runtime opens any of them.

An ONNX file may keep a tensor in another file, by a name that its author chose. A model of
ssmpress has all of them in `model.onnx.data` beside it, which the manifest vouches for; any other
name would have ONNX Runtime read what nobody checked. `runtimes/runner/model/external_data.cc` has
the same rules.

Source: onnx.proto (its messages and field numbers), protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from ssmpress.errors import BadInputError

DATA_NAME = "model.onnx.data"

_DEPTH = 100  # of messages, as protobuf's own readers have it; real models have fewer than 20
_INSIDE: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
    "StringStringEntryProto": {},
}
"""Message -> field number -> message, where a name of a file may stand in it."""

_FIXED = {1: 8, 5: 4}  # wire type -> bytes
_KEY, _VALUE = 1, 2


def check_external_data(path: Path) -> None:
    """Whether the model's tensors lie in it, or in the one file beside it that may hold them.

    Raises:
        BadInputError: a tensor lies elsewhere, or the file is no ONNX model.
    """
    allowed = {DATA_NAME.encode(), f"{path.name}.data".encode()}
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return  # ONNX Runtime says it
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                for name in _names(content):
                    if name not in allowed:
                        raise BadInputError(
                            f"{path}: expected its tensors in it or in {DATA_NAME} beside it; one "
                            f"is in {name.decode('utf-8', 'replace')!r}. Take the bundle as it was "
                            "made."
                        )
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}.") from error
    except _DamageError as error:
        raise BadInputError(
            f"{path}: cannot load it: expected an ONNX model; got {error}. Copy the file again."
        ) from error


class _DamageError(Exception):
    """It is no protobuf message; says what is there."""


def _names(content: mmap.mmap) -> Iterator[bytes]:
    """The file names of all tensors that lie in files."""
    left = [("ModelProto", 0, len(content), 0)]
    while left:
        message, begin, end, depth = left.pop()
        if depth > _DEPTH:
            raise _DamageError(f"messages nested more than {_DEPTH} deep")
        key = value = b""
        for number, start, stop in _fields(content, begin, end):
            if message == "StringStringEntryProto":
                key = content[start:stop] if number == _KEY else key
                value = content[start:stop] if number == _VALUE else value
            elif inside := _INSIDE[message].get(number):
                left.append((inside, start, stop, depth + 1))
        if key == b"location":
            yield value


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of every field that has a length: texts and messages."""
    while at < end:
        tag, start = _varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire not in (0, 1, 2, 5):
            raise _DamageError(f"no field at byte {at:,}")
        if wire == 0:
            _, stop = _varint(content, start, end)
        elif wire == 2:
            length, start = _varint(content, start, end)
            stop = start + length
        else:
            stop = start + _FIXED[wire]
        if stop > end:
            raise _DamageError(f"a field at byte {at:,} that ends behind what holds it")
        if wire == 2:
            yield number, start, stop
        at = stop


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, and where it ends."""
    value = 0
    for i, byte in enumerate(content[at : min(end, at + 10)]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise _DamageError(f"no number at byte {at:,}")
