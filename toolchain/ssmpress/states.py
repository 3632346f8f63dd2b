"""What a model carries from one token to the next: the list that a bundle has of its states.

The metadata entry `ssmpress.states` of an exported model is a JSON list in the order of layers,
empty where a model sees its whole input at once:

    [{"name": "conv_state.0", "shape": [3, 1024], "dtype": "float32", "grows": null}, ...]

The graph has an input `past_NAME` and an output `present_NAME` for each. Specified in docs/ops.md;
the runtimes know nothing else of states.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ssmpress.errors import BadInputError
from ssmpress.strict_json import parse_json

STATES_KEY = "ssmpress.states"

DTYPES = ("float32", "float16")
_SIZE_LIMIT = 1 << 24  # no size of a real model comes near; one beyond it is damage
_COUNT_LIMIT = 1 << 16  # states
_RANK_LIMIT = 7
_ELEMENTS_LIMIT = 1 << 38  # of one sequence: a terabyte as float32


@dataclass(frozen=True)
class StateTensor:
    """One tensor of the state.

    name: without `past_` or `present_`, for example `scan_state.3`.
    shape: of one sequence; the tensor has the batch as its first axis besides.
    dtype: one of DTYPES.
    grows: the axis of `shape` that every token makes longer by one, from the 0 that stands there;
        None is a state of one size.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    grows: int | None = None

    def shape_at(self, batch: int, tokens: int = 0) -> tuple[int, ...]:
        """The tensor's shape after `tokens` tokens; they matter to a state that grows only."""
        sizes = list(self.shape)
        if self.grows is not None:
            sizes[self.grows] = tokens
        return (batch, *sizes)


def states_json(states: Iterable[StateTensor]) -> str:
    """The metadata entry that `read_states` reads back."""
    return json.dumps([asdict(state) for state in states])


def read_states(text: str, where: str) -> tuple[StateTensor, ...]:
    """Read the metadata entry, which may be anybody's.

    Args:
        where: the file and the entry, for messages.

    Raises:
        BadInputError: it is no such list, or a name, shape, type or axis is out of range.
    """
    try:
        values = parse_json(text)
    except ValueError as error:
        raise BadInputError(f"{where}: expected JSON; got {text[:40]!r}: {error}.") from error
    if not isinstance(values, list) or len(values) > _COUNT_LIMIT:
        raise BadInputError(f"{where}: expected a list of states; got {text[:40]!r}.")
    states = tuple(_state(value, f"{where}: state {i}") for i, value in enumerate(values))
    if len({state.name for state in states}) < len(states):
        raise BadInputError(f"{where}: expected each state once; got a name twice.")
    return states


def _state(value: Any, where: str) -> StateTensor:
    fields = value if isinstance(value, dict) else {}
    name, shape, grows = (fields.get(key) for key in ("name", "shape", "grows"))
    if not isinstance(name, str) or not name:
        raise _error(where, "name", "a name", fields)
    if fields.get("dtype") not in DTYPES:
        raise _error(where, "dtype", " or ".join(DTYPES), fields)
    sizes = shape if isinstance(shape, list) else []
    if grows is not None and (type(grows) is not int or not 0 <= grows < len(sizes)):
        raise _error(where, "grows", "an axis of the shape, or null", fields)
    fits, elements = 1 <= len(sizes) <= _RANK_LIMIT, 1
    for axis, size in enumerate(sizes):
        most = 0 if axis == grows else _SIZE_LIMIT
        fits = fits and type(size) is int and 0 <= size <= most
        elements *= max(1, size) if fits else 1
    if not fits or elements > _ELEMENTS_LIMIT:
        expected = f"1 to {_RANK_LIMIT} sizes of at most {_SIZE_LIMIT}, 0 where it grows"
        raise _error(where, "shape", expected, fields)
    return StateTensor(name, tuple(sizes), fields["dtype"], grows)


def _error(where: str, key: str, expected: str, fields: dict[str, Any]) -> BadInputError:
    got = repr(fields.get(key, "none"))
    return BadInputError(f"{where}: {key}: expected {expected}; got {got[:40]}.")
