"""What a state dict's pickle would build, found without building it.

torch's weights-only loader runs no code, but a thousand bytes can keep it busy for ever: a tuple
that holds one tuple twice, which holds one tuple twice ..., is hashed 2^n times where it is a key,
inside C, deaf to every signal. Integers that are equal modulo 2^61 - 1 have one hash, so that n of
them as keys are compared n^2 times. And what is nested 100,000 deep ends the process when it is
printed or freed. So the instructions are followed here first, with a depth and a size for each
value.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

DEPTH_LIMIT = 64
SIZE_LIMIT = 1 << 24
"""Values, counted as often as they are reached: a model of 10,000 tensors has some 300,000."""

STEP_LIMIT = 1 << 22
KEY_BITS = 64
"""Of an integer that is a key, with its sign: no more than 16 of those have one hash."""

_ATOMS = {
    "BINUNICODE": "key",
    "SHORT_BINUNICODE": "key",
    "SHORT_BINSTRING": "key",
    "BININT": "key",
    "BININT1": "key",
    "BININT2": "key",
    "LONG1": "key",
    "BINFLOAT": "key",
    "NONE": "key",
    "NEWTRUE": "key",
    "NEWFALSE": "key",
}
_EMPTY = {"EMPTY_DICT": "box", "EMPTY_LIST": "list", "EMPTY_SET": "box", "EMPTY_TUPLE": "tuple"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
"""Instruction -> how many values it takes off the stack."""

_PYTHONS = ("builtins.", "__builtin__.", "collections.", "_codecs.")
"""What torch lets through beside its own; it refuses all other names by itself."""

_CALLED = (
    "collections.OrderedDict",
    "collections.Counter",
    "_codecs.encode",
    "builtins.complex",
    "builtins.set",
    "__builtin__.set",
    "__builtin__.complex",
)


class UnfitPickleError(ValueError):
    """The pickle would build something that is no state dict; says what."""


def instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """A pickle's instructions, each by its name and with its argument.

    Raises:
        UnfitPickleError: there are too many.
    """
    for step, (code, argument, _) in enumerate(pickletools.genops(content)):
        if step >= STEP_LIMIT:
            raise UnfitPickleError(f"more than {STEP_LIMIT:,} instructions")
        yield code.name, argument


class Stack(Generic[_T]):
    """The stack of an unpickler, with its marks and its memo.

    `last` and `marked` raise IndexError where the instructions find too few values.
    """

    def __init__(self) -> None:
        self.stack: list[_T] = []
        self.marks: list[int] = []
        self.memo: dict[int, _T] = {}

    def last(self, count: int) -> list[_T]:
        """So many values off the stack, none from before the last mark."""
        if len(self.stack) < count + (self.marks[-1] if self.marks else 0):
            raise IndexError
        parts = self.stack[-count:]
        del self.stack[-count:]
        return parts

    def marked(self) -> list[_T]:
        """The values after the last mark, off the stack with it."""
        start = self.marks.pop()
        parts = self.stack[start:]
        del self.stack[start:]
        return parts


@dataclass
class _Value:
    """kind: key (may be one), long (an integer beyond KEY_BITS), tuple, list, box (dict, set,
    object) or a global's name.

    done: it is part of another value, so it can grow no more without that one knowing.
    """

    kind: str
    depth: int = 0
    size: int = 1
    done: bool = False
    keys_only: bool = True
    parts: tuple[_Value, ...] = ()

    def take(self, parts: list[_Value]) -> None:
        if self.done:
            raise UnfitPickleError("a value that changes after it was used")
        for part in parts:
            if part is self:
                raise UnfitPickleError("a value that holds itself")
            part.done = True
            self.keys_only = self.keys_only and part.kind == "key"
            self.depth = max(self.depth, part.depth + 1)
            self.size += part.size
        if self.depth > DEPTH_LIMIT:
            raise UnfitPickleError(f"values nested more than {DEPTH_LIMIT} deep")
        if self.size > SIZE_LIMIT:
            raise UnfitPickleError(f"more than {SIZE_LIMIT:,} values")


def check_pickle(content: bytes) -> None:
    """Follow a pickle's instructions.

    Raises:
        UnfitPickleError: too deep, too large, a key that is no text or number or a very large one,
            a value that holds itself, or an instruction that torch.save does not write.
    """
    machine = _Machine()
    try:
        for name, argument in instructions(content):
            machine.run(name, argument)
    except (IndexError, KeyError) as error:
        raise UnfitPickleError("instructions that find no value") from error


class _Machine(Stack[_Value]):
    """An unpickler that makes of every value how deep and large it is."""

    def run(self, name: str, argument: object) -> None:
        stack = self.stack
        if name in ("PROTO", "STOP"):
            return
        if name in _ATOMS or name in _EMPTY:
            stack.append(_Value(_ATOMS.get(name) or _EMPTY[name]))
            if isinstance(argument, int) and argument.bit_length() >= KEY_BITS:
                stack[-1].kind = "long"
        elif name == "GLOBAL":
            stack.append(_Value(str(argument).replace(" ", ".")))
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[int(str(argument))] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(str(argument))])
        elif name in TUPLES or name == "TUPLE":
            parts = self.last(TUPLES[name]) if name in TUPLES else self.marked()
            stack.append(_Value("tuple", parts=tuple(parts)))
            stack[-1].take(parts)
        elif name in ("SETITEM", "SETITEMS", "ADDITEMS"):
            parts = self.last(2) if name == "SETITEM" else self.marked()
            keys = parts if name == "ADDITEMS" else parts[::2]
            if any(key.kind == "long" for key in keys):
                raise UnfitPickleError(f"a key that is an integer of more than {KEY_BITS} bits")
            if any(key.kind != "key" for key in keys):
                raise UnfitPickleError("a key that is no text or number")
            stack[-1].take(parts)
        elif name in ("APPEND", "APPENDS", "BUILD"):
            parts = self.marked() if name == "APPENDS" else self.last(1)
            stack[-1].take(parts)
        elif name in ("REDUCE", "NEWOBJ"):
            self._call(*self.last(2))
        elif name == "BINPERSID":
            stack.append(_Value("box"))
            stack[-1].take([stack.pop(-2)])
        else:
            raise UnfitPickleError(f"the instruction {name}, which torch.save does not write")

    def _call(self, function: _Value, arguments: _Value) -> None:
        """Python's own types hash what they are given: only what was checked as it was built."""
        listed = any(p.kind in ("tuple", "list") and not p.keys_only for p in arguments.parts)
        if function.kind.startswith(_PYTHONS) and (function.kind not in _CALLED or listed):
            raise UnfitPickleError(f"a call of {function.kind[:80]} that torch.save does not write")
        self.stack.append(_Value("box"))
        self.stack[-1].take([arguments])
