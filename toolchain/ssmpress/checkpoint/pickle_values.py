"""The values of a pickle, without importing, calling or hashing anything that it names.

torch's weights-only loader comes first (archive.py). What it refuses, because beside the tensors
lie a trainer's own objects or the module itself was saved, is read here: texts, numbers, lists,
dicts and tensors become what they are, and every other class, function or object becomes a
`StandIn`, which has the name and does nothing. The instructions are followed one by one in this
file; Python's unpickler never sees the bytes.

Bounded by `STEP_LIMIT` instructions, each of which makes one value of those there are.
Values may be nested to any depth and may hold themselves: whoever walks them bounds the walk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from ssmpress.checkpoint.pickle_check import (
    KEY_BITS,
    STEP_LIMIT,
    TUPLES,
    Stack,
    UnfitPickleError,
    instructions,
)

_AXES = 16
_MISSING = object()


@dataclass(frozen=True)
class Name:
    """What a pickle calls `module.name`, which is not looked up."""

    name: str


@dataclass(eq=False, slots=True)
class StandIn:
    """An object of a class that is neither imported nor called, with what the pickle has of it.

    name: of its class, or of the function whose result it is. states: its attributes, a later dict
    before an earlier one. items: what it holds as a dict.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    states: list[Mapping[Any, Any]] = field(default_factory=list)
    items: dict[Any, Any] = field(default_factory=dict)

    def attribute(self, name: str) -> Any:
        """What the pickle says of an attribute; None where it says nothing."""
        return next((state[name] for state in reversed(self.states) if name in state), None)


class Records(Protocol):
    """What holds the bytes of tensors."""

    def elements(self, tensor: StoredTensor) -> Tensor:
        """The record that a tensor is a view of, (elements,), of the tensor's type.

        Raises:
            BadInputError: there is no such record, or it is shorter.
        """
        ...


@dataclass(frozen=True, eq=False, slots=True)
class StoredTensor:
    """A tensor in the archive's record `data/RECORD`, checked to lie inside of it.

    elements: of the record. offset, stride: in elements.
    """

    records: Records
    dtype: torch.dtype
    record: str
    elements: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """Its values; tensors of one record share memory, as they did when they were saved."""
        return self.records.elements(self).as_strided(self.shape, self.stride, self.offset)


@dataclass(frozen=True)
class _Storage:
    """dtype: None leaves it to the tensor, and elements are bytes."""

    records: Records
    dtype: torch.dtype | None
    record: str
    elements: int


_STORAGES: Mapping[str, torch.dtype | None] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": None,
}
_DTYPES = {
    f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
_TORCH = re.compile(
    r"torch\.\w+|torch\.(_utils|_tensor|storage|serialization|nn\.parameter)\.\w+"
    r"|collections\.(OrderedDict|Counter)|(builtins|__builtin__)\.\w+|_codecs\.encode"
)
"""What torch.save writes of tensors and numbers."""

_PLAIN_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


def names_beyond_torch(content: bytes) -> bool:
    """Whether a pickle names what torch's weights-only loader refuses, or is of a later protocol.

    Raises:
        UnfitPickleError: it is too long.
    """
    for name, argument in instructions(content):
        if name in ("STACK_GLOBAL", "FRAME"):
            return True
        if name == "GLOBAL" and not _TORCH.fullmatch(str(argument).replace(" ", ".")):
            return True
    return False


def read_pickle(content: bytes, records: Records) -> Any:
    """The value that a pickle of protocol 2 to 5 describes. records: of its tensors.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict, `Name`, `StandIn` and `StoredTensor`,
        one in another. Keys of a dict are texts, numbers, None or stand-ins for other keys.

    Raises:
        UnfitPickleError: too long, damaged, or an instruction of another protocol.
    """
    machine = _Machine(records)
    try:
        for name, argument in instructions(content):
            if name == "STOP":
                return machine.stack[-1]
            machine.run(name, argument)
    except UnfitPickleError:
        raise
    except (IndexError, KeyError) as error:
        raise UnfitPickleError("instructions that find no value") from error
    except (ValueError, OverflowError) as error:
        raise UnfitPickleError("a pickle that is damaged or cut short") from error
    raise UnfitPickleError("a pickle without an end")


class _Machine(Stack[Any]):
    """An unpickler that makes values; `_STEPS` has what it does for most instructions."""

    def __init__(self, records: Records) -> None:
        super().__init__()
        self.records = records
        self.names: dict[str, Name] = {}
        self.copied = 0

    def run(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in TUPLES:
            self.stack.append(tuple(self.last(TUPLES[name])))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.top()
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in _STEPS:
            raise UnfitPickleError(f"the instruction {name}, which torch.save does not write")
        else:
            _STEPS[name](self, argument)

    def top(self) -> Any:
        if not self.stack or (self.marks and len(self.stack) <= self.marks[-1]):
            raise IndexError
        return self.stack[-1]

    def named(self, name: str) -> None:
        self.stack.append(self.names.setdefault(name, Name(name)))

    def stacked_name(self) -> None:
        module, name = self.last(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise UnfitPickleError("a name that is no text")
        self.named(f"{module}.{name}")

    def add(self, pairs: list[Any]) -> None:
        """SETITEMS: into a dict, or into an object that is one."""
        target = self.top()
        if isinstance(target, StandIn):
            target = target.items
        if not isinstance(target, dict) or len(pairs) % 2:
            raise UnfitPickleError("items of what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_key(key)] = value

    def append(self, values: list[Any]) -> None:
        """APPENDS, ADDITEMS: a list's. What other objects collect is left out."""
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, StandIn):
            raise UnfitPickleError("values for what is no list")

    def build(self) -> None:
        """BUILD: attributes of a stand-in. Those of a dict or a tensor are no weights."""
        (state,) = self.last(1)
        target = self.top()
        if isinstance(target, Name):
            raise UnfitPickleError("a change of what was only named")
        if isinstance(target, StandIn):
            parts = state[:2] if isinstance(state, tuple) else (state,)
            target.states += [part for part in parts if isinstance(part, dict)]

    def call(self, count: int) -> None:
        """REDUCE, NEWOBJ, NEWOBJ_EX: a function or class, its arguments, and those by name."""
        function, arguments, *_ = self.last(count)
        if not isinstance(arguments, tuple):
            raise UnfitPickleError("a call without arguments")
        self.copied += sum(len(a) for a in arguments[:1] if isinstance(a, list | tuple | dict))
        if self.copied > STEP_LIMIT:  # one list that the memo has may be given to many calls
            raise UnfitPickleError(f"more than {STEP_LIMIT:,} values")
        name = function.name if isinstance(function, Name) else "an object that is called"
        self.stack.append(_called(name, arguments))


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    """What a call makes: of the functions that torch.save writes their value, else a stand-in."""
    make = _CALLS.get(name)
    made = _MISSING if make is None else make(*arguments[:8])
    return StandIn(name, arguments) if made is _MISSING else made


def _key(key: Any) -> Any:
    """The key, if hashing it is cheap; else a stand-in, which nobody finds."""
    if isinstance(key, int) and key.bit_length() >= KEY_BITS:
        return StandIn("a key")
    return key if isinstance(key, str | int | float | bytes | None) else StandIn("a key")


def _ordered(pairs: Any = (), *_: Any) -> Any:
    """An OrderedDict, empty, or of a list of pairs."""
    if not isinstance(pairs, list | tuple):
        return _MISSING
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return _MISSING
    return {_key(key): value for key, value in pairs}


def _storage(records: Records, value: Any) -> Any:
    """BINPERSID: ("storage", type, record, where it was, elements)."""
    if not (isinstance(value, tuple) and len(value) == 5 and value[0] == "storage"):
        return StandIn("a persistent object")
    _, kind, record, _, elements = value
    known = isinstance(kind, Name) and kind.name in _STORAGES
    if not known or not isinstance(record, str) or not _count(elements):
        raise UnfitPickleError("a storage that torch.save does not write")
    return _Storage(records, _STORAGES[kind.name], record, elements)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _tensor(
    storage: Any = None, offset: Any = None, shape: Any = None, stride: Any = None, *_: Any
) -> Any:
    """_rebuild_tensor and _rebuild_tensor_v2."""
    if not isinstance(storage, _Storage) or storage.dtype is None:
        return _MISSING
    return _stored(storage, storage.dtype, offset, shape, stride)


def _tensor_of_type(*arguments: Any) -> Any:
    """_rebuild_tensor_v3, of the types that have no storage class."""
    storage, offset, shape, stride, _, _, dtype = [*arguments, *[None] * 7][:7]
    known = isinstance(dtype, Name) and dtype.name in _DTYPES
    if not known or not isinstance(storage, _Storage):
        return _MISSING
    return _stored(storage, _DTYPES[dtype.name], offset, shape, stride)


def _stored(storage: _Storage, dtype: torch.dtype, offset: Any, shape: Any, stride: Any) -> Any:
    axes = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride)
    if not axes or len(shape) > _AXES or not all(map(_count, (offset, *shape, *stride))):
        raise UnfitPickleError("a tensor whose shape is no shape")
    size = storage.elements if storage.dtype else storage.elements // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if prod(shape) and last >= size:
        raise UnfitPickleError("a tensor that is larger than its storage")
    return StoredTensor(storage.records, dtype, storage.record, size, offset, shape, stride)


def _parameter(tensor: Any = None, *_: Any) -> Any:
    return tensor if isinstance(tensor, StoredTensor) else _MISSING


def _typed(function: Any = None, kind: Any = None, arguments: Any = None, *_: Any) -> Any:
    """_rebuild_from_type_v2: a plain tensor, or one of another class, which is what it is."""
    if not (isinstance(function, Name) and isinstance(kind, Name) and isinstance(arguments, tuple)):
        return _MISSING
    if kind.name not in _PLAIN_TYPES:
        return StandIn(kind.name, arguments)
    return _called(function.name, arguments) if function.name in _TENSORS else _MISSING


def _object(kind: Any = None, *_: Any) -> Any:
    """copyreg._reconstructor, of old-style pickles."""
    return StandIn(kind.name) if isinstance(kind, Name) else _MISSING


def _sized(shape: Any = (), *_: Any) -> Any:
    return tuple(shape) if isinstance(shape, list | tuple) else _MISSING


def _counted(counts: Any = None, *_: Any) -> Any:
    return dict(counts) if isinstance(counts, dict) else {}


_TENSORS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
_CALLS: Mapping[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.Size": _sized,
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": _counted,
    "copyreg._reconstructor": _object,
    "copy_reg._reconstructor": _object,
}
"""Functions that torch.save writes -> what stands here in their place; none of them is called."""

_LITERALS = (
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: StandIn("builtins.set"),
}
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.last(1).clear(),
    "POP_MARK": lambda m, _: m.marked().clear(),
    "DUP": lambda m, _: m.stack.append(m.top()),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.top()}),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.marked())),
    "LIST": lambda m, _: m.stack.append(m.marked()),
    "DICT": lambda m, _: m.stack.append(_ordered([*_pairs(m.marked())])),
    "FROZENSET": lambda m, _: m.stack.append(StandIn("builtins.frozenset", tuple(m.marked()))),
    "SETITEM": lambda m, _: m.add(m.last(2)),
    "SETITEMS": lambda m, _: m.add(m.marked()),
    "APPEND": lambda m, _: m.append(m.last(1)),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "ADDITEMS": lambda m, _: m.append(m.marked()),
    "BUILD": lambda m, _: m.build(),
    "REDUCE": lambda m, _: m.call(2),
    "NEWOBJ": lambda m, _: m.call(2),
    "NEWOBJ_EX": lambda m, _: m.call(3),
    "GLOBAL": lambda m, argument: m.named(argument.replace(" ", ".")),
    "STACK_GLOBAL": lambda m, _: m.stacked_name(),
    "BINPERSID": lambda m, _: m.stack.append(_storage(m.records, *m.last(1))),
}


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))
