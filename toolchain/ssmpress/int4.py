"""Dense int4 matrices: rounding, packing, reading, checking. Bytes: docs/sparse_format.md.

Symbols: r rows, c columns, e tiles of 16 rows, g groups of 16 columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Matrix = NDArray[np.float32]

ROWS = 16
"""Rows of a tile."""
GROUP = 16
"""Columns that share a ratio."""
BYTES = ROWS * GROUP // 2
LOWEST, HIGHEST, RATIO_MAX = -8, 7, 127
MAX_COLUMNS = 16_643
"""More columns could overflow the 32-bit sum: docs/sparse_format.md."""

_CANDIDATES = np.linspace(0.7, 1.05, 8, dtype=np.float32)
"""Steps that are tried for each group, in units of the one that reaches its largest weight. Cutting
that weight short is often the smaller error: with these a trained head costs 0.29 % of its
perplexity."""
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Rounded:
    """W[i, j] ~ scale[i] ratio[i, j // 16] code[i, j].

    code: int8 (r, 16 g), -8 .. 7. ratio: int8 (r, g), -127 .. 127. scale: float32 (r,).
    """

    code: NDArray[np.int8]
    ratio: NDArray[np.int8]
    scale: NDArray[np.float32]


def shapes(rows: int, columns: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Element type and shape of every section."""
    tiles, groups = -(-rows // ROWS), -(-columns // GROUP)
    return {
        "weight": (np.dtype(np.uint8), (tiles, groups, BYTES)),
        "ratio": (np.dtype(np.int8), (tiles, groups, ROWS)),
        "scale": (np.dtype(np.float32), (rows,)),
    }


def round_weights(weight: Matrix) -> Rounded:
    """The nearest weights that int4 can hold: of several steps per group, the one that errs least.

    Args:
        weight: float32 (r, c), finite; columns are padded with zeros to whole groups.
    """
    rows, columns = weight.shape
    groups = -(-columns // GROUP)
    padded = np.zeros((rows, groups * GROUP), np.float32)
    padded[:, :columns] = weight
    code = np.empty((rows, groups, GROUP), np.int8)
    ratio = np.empty((rows, groups), np.int8)
    scale = np.empty(rows, np.float32)
    for begin in range(0, rows, _ROWS_AT_ONCE):
        part = slice(begin, min(rows, begin + _ROWS_AT_ONCE))
        parts = padded[part].reshape(part.stop - begin, groups, GROUP)
        code[part], ratio[part], scale[part] = _round_rows(parts)
    return Rounded(code.reshape(rows, groups * GROUP), ratio, scale)


def _round_rows(weight: Matrix) -> tuple[Array, Array, Array]:
    """Codes, ratios and scales of weight (r, g, 16)."""
    largest = np.abs(weight).max((1, 2), initial=0)
    scale = (largest / np.float32(-LOWEST * RATIO_MAX)).astype(np.float32)
    divisor = np.where(scale > 0, scale, np.float32(np.inf)).astype(np.float32)
    weight = weight / divisor[:, None, None]
    place = np.abs(weight).argmax(2)[..., None]
    extreme = np.take_along_axis(weight, place, 2)[..., 0]
    best = np.full(extreme.shape, np.inf, np.float32)
    ratio = np.zeros(extreme.shape, np.float32)
    for factor in _CANDIDATES:
        # The largest weight becomes -8, the code without a positive twin.
        tried = np.clip(np.rint(extreme * (factor / LOWEST)), -RATIO_MAX, RATIO_MAX)
        error = np.square(_codes(weight, tried) * tried[..., None] - weight).sum(2)
        better = error < best
        best, ratio = np.where(better, error, best), np.where(better, tried, ratio)
    return _codes(weight, ratio).astype(np.int8), ratio.astype(np.int8), scale


def _codes(weight: Matrix, step: Matrix) -> Matrix:
    divisor = np.where(step != 0, step, np.float32(np.inf))[..., None]
    codes: Matrix = np.clip(np.rint(weight / divisor), LOWEST, HIGHEST)
    return codes


def pack(weight: Matrix) -> dict[str, Array]:
    """Sections `weight`, `ratio` and `scale` of a matrix float32 (r, c)."""
    rounded = round_weights(weight)
    (_, (tiles, groups, _)), *_ = shapes(*weight.shape).values()
    nibble = np.full((tiles * ROWS, groups * GROUP), -LOWEST, np.uint8)
    nibble[: len(weight)] = rounded.code - LOWEST
    ratio = np.zeros((tiles * ROWS, groups), np.int8)
    ratio[: len(weight)] = rounded.ratio
    # tile, row, group, half, low or high, column -> tile, group, half, row, column, low or high
    parts = nibble.reshape(tiles, ROWS, groups, 2, 2, 4).transpose(0, 2, 3, 1, 5, 4)
    packed = parts[..., 0] | parts[..., 1] << 4
    return {
        "weight": packed.reshape(tiles, groups, BYTES),
        "ratio": np.ascontiguousarray(ratio.reshape(tiles, ROWS, groups).transpose(0, 2, 1)),
        "scale": rounded.scale,
    }


def unpack(sections: Mapping[str, Array], rows: int, columns: int) -> Matrix:
    """The matrix without its scales: code times ratio, float32 (r, c)."""
    tiles, groups, _ = sections["weight"].shape
    packed = sections["weight"].reshape(tiles, groups, 2, ROWS, 4)
    parts = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.int16) + LOWEST
    code = parts.transpose(0, 3, 1, 2, 5, 4).reshape(tiles * ROWS, groups, GROUP)
    ratio = sections["ratio"].transpose(0, 2, 1).reshape(tiles * ROWS, groups, 1)
    dense = (code * ratio.astype(np.int16)).reshape(tiles * ROWS, groups * GROUP)
    return dense[:rows, :columns].astype(np.float32)
