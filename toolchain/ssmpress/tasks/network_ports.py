"""The inputs and outputs of a user's network, as the `task` block of its bundle lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.tasks.block import block_error
from ssmpress.tasks.task import Port

TYPES = ("float32", "float16", "int64", "int32", "bool")
"""Of elements; what ONNX calls them, and NumPy."""

MAX_RANK = 8
MAX_ELEMENTS = 1 << 31
MAX_NAME = 200

BATCH = "batch"
"""The size that counts samples; where axis 0 of every input is called so, they may go together."""


@dataclass(frozen=True)
class NetPort:
    """An input or an output.

    type: one of TYPES. shape: sizes, or names of those that vary. example: the sizes of the
    example, which are those that are timed. low, high: random integers are low .. high - 1; None
    but for an input of integers.

    Raises:
        BadInputError: a field is out of its range.
    """

    name: str
    type: str
    shape: tuple[int | str, ...]
    example: tuple[int, ...]
    low: int | None = None
    high: int | None = None

    def __post_init__(self) -> None:
        self._check("name", f"1 to {MAX_NAME} printable characters", self.name, _is_name(self.name))
        self._check("type", " or ".join(TYPES), self.type, self.type in TYPES)
        sizes = f"at most {MAX_RANK} sizes, or names of sizes that vary"
        fits = len(self.shape) <= MAX_RANK and all(_is_size(s) or _is_name(s) for s in self.shape)
        self._check("shape", sizes, list(self.shape), fits)
        expected = f"{len(self.shape)} sizes that fit the shape, of {MAX_ELEMENTS} elements at most"
        fits = len(self.example) == len(self.shape) and all(
            _is_size(size) and (isinstance(named, str) or named == size)
            for size, named in zip(self.example, self.shape, strict=True)
        )
        fits = fits and prod(self.example) <= MAX_ELEMENTS
        self._check("example", expected, list(self.example), fits)
        self._check(
            "high", "integers of 32 bits, low < high", [self.low, self.high], self._ranges()
        )

    def _check(self, field: str, expected: str, got: object, fits: bool) -> None:
        if not fits:
            raise block_error(f"inputs and outputs: {field}", expected, got)

    def _ranges(self) -> bool:
        if self.low is None and self.high is None:
            return True
        if type(self.low) is not int or type(self.high) is not int:
            return False
        return -(1 << 31) <= self.low < self.high <= 1 << 31

    @property
    def port(self) -> Port:
        """For the graph."""
        return Port(self.name, self.type, self.shape, f"{self.name} of the network")

    def sizes(self, batch: int | None = None) -> tuple[int, ...]:
        """The example's sizes, with another batch."""
        if batch is None:
            return self.example
        return tuple(
            batch if named == BATCH else size
            for size, named in zip(self.example, self.shape, strict=True)
        )

    def draw(self, random: np.random.Generator, batch: int | None = None) -> NDArray[Any]:
        """Random values, for timing: normal floats, integers of the range, either of two bools."""
        sizes = self.sizes(batch)
        if self.type.startswith("float"):
            return random.normal(size=sizes).astype(self.type)
        low, high = (self.low, self.high) if self.type.startswith("int") else (0, 2)
        return random.integers(low or 0, 2 if high is None else high, size=sizes).astype(self.type)

    def zeros(self, sizes: Mapping[str, int]) -> NDArray[Any]:
        """Zeros, with these sizes where they vary, else the example's."""
        shape = [
            sizes.get(named, size) if isinstance(named, str) else named
            for named, size in zip(self.shape, self.example, strict=True)
        ]
        return np.zeros(shape, self.type)

    def to_dict(self) -> dict[str, Any]:
        """In JSON types."""
        values = asdict(self) | {"shape": list(self.shape), "example": list(self.example)}
        return {name: value for name, value in values.items() if value is not None}


def read_port(block: Any) -> NetPort:
    """A port of a block.

    Raises:
        BadInputError: it is no object, or a field is missing, unknown or out of range.
    """
    known = [field.name for field in fields(NetPort)]
    if isinstance(block, NetPort):
        return block
    needed = {field.name for field in fields(NetPort) if field.default is MISSING}
    if not isinstance(block, Mapping) or not needed <= set(block) <= set(known):
        got = sorted(map(str, block)) if isinstance(block, Mapping) else block
        raise block_error("inputs and outputs", f"objects with {', '.join(known)}", got)
    lists = {name: block[name] for name in ("shape", "example")}
    for name, value in lists.items():
        if not isinstance(value, list | tuple):
            raise block_error(f"inputs and outputs: {name}", "a list", value)
    return NetPort(**dict(block) | {name: tuple(value) for name, value in lists.items()})


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_ELEMENTS
