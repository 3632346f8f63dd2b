"""The state of a session in memory: two sets of buffers.

A run reads one set and writes the other, then they change places, so that decoding copies no state.
What it consists of the bundle says: `ssmpress.states.StateTensor`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ssmpress.states import StateTensor

Array = NDArray[Any]


class State:
    """What the layers carry to the next token, for one session and one batch size.

    Args:
        tensors: the bundle's list. batch: sequences side by side. owner: the session.
    """

    def __init__(self, tensors: Sequence[StateTensor], batch: int, owner: object) -> None:
        self.owner = owner
        self.batch = batch
        self._tensors = tuple(tensors)
        self._growing = tuple(tensor for tensor in tensors if tensor.grows is not None)
        self._tokens = 0
        self._sets = [
            {tensor.name: aligned_zeros(tensor.shape_at(batch), tensor.dtype) for tensor in tensors}
            for _ in range(2)
        ]
        self._memory: list[dict[str, Array]] = [{}, {}]  # flat: where the growing ones lie
        self._front = 0

    @property
    def front(self) -> int:
        """0 or 1: the set of buffers that holds the state now."""
        return self._front

    @property
    def tokens(self) -> int:
        """How many came before; what grows has as many entries along its axis."""
        return self._tokens

    def buffers(self, side: int) -> dict[str, Array]:
        """The set of buffers of one side: name such as `conv_state.0` -> array."""
        return self._sets[side]

    def arrays(self) -> dict[str, Array]:
        """Copies by name, `conv_state.0`, `scan_state.0`, `conv_state.1` ..., in layer order."""
        return {name: array.copy() for name, array in self._sets[self._front].items()}

    def make_room(self, tokens: int) -> None:
        """Size what grows in the set that the next run, of so many tokens, writes."""
        side = self._front ^ 1
        for tensor in self._growing:
            shape = tensor.shape_at(self.batch, self._tokens + tokens)
            size = prod(shape)
            memory = self._memory[side].get(tensor.name)
            if memory is None or memory.size < size:  # doubled, so that most tokens find room
                memory = self._memory[side][tensor.name] = aligned_zeros((2 * size,), tensor.dtype)
            self._sets[side][tensor.name] = memory[:size].reshape(shape)

    def advance(self, tokens: int) -> None:
        """Make the set that was just written the current one, after so many more tokens."""
        self._tokens += tokens
        self._front ^= 1

    def bind(self, binding: Any, side: int) -> None:
        """Let an `onnxruntime.IOBinding` read the buffers of `side` and write the other ones."""
        self._bind(binding, side, self._tensors)

    def bind_growing(self, binding: Any) -> None:
        """`bind` from the front for what changes its shape, and perhaps its place, every time."""
        self._bind(binding, self._front, self._growing)

    def _bind(self, binding: Any, side: int, tensors: Iterable[StateTensor]) -> None:
        before, after = self._sets[side], self._sets[side ^ 1]
        for tensor in tensors:
            bind(binding.bind_input, {f"past_{tensor.name}": before[tensor.name]})
            bind(binding.bind_output, {f"present_{tensor.name}": after[tensor.name]})

    def copy(self) -> State:
        """An independent state with the same values."""
        twin = State(self._tensors, self.batch, self.owner)
        twin._tokens = self._tokens
        for tensor in self._growing:
            shape = tensor.shape_at(self.batch, self._tokens)
            twin._sets[0][tensor.name] = aligned_zeros(shape, tensor.dtype)
        for name, array in self._sets[self._front].items():
            twin._sets[0][name][...] = array
        return twin


def bind(function: Callable[..., None], arrays: Mapping[str, Array]) -> None:
    """Give `bind_input` or `bind_output` of a binding the arrays themselves, by name."""
    for name, array in arrays.items():
        function(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Array:
    """Zeros that start on a cache line (64 bytes)."""
    size = np.dtype(dtype).itemsize * prod(shape)
    raw = np.zeros(size + 64, np.uint8)
    offset = -raw.ctypes.data % 64
    return raw[offset : offset + size].view(dtype).reshape(shape)
