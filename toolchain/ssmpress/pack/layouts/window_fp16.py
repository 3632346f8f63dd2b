"""The fp16 window format's sections: packing, reading, checking. Bytes: docs/sparse_format.md.

Symbols: r rows, c columns, e tiles of 8 entries, n records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.layout import Array, Fault, Mask, Matrix, Sections, Shapes, length
from ssmpress.pack.layouts import windows
from ssmpress.pack.layouts.windows import (
    FIRST_COLUMN,
    LARGEST_STEP,
    NIBBLES,
    PLACES,
    TILE,
    TILE_OF_RECORD,
    WINDOW,
    Ints,
    Slots,
    bad_start,
    mask_of_slots,
    misplaced_weights,
    tile_count,
)
from ssmpress.pack.values import round_to

RECORD_BYTES = 1 + TILE // 2 + 2 * TILE
"""Step, positions, values."""

_NOTHING = 0x8000
"""Bits of -0: a slot that is not in use. A stored 0 is +0."""


def shapes(rows: int, records: int) -> Shapes:
    """Element type and shape of every section."""
    tiles = tile_count(rows)
    return {
        "order": (np.dtype(np.int32), (tiles * TILE,)),
        "start": (np.dtype(np.int32), (tiles + 1,)),
        "step": (np.dtype(np.uint8), (records,)),
        "position": (np.dtype(np.uint8), (records, TILE // 2)),
        "value": (np.dtype(np.float16), (records, TILE)),
    }


def pack(values: NDArray[np.float16], keep_mask: Mask) -> dict[str, Array]:
    """Sections of a matrix. Rows are put into tiles by their number of weights.

    Args:
        values: float16 (r, c). keep_mask: bool (r, c), True where the weight is stored.
    """
    rows = len(values)
    tiles = tile_count(rows)
    order = np.full(tiles * TILE, -1, np.int32)
    order[:rows] = np.argsort(-keep_mask.sum(1), kind="stable")
    kept = keep_mask[order[:rows]]
    stored = np.append(values[order[:rows]][kept], np.float16(0)).view(np.uint16)
    stored[stored == _NOTHING] = 0
    tile, turn, step, position, source = _fill(kept, tiles)
    counts = np.bincount(tile, minlength=tiles)
    start = np.concatenate([[0], np.cumsum(counts)])
    record = start[tile] + turn
    steps = np.zeros(start[-1], np.uint8)
    steps[record] = step
    positions = np.zeros((start[-1], TILE), np.uint8)
    positions[record] = position
    value = np.full((start[-1], TILE), _NOTHING, np.uint16)
    value[record] = np.where(source >= 0, stored[source], np.uint16(_NOTHING))
    return {
        "order": order,
        "start": start.astype(np.int32),
        "step": steps,
        "position": positions[:, 0::2] | positions[:, 1::2] << 4,
        "value": value.view(np.float16),
    }


def _fill(kept: Mask, tiles: int) -> tuple[Ints, Ints, Ints, Array, Ints]:
    """Fills all tiles side by side, one record of each at a time.

    A record's window begins at the first weight that its tile has not stored yet; every entry
    stores its next weight if it lies there.

    Returns:
        For m records: tile, turn (which record of its tile), step (m,); position, source (m, 8).
        source counts the stored weights in entry order; -1 for a slot that is not in use.
    """
    columns = np.append(np.nonzero(kept)[1], 0)
    counts = np.zeros(tiles * TILE, np.int64)
    counts[: len(kept)] = kept.sum(1)
    ends = np.cumsum(counts).reshape(tiles, TILE)
    at = ends - counts.reshape(tiles, TILE)
    first = np.zeros(tiles, np.int64)
    parts: list[tuple[Array, ...]] = []
    live = np.nonzero((at < ends).any(1))[0]
    while live.size:
        index = at[live]
        inside = index < ends[live]
        column = np.where(inside, columns[np.where(inside, index, -1)], kept.shape[1])
        begin = np.minimum(column.min(1), first[live] + LARGEST_STEP)
        relative = column - begin[:, None]
        used = inside & (relative < WINDOW)
        turn = np.full(live.size, len(parts))
        position = np.where(used, relative, 0).astype(np.uint8)
        parts.append((live, turn, begin - first[live], position, np.where(used, index, -1)))
        first[live] = begin
        at[live] += used
        live = live[(at[live] < ends[live]).any(1)]
    nothing = np.zeros(0, np.int64)
    wide = np.zeros((0, TILE), np.int64)
    parts.append((nothing, nothing, nothing, wide.astype(np.uint8), wide))
    tile, turn, step, position, source = (np.concatenate(part) for part in zip(*parts, strict=True))
    return tile, turn, step, position, source


def read_slots(sections: Sections) -> Slots:
    """Row, column and use of every slot, (n, 8). `start` must have passed `problem`."""
    start = sections["start"].astype(np.int64)
    tile = np.repeat(np.arange(start.size - 1), np.diff(start))
    reach = np.concatenate([[0], np.cumsum(sections["step"], dtype=np.int64)])
    first = reach[1:] - reach[start[tile]]
    row = sections["order"].reshape(-1, TILE)[tile].astype(np.int64)
    used = np.ascontiguousarray(sections["value"]).view(np.uint16) != _NOTHING
    return Slots(row, first[:, None] + _positions(sections), used)


def _positions(sections: Sections) -> Ints:
    packed = sections["position"]
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1, TILE).astype(np.int64)


def unpack(sections: Sections, rows: int, columns: int) -> NDArray[np.float16]:
    """The float16 matrix (r, c)."""
    slots = read_slots(sections)
    dense = np.zeros((rows, columns), np.float16)
    dense[slots.row[slots.used], slots.column[slots.used]] = sections["value"][slots.used]
    return dense


def keep_mask_of(sections: Sections, rows: int, columns: int) -> Mask:
    """Which weights are stored, bool (r, c)."""
    return mask_of_slots(read_slots(sections), rows, columns)


def problem(sections: Sections, rows: int, columns: int) -> Fault | None:
    """The first limit of docs/sparse_format.md that is broken: section, expected, got.

    Types and shapes (see `shapes`) must be right already.
    """
    order = sections["order"]
    if not np.array_equal(np.sort(order[:rows]), np.arange(rows)) or (order[rows:] != -1).any():
        return "order", f"each of {rows} rows once, then -1", "other"
    if fault := bad_start(sections):
        return fault
    slots = read_slots(sections)
    position = _positions(sections)
    if (slots.column - position >= columns).any():
        return "step", f"first columns below {columns}", "a larger one"
    if (position[~slots.used] != 0).any():
        return "position", "0 in slots that are not in use", "other"
    return misplaced_weights(slots, columns)


_ONNX_MATRIX = (
    TILE_OF_RECORD
    + """
    all_steps = Concat <axis = 0> (zero, step_int)
"""
    + FIRST_COLUMN
    + """
    window = Unsqueeze(first_column, last)
"""
    + NIBBLES
    + """
    low_column = Unsqueeze(low, last)
    high_column = Unsqueeze(high, last)
    both = Concat <axis = 2> (low_column, high_column)
    both_int = Cast <to = 7> (both)
    slots_shape = Constant <value_ints = [0, 8]> ()
    in_window = Reshape(both_int, slots_shape)
    column = Add(window, in_window)
    order_int = Cast <to = 7> (order)
    tile_shape = Constant <value_ints = [-1, 8]> ()
    tile_rows = Reshape(order_int, tile_shape)
    row = Gather(tile_rows, tile)
"""
    + PLACES
    + """
    value_float = Cast <to = 1> (value)
    value_flat = Reshape(value_float, last)
    is_weight = Cast <to = 9> (value_flat)
    place_of_weight = Where(is_weight, place_flat, zero)
    is_row = GreaterOrEqual(order_int, zero)
    is_row_int = Cast <to = 7> (is_row)
    rows = ReduceSum(is_row_int, zero)
    size = Mul(rows, columns)
    nothing = ConstantOfShape(size)
    flat = ScatterElements <axis = 0, reduction = "add"> (nothing, place_of_weight, value_flat)
    shape = Concat <axis = 0> (rows, columns)
    weight = Reshape <allowzero = 1> (flat, shape)
"""
)

_SHARE_IN_USE = (0.13, 0.4, 0.56, 0.75, 0.84, 0.92, 1.0)
"""That of random masks."""


@dataclass(frozen=True)
class WindowFp16:
    """fp16 weights in windows of 16 columns, one of each of 8 rows in a record."""

    format = Format(Structure.WINDOW, Values.FP16)
    whole = False
    sentence = windows.SENTENCE
    onnx_matrix = _ONNX_MATRIX
    onnx_rows = ""

    def shapes(self, rows: int, columns: int, sections: Sections) -> Shapes:
        """Names, types and shapes of the records."""
        return shapes(rows, length(sections, "step"))

    def pack(self, weight: Matrix, keep_mask: Mask) -> dict[str, Array]:
        """The kept weights, rounded, in records."""
        return pack(round_to(Values.FP16, weight)[0], keep_mask)

    def unpack(self, sections: Sections, rows: int, columns: int) -> Matrix:
        """The stored numbers at their places."""
        return unpack(sections, rows, columns).astype(np.float32)

    def kept(self, sections: Sections, rows: int, columns: int) -> Mask:
        """The places of the slots in use, bool (rows, columns)."""
        return keep_mask_of(sections, rows, columns)

    def problem(self, sections: Sections, rows: int, columns: int, stored: int) -> Fault | None:
        """The first limit that is broken."""
        fault = problem(sections, rows, columns)
        return fault or windows.miscounted(read_slots(sections), stored)

    def predicted_bytes(self, rows: int, columns: int, stored: int) -> int:
        """The bytes, if as many slots are in use as of random masks."""
        records = windows.predicted_records(rows, columns, stored, TILE, _SHARE_IN_USE)
        return windows.predicted_bytes(rows, records, RECORD_BYTES)
