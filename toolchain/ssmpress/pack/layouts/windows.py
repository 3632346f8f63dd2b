"""What the layouts of windows share: the places of slots, and the nodes that find them.

A tile of rows has records; a record stores weights of a window of 16 columns, whose first column is
`step` columns after that of the record before. Symbols: e tiles, n records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmpress.pack.layout import Fault, Mask, Sections

Ints = NDArray[np.int64]

WINDOW = 16
"""Columns that the 4 bits of a position reach."""
TILE = 8
"""Entries (rows) of a tile."""
LARGEST_STEP = 255
SENTENCE = "stored weights name their column by 4 bits within a window of 16"


def tile_count(rows: int) -> int:
    """Tiles of 8 entries that hold the rows."""
    return -(-rows // TILE)


def bad_start(sections: Sections) -> Fault | None:
    """What is wrong with `start`: the first record of every tile, then the number of all."""
    start, records = sections["start"].astype(np.int64), len(sections["step"])
    if start[0] != 0 or start[-1] != records or (np.diff(start) < 0).any():
        return "start", f"non-decreasing from 0 to {records}", "other"
    return None


@dataclass(frozen=True)
class Slots:
    """What the slots of all records stand for. row, column, used: one shape; row -1 is none."""

    row: Ints
    column: Ints
    used: Mask


def mask_of_slots(slots: Slots, rows: int, columns: int) -> Mask:
    """The places of the slots in use, bool (rows, columns)."""
    keep_mask = np.zeros((rows, columns), bool)
    keep_mask[slots.row[slots.used], slots.column[slots.used]] = True
    return keep_mask


def misplaced_weights(slots: Slots, columns: int) -> Fault | None:
    """What `problem` says of weights outside the matrix, or out of order in their row."""
    row, column = slots.row[slots.used], slots.column[slots.used]
    if (row < 0).any() or (column >= columns).any():
        return "position", f"weights of rows, in columns below {columns}", "other"
    by_row = np.argsort(row, kind="stable")
    row, column = row[by_row], column[by_row]
    if (np.diff(column)[np.diff(row) == 0] <= 0).any():
        return "position", "ascending columns in each row", "other"
    return None


def miscounted(slots: Slots, stored: int) -> Fault | None:
    """Whether the slots in use are `stored`."""
    used = int(slots.used.sum())
    return None if used == stored else ("slots in use", stored, used)


def predicted_records(
    rows: int, columns: int, stored: int, slots: int, share_in_use: tuple[float, ...]
) -> int:
    """About how many records a matrix takes: the fuller it is, the fuller its slots.

    share_in_use: of the `slots` of a record, at densities 0, 0.05, 0.1, 0.2, 0.3, 0.5 and 1.
    """
    density = stored / max(1, rows * columns)
    in_use = np.interp(density, (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0), share_in_use)
    return round(stored / (slots * float(in_use)))


def predicted_bytes(rows: int, records: int, record_bytes: int) -> int:
    """Bytes of the sections of so many records, without scales."""
    per_tile = 4 * TILE + 4
    return records * record_bytes + tile_count(rows) * per_tile + 4


TILE_OF_RECORD = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    last = Constant <value_ints = [-1]> ()
    end = Constant <value_ints = [2147483647]> ()
    axis = Constant <value_int = 0> ()
    records = Shape <start = 0, end = 1> (step)
    records_and_one = Add(records, one)
    no_tile = ConstantOfShape <value = int64[1] {0}> (records_and_one)
    first_records = Cast <to = 7> (start)
    after_tiles = Slice(first_records, one, end, zero)
    tiles = Shape(after_tiles)
    each_tile = ConstantOfShape <value = int64[1] {1}> (tiles)
    tile_ends = ScatterElements <axis = 0, reduction = "add"> (no_tile, after_tiles, each_tile)
    tiles_before = CumSum(tile_ends, axis)
    tile = Slice(tiles_before, zero, records, zero)
    step_int = Cast <to = 7> (step)
"""
FIRST_COLUMN = """
    reach = CumSum(all_steps, axis)
    record_reach = Slice(reach, one, end, zero)
    first_record = Gather(first_records, tile)
    tile_reach = Gather(reach, first_record)
    first_column = Sub(record_reach, tile_reach)
"""
NIBBLES = """
    fifteen = Constant <value = uint8 {15}> ()
    four = Constant <value = uint8 {4}> ()
    low = BitwiseAnd(position, fifteen)
    high = BitShift <direction = "RIGHT"> (position, four)
"""
PLACES = """
    columns_scalar = Constant <value_int: int = @columns> ()
    columns = Reshape(columns_scalar, last)
    row_begin = Mul(row, columns)
    place = Add(row_begin, column)
    place_flat = Reshape(place, last)
"""
