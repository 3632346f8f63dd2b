"""The window format's sections: packing, reading, checking. Bytes: docs/sparse_format.md.

Symbols: r rows, c columns, e tiles of two lanes of 4 entries, n records.
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
from ssmpress.pack.values import bad_int8, round_to, scale_shape

SLOTS = 4
"""Weights of one entry in one record."""
LANE = 4
"""Entries that share a window."""
RECORD_BYTES = 2 + WINDOW + TILE * SLOTS
"""Steps, positions, values."""

_NOTHING = np.array([1, 0, 0, 0], np.uint8)
"""Positions of an entry that has no weight in a record."""


def shapes(rows: int, records: int) -> Shapes:
    """Element type and shape of every section but the scales."""
    tiles = tile_count(rows)
    return {
        "order": (np.dtype(np.int32), (tiles * TILE,)),
        "start": (np.dtype(np.int32), (tiles + 1,)),
        "step": (np.dtype(np.uint8), (records, 2)),
        "position": (np.dtype(np.uint8), (records, WINDOW)),
        "value": (np.dtype(np.int8), (records, TILE * SLOTS)),
    }


def pack(values: NDArray[np.int8], keep_mask: Mask) -> dict[str, Array]:
    """Sections `order`, `start`, `step`, `position` and `value` of a matrix.

    Rows go into lanes by their number of weights, since the fullest row of a lane decides how many
    records it takes; then rows of near lanes change places where that saves records (`_regroup`).
    Lanes are paired by their number of records.

    Args:
        values: int8 (r, c). keep_mask: bool (r, c), True where the weight is stored.
    """
    rows = len(values)
    entries = np.full(tile_count(rows) * TILE, -1, np.int32)
    entries[:rows] = _regroup(keep_mask, np.argsort(-keep_mask.sum(1), kind="stable"))
    filled = _fill_lanes(keep_mask, entries[:rows], len(entries) // LANE)
    counts = np.bincount(filled.lane, minlength=len(entries) // LANE)
    lane_order = np.argsort(-counts, kind="stable")
    rank = np.empty_like(lane_order)
    rank[lane_order] = np.arange(rank.size)
    records_of_tile = counts[lane_order].reshape(-1, 2).max(1, initial=0)
    start = np.concatenate([[0], np.cumsum(records_of_tile)])
    record = start[rank[filled.lane] // 2] + filled.turn
    side = rank[filled.lane] % 2
    step = np.zeros((start[-1], 2), np.uint8)
    step[record, side] = filled.step
    position = np.tile(_NOTHING, (int(start[-1]), 2, LANE)).reshape(-1, 2, LANE * SLOTS)
    position[record, side] = filled.position.reshape(-1, LANE * SLOTS)
    value = np.zeros((start[-1], 2, LANE * SLOTS), np.int8)
    stored = np.append(values[entries[:rows]][keep_mask[entries[:rows]]], np.int8(0))
    value[record, side] = stored[filled.source].reshape(-1, LANE * SLOTS)
    return {
        "order": entries.reshape(-1, LANE)[lane_order].reshape(-1),
        "start": start.astype(np.int32),
        "step": step,
        "position": position[:, 0] | position[:, 1] << 4,
        "value": value.reshape(-1, TILE * SLOTS),
    }


def _regroup(keep_mask: Mask, order: Ints) -> Ints:
    """Rows of near lanes change places as long as that takes no more records: 3 to 4 % fewer.

    In a round half of the lanes try one row each against one of another lane, by a fixed plan, so
    that the same masks give the same bytes.
    """
    lanes = order[: order.size // LANE * LANE].reshape(-1, LANE).copy()
    if len(lanes) < 2:
        return order
    reach = _Reach.of(keep_mask)
    records = reach.records(lanes)
    for distance, offset, mine, other in _ROUNDS:
        first = np.arange(len(lanes) - distance)
        first = first[(first + offset) // distance % 2 == 0]
        second = first + distance
        tried = lanes.copy()
        tried[first, mine], tried[second, other] = lanes[second, other], lanes[first, mine]
        counts = reach.records(tried)
        no_worse = (counts[first] + counts[second]) <= (records[first] + records[second])
        changed = np.concatenate([first[no_worse], second[no_worse]])
        lanes[changed], records[changed] = tried[changed], counts[changed]
    return np.concatenate([lanes.reshape(-1), order[lanes.size :]])


_ROUNDS = tuple(
    (distance, offset, mine, other)
    for distance in (1, 3, 7, 2, 5)
    for offset in (0, distance)
    for mine in range(LANE)
    for other in range(LANE)
)
"""How far apart the lanes are, where the first pair begins, and the entries that change places."""


@dataclass(frozen=True)
class _Reach:
    """nth: the column of every row's k-th weight, from `columns` on where there is none, flat.
    before: how many weights of a row lie before a column, flat. widths: of their rows."""

    nth: NDArray[np.int32]
    before: NDArray[np.int32]
    widths: tuple[int, int]
    columns: int

    @classmethod
    def of(cls, keep_mask: Mask) -> _Reach:
        rows, columns = keep_mask.shape
        before = np.zeros((rows, columns + WINDOW + 1), np.int32)
        np.cumsum(keep_mask, axis=1, out=before[:, 1 : columns + 1])
        before[:, columns + 1 :] = before[:, columns : columns + 1]
        counts = before[:, columns]
        nth = np.full((rows, int(counts.max(initial=0)) + 1), columns, np.int32)
        row, column = np.nonzero(keep_mask)
        nth[row, before[row, column]] = column
        return cls(nth.reshape(-1), before.reshape(-1), (nth.shape[1], before.shape[1]), columns)

    def records(self, lanes: Ints) -> Ints:
        """How many records each lane of rows (n, 4) takes, gaps wider than a step aside."""
        by_entry = np.ascontiguousarray(lanes.T)
        nth_of, before_of = by_entry * self.widths[0], by_entry * self.widths[1] + WINDOW
        taken = np.zeros(by_entry.shape, np.int32)
        records = np.zeros(len(lanes), np.int64)
        while True:
            begin = self.nth.take(nth_of + taken).min(0)
            unfinished = begin < self.columns
            if not unfinished.any():
                return records
            records += unfinished
            taken = np.minimum(self.before.take(before_of + begin), taken + SLOTS)


@dataclass(frozen=True)
class _Filled:
    """m windows of lanes. lane, turn (which window of its lane), step: (m,).

    position, source: (m, 4, 4), entries x slots; source counts the stored weights in entry order,
    -1 for a slot that is not in use.
    """

    lane: Ints
    turn: Ints
    step: Ints
    position: NDArray[np.uint8]
    source: Ints


def _fill_lanes(keep_mask: Mask, order: NDArray[np.int32], lanes: int) -> _Filled:
    """Fills the windows of all lanes side by side, one window of each at a time.

    A lane's next window begins at the first weight that none of its entries has stored yet, and
    every entry stores up to 4 of its weights in it: no cut at a common column is needed, so an
    entry that is ahead of the others takes what it can reach.
    """
    columns = np.append(np.nonzero(keep_mask[order])[1], 0)
    counts = np.zeros(lanes * LANE, np.int64)
    counts[: order.size] = keep_mask[order].sum(1)
    ends = np.cumsum(counts).reshape(lanes, LANE)
    at = ends - counts.reshape(lanes, LANE)
    first = np.zeros(lanes, np.int64)
    beyond = np.int64(keep_mask.shape[1])
    turns: list[tuple[Array, ...]] = []
    live = np.nonzero((at < ends).any(1))[0]
    while live.size:
        index = at[live][..., None] + np.arange(SLOTS)
        inside = index < ends[live][..., None]
        column = np.where(inside, columns[np.where(inside, index, -1)], beyond)
        begin = np.minimum(column[..., 0].min(1), first[live] + LARGEST_STEP)
        relative = column - begin[:, None, None]
        used = inside & (relative < WINDOW)
        step = begin - first[live]
        turns.append((live, step, _positions(relative, used), np.where(used, index, -1)))
        first[live] = begin
        at[live] += used.sum(-1)
        live = live[(at[live] < ends[live]).any(1)]
    turn = np.repeat(np.arange(len(turns)), [len(t[0]) for t in turns])
    empty = np.zeros((0, LANE, SLOTS))
    return _Filled(
        np.concatenate([np.zeros(0, np.int64), *(t[0] for t in turns)]),
        turn.astype(np.int64),
        np.concatenate([np.zeros(0, np.int64), *(t[1] for t in turns)]),
        np.concatenate([empty.astype(np.uint8), *(t[2] for t in turns)]),
        np.concatenate([empty.astype(np.int64), *(t[3] for t in turns)]),
    )


def _positions(relative: Ints, used: Mask) -> NDArray[np.uint8]:
    """Positions in the form that tells which slots are in use."""
    last = np.where(used, relative, 0).max(-1, keepdims=True)
    position = np.where(used, relative, last).astype(np.uint8)
    position[~used[..., 0]] = _NOTHING
    return position


def read_slots(sections: Sections) -> Slots:
    """Row, column and use of every slot. `start` must have passed `problem`."""
    start = sections["start"].astype(np.int64)
    tile = np.repeat(np.arange(start.size - 1), np.diff(start))
    reach = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(sections["step"], 0, np.int64)])
    first = reach[1:] - reach[start[tile]]
    position = _by_entry(sections["position"])
    column = np.repeat(first, LANE, axis=1)[..., None] + position
    order = sections["order"].reshape(-1, TILE)
    row = np.broadcast_to(order[tile][..., None], position.shape)
    used = np.ones(position.shape, bool)
    used[..., 0] = position[..., 0] <= position[..., 1]
    for k in range(1, SLOTS):
        used[..., k] = used[..., k - 1] & (position[..., k] > position[..., k - 1])
    return Slots(row.astype(np.int64), column, used)


def _by_entry(position: Array) -> Ints:
    """Positions (n, 8, 4) from bytes (n, 16)."""
    both = np.concatenate([position & 15, position >> 4], axis=1)
    return both.reshape(-1, TILE, SLOTS).astype(np.int64)


def unpack(sections: Sections, rows: int, columns: int) -> NDArray[np.int8]:
    """The int8 matrix (r, c)."""
    slots = read_slots(sections)
    dense = np.zeros((rows, columns), np.int8)
    value = sections["value"].reshape(slots.used.shape)
    dense[slots.row[slots.used], slots.column[slots.used]] = value[slots.used]
    return dense


def keep_mask_of(sections: Sections, rows: int, columns: int) -> Mask:
    """Which weights are stored, bool (r, c)."""
    return mask_of_slots(read_slots(sections), rows, columns)


def problem(sections: Sections, rows: int, columns: int) -> Fault | None:
    """The first limit of docs/sparse_format.md that is broken: section, expected, got.

    Types and shapes (see `shapes`) must be right already.
    """
    order = sections["order"]
    if (
        not np.array_equal(np.sort(order)[order.size - rows :], np.arange(rows))
        or (np.sort(order)[: order.size - rows] != -1).any()
    ):
        return "order", f"each of {rows} rows once, and -1", "other"
    if fault := bad_start(sections):
        return fault
    slots = read_slots(sections)
    position = _by_entry(sections["position"])
    if (slots.column - position >= columns).any():
        return "step", f"first columns below {columns}", "a larger one"
    nothing = (position == _NOTHING).all(-1)
    repeated = (slots.used[..., 1:] | (position[..., 1:] == position[..., :-1])).all(-1)
    if not (nothing | slots.used[..., 0] & repeated).all():
        return "position", "ascending, the last one repeated, or 1 0 0 0", "other"
    value = sections["value"].reshape(slots.used.shape)
    if (value[~slots.used] != 0).any():
        return "value", "0 in slots that are not in use", "other"
    return misplaced_weights(slots, columns)


_ONNX_MATRIX = (
    TILE_OF_RECORD
    + """
    no_step = Constant <value = int64[1, 2] {0, 0}> ()
    all_steps = Concat <axis = 0> (no_step, step_int)
"""
    + FIRST_COLUMN
    + """
    lanes_shape = Constant <value_ints = [0, 2, 1, 1]> ()
    window = Reshape(first_column, lanes_shape)
"""
    + NIBBLES
    + """
    both = Concat <axis = 1> (low, high)
    both_int = Cast <to = 7> (both)
    slots_shape = Constant <value_ints = [0, 2, 4, 4]> ()
    in_window = Reshape(both_int, slots_shape)
    column = Add(window, in_window)
    order_int = Cast <to = 7> (order)
    tile_shape = Constant <value_ints = [-1, 8]> ()
    tile_rows = Reshape(order_int, tile_shape)
    record_rows = Gather(tile_rows, tile)
    rows_shape = Constant <value_ints = [0, 2, 4, 1]> ()
    row = Reshape(record_rows, rows_shape)
"""
    + PLACES
    + """
    value_flat = Reshape(value, last)
    is_weight = Cast <to = 9> (value_flat)
    place_of_weight = Where(is_weight, place_flat, zero)
    value_float = Cast <to = 1> (value_flat)
    rows = Shape(scale)
    size = Mul(rows, columns)
    nothing = ConstantOfShape(size)
    flat = ScatterElements <axis = 0, reduction = "add"> (nothing, place_of_weight, value_float)
    shape = Concat <axis = 0> (rows, columns)
    weight = Reshape <allowzero = 1> (flat, shape)
"""
)
"""Zeros, of which slots that are not in use hold plenty, are added at the first weight."""

_SHARE_IN_USE = (0.25, 0.30, 0.47, 0.69, 0.84, 0.93, 1.0)
"""That of the projections of mamba-31m, pruned to 70 and 90 %."""


@dataclass(frozen=True)
class WindowInt8:
    """int8 weights in windows of 16 columns, 4 of each of 8 rows in a record."""

    format = Format(Structure.WINDOW, Values.INT8)
    whole = False
    sentence = windows.SENTENCE
    onnx_matrix = _ONNX_MATRIX
    onnx_rows = ""

    def shapes(self, rows: int, columns: int, sections: Sections) -> Shapes:
        """The records, then the scales."""
        return {**shapes(rows, length(sections, "step")), **scale_shape(Values.INT8, rows)}

    def pack(self, weight: Matrix, keep_mask: Mask) -> dict[str, Array]:
        """The kept weights, rounded, in records."""
        numbers, scale = round_to(Values.INT8, weight)
        return {**pack(numbers, keep_mask), **scale}

    def unpack(self, sections: Sections, rows: int, columns: int) -> Matrix:
        """The stored numbers at their places."""
        return unpack(sections, rows, columns).astype(np.float32)

    def kept(self, sections: Sections, rows: int, columns: int) -> Mask:
        """The places of the slots in use, bool (rows, columns)."""
        return keep_mask_of(sections, rows, columns)

    def problem(self, sections: Sections, rows: int, columns: int, stored: int) -> Fault | None:
        """The first limit that is broken."""
        fault = problem(sections, rows, columns) or windows.miscounted(read_slots(sections), stored)
        return fault or bad_int8("values", sections["value"])

    def predicted_bytes(self, rows: int, columns: int, stored: int) -> int:
        """The bytes, if as many slots are in use as of trained masks."""
        records = windows.predicted_records(rows, columns, stored, TILE * SLOTS, _SHARE_IN_USE)
        return windows.predicted_bytes(rows, records, RECORD_BYTES) + 4 * rows
