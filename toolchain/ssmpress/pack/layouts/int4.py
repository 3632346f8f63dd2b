"""Dense int4 matrices: rounding, packing, reading, checking. Bytes: docs/sparse_format.md.

Symbols: r rows, c columns, e tiles of 16 rows, g groups of 16 columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmpress.callbacks import Steps
from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.layout import Array, Fault, Mask, Matrix, Sections, Shapes, bytes_of
from ssmpress.pack.values import refuse_wide, scale_shape

ROWS = 16
"""Rows of a tile."""
GROUP = 16
"""Columns that share a ratio."""
BYTES = ROWS * GROUP // 2
LOWEST, HIGHEST, RATIO_MAX = -8, 7, 127
MAX_COLUMNS = 16_643
"""More columns could overflow the 32-bit sum: docs/sparse_format.md."""

_CANDIDATES = np.linspace(0.6, 1.1, 16, dtype=np.float32)
"""Steps that are tried for each group, in units of the one that reaches its largest weight. Cutting
that weight short is often the smaller error."""
_DAMP = 0.05
"""Of the Hessian's mean diagonal, added to it: what a few thousand calibration tokens cannot
tell."""
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Rounded:
    """W[i, j] ~ scale[i] ratio[i, j // 16] code[i, j].

    code: int8 (r, 16 g), -8 .. 7. ratio: int8 (r, g), -127 .. 127. scale: float32 (r,).
    """

    code: NDArray[np.int8]
    ratio: NDArray[np.int8]
    scale: NDArray[np.float32]


def shapes(rows: int, columns: int) -> Shapes:
    """Element type and shape of every section."""
    tiles, groups = -(-rows // ROWS), -(-columns // GROUP)
    return {
        "weight": (np.dtype(np.uint8), (tiles, groups, BYTES)),
        "ratio": (np.dtype(np.int8), (tiles, groups, ROWS)),
        **scale_shape(Values.INT4, rows),
    }


def round_weights(
    weight: Matrix, hessian: Array | None = None, progress: Steps | None = None
) -> Rounded:
    """Weights that int4 can hold, near the given ones: of several steps per group, the best.

    Args:
        weight: float32 (r, c), finite; columns are padded with zeros to whole groups.
        hessian: float (c, c), symmetric, positive semidefinite: an error e of a row costs e H eᵀ,
            and later columns make up for the errors of earlier ones. None: e eᵀ. Zeros stay zeros.

    Source: Frantar et al., "GPTQ", arXiv 2210.17323, section 3, with H from the caller.
    """
    rows, columns = weight.shape
    groups = -(-columns // GROUP)
    factor = None if hessian is None else _feedback(hessian, groups * GROUP)
    padded = np.zeros((rows, groups * GROUP), np.float32)
    padded[:, :columns] = weight
    code = np.empty((rows, groups, GROUP), np.int8)
    ratio = np.empty((rows, groups), np.int8)
    scale = np.empty(rows, np.float32)
    for begin in range(0, rows, _ROWS_AT_ONCE):
        part = slice(begin, min(rows, begin + _ROWS_AT_ONCE))
        parts = padded[part].reshape(part.stop - begin, groups, GROUP)
        code[part], ratio[part], scale[part] = _round_rows(parts, factor)
        if progress:
            progress(part.stop, rows)
    return Rounded(code.reshape(rows, groups * GROUP), ratio, scale)


def _feedback(hessian: Array, columns: int) -> Matrix:
    """Upper triangular U, Uᵀ U = (H + damp)⁻¹, float32 (columns, columns); padding passes nothing
    on."""
    padded = np.eye(columns)
    size = len(hessian)
    damp = _DAMP * float(hessian.trace(dtype=np.float64)) / max(1, size)
    padded[:size, :size] = hessian + (damp if damp > 0 else 1.0) * np.eye(size)
    inverse = np.linalg.inv(padded)
    factor: Matrix = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    return factor


def _round_rows(weight: Matrix, factor: Matrix | None) -> tuple[Array, Array, Array]:
    """Codes (r, g, 16), ratios (r, g) and scales (r,) of weight (r, g, 16)."""
    largest = np.abs(weight).max((1, 2), initial=0)
    scale = (largest / np.float32(-LOWEST * RATIO_MAX)).astype(np.float32)
    divisor = np.where(scale > 0, scale, np.float32(np.inf)).astype(np.float32)
    weight = weight / divisor[:, None, None]
    if factor is None:
        return *_round_groups(weight), scale
    code, ratio = np.empty(weight.shape, np.int8), np.empty(weight.shape[:2], np.int8)
    kept = weight != 0
    for g in range(weight.shape[1]):
        part, after = slice(g * GROUP, (g + 1) * GROUP), (g + 1) * GROUP
        code[:, g], ratio[:, g], error = _round_group(weight[:, g], kept[:, g], factor[part, part])
        passed_on = error @ factor[part, after:]
        weight[:, g + 1 :] -= passed_on.reshape(len(weight), -1, GROUP)
    return code, ratio, scale


def _tried(weight: Matrix) -> Matrix:
    """Ratios to try for groups (..., 16): float32 (k, ...)."""
    place = np.abs(weight).argmax(-1)[..., None]
    extreme = np.take_along_axis(weight, place, -1)[..., 0]
    # The largest weight becomes -8, the code without a positive twin.
    factors = _CANDIDATES.reshape(-1, *[1] * extreme.ndim) / LOWEST
    ratios: Matrix = np.clip(np.rint(extreme * factors), -RATIO_MAX, RATIO_MAX)
    return ratios


def _round_groups(weight: Matrix) -> tuple[Array, Array]:
    """Codes and ratios of weight (r, g, 16), in units of the rows' scales: least squares."""
    best = np.full(weight.shape[:2], np.inf, np.float32)
    ratio = np.zeros(weight.shape[:2], np.float32)
    for tried in _tried(weight):
        error = np.square(_codes(weight, tried) * tried[..., None] - weight).sum(2)
        better = error < best
        best, ratio = np.where(better, error, best), np.where(better, tried, ratio)
    return _codes(weight, ratio).astype(np.int8), ratio.astype(np.int8)


def _round_group(weight: Matrix, kept: Array, factor: Matrix) -> tuple[Array, Array, Matrix]:
    """Codes (r, 16), ratios (r,) and what to pass on (r, 16), of one group of all rows (r, 16).

    kept: bool (r, 16), False where a weight was pruned and stays 0.

        error_j = (w_j - code_j ratio) / U_jj,   w_k -= error_j U_jk for every later column k

    The sum of error_j squared is what the group costs if later columns make up for it.
    """
    tried = _tried(weight)  # (k, r)
    step = np.where(tried != 0, tried, np.float32(np.inf))
    current = np.repeat(weight.T[:, None], len(tried), axis=1)  # (16, k, r)
    code = np.empty_like(current)
    for j in range(GROUP):
        code[j] = np.clip(np.rint(current[j] / step), LOWEST, HIGHEST) * kept[:, j]
        current[j] = (current[j] - code[j] * tried) / factor[j, j]
        current[j + 1 :] -= factor[j, j + 1 :, None, None] * current[j]
    best = np.square(current).sum(0).argmin(0)[None]  # (1, r)
    chosen = (np.take_along_axis(a, best[None], 1)[:, 0].T for a in (code, current))
    return next(chosen), np.take_along_axis(tried, best, 0)[0], next(chosen)


def _codes(weight: Matrix, step: Matrix) -> Matrix:
    divisor = np.where(step != 0, step, np.float32(np.inf))[..., None]
    codes: Matrix = np.clip(np.rint(weight / divisor), LOWEST, HIGHEST)
    return codes


def pack(rounded: Rounded) -> dict[str, Array]:
    """Sections `weight`, `ratio` and `scale`."""
    rows = len(rounded.code)
    (_, (tiles, groups, _)), *_ = shapes(*rounded.code.shape).values()
    nibble = np.full((tiles * ROWS, groups * GROUP), -LOWEST, np.uint8)
    nibble[:rows] = rounded.code - LOWEST
    ratio = np.zeros((tiles * ROWS, groups), np.int8)
    ratio[:rows] = rounded.ratio
    # tile, row, group, half, low or high, column -> tile, group, half, row, column, low or high
    parts = nibble.reshape(tiles, ROWS, groups, 2, 2, 4).transpose(0, 2, 3, 1, 5, 4)
    packed = parts[..., 0] | parts[..., 1] << 4
    return {
        "weight": packed.reshape(tiles, groups, BYTES),
        "ratio": np.ascontiguousarray(ratio.reshape(tiles, ROWS, groups).transpose(0, 2, 1)),
        "scale": rounded.scale,
    }


def unpack(sections: Sections, rows: int, columns: int) -> Matrix:
    """The matrix without its scales: code times ratio, float32 (r, c)."""
    tiles, groups, _ = sections["weight"].shape
    packed = sections["weight"].reshape(tiles, groups, 2, ROWS, 4)
    parts = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.int16) + LOWEST
    code = parts.transpose(0, 3, 1, 2, 5, 4).reshape(tiles * ROWS, groups, GROUP)
    ratio = sections["ratio"].transpose(0, 2, 1).reshape(tiles * ROWS, groups, 1)
    dense = (code * ratio.astype(np.int16)).reshape(tiles * ROWS, groups * GROUP)
    return dense[:rows, :columns].astype(np.float32)


_ONNX_MATRIX = """
    tiles_by = Constant <value_ints = [0, 0, 2, 1, 16, 4]> ()
    fifteen = Constant <value = uint8 {15}> ()
    four = Constant <value = uint8 {4}> ()
    low = BitwiseAnd(weight, fifteen)
    high = BitShift <direction = "RIGHT"> (weight, four)
    low_parts = Reshape(low, tiles_by)
    high_parts = Reshape(high, tiles_by)
    parts = Concat <axis = 3> (low_parts, high_parts)
    by_row = Transpose <perm = [0, 4, 1, 2, 3, 5]> (parts)
    groups_shape = Constant <value_ints = [0, 0, 0, 16]> ()
    nibble = Reshape(by_row, groups_shape)
    nibble_float = Cast <to = 1> (nibble)
    eight = Constant <value_float = 8.0> ()
    code = Sub(nibble_float, eight)
    ratio_float = Cast <to = 1> (ratio)
    ratio_by_row = Transpose <perm = [0, 2, 1]> (ratio_float)
    last = Constant <value_ints = [-1]> ()
    ratios = Unsqueeze(ratio_by_row, last)
    product = Mul(code, ratios)
    sizes = Shape(product)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    four_axes = Constant <value_ints = [4]> ()
    row_sizes = Slice(sizes, zero, two, zero)
    column_sizes = Slice(sizes, two, four_axes, zero)
    all_rows = ReduceProd(row_sizes, zero)
    all_columns = ReduceProd(column_sizes, zero)
    shape = Concat <axis = 0> (all_rows, all_columns)
    padded = Reshape <allowzero = 1> (product, shape)
    rows = Shape(scale)
    columns_scalar = Constant <value_int: int = @columns> ()
    columns = Reshape(columns_scalar, last)
    begin = Constant <value_ints = [0, 0]> ()
    end = Concat <axis = 0> (rows, columns)
    integers = Slice(padded, begin, end)
"""
"""Codes times ratios: at most 1016, exact in float32."""


@dataclass(frozen=True)
class Int4:
    """Every weight is stored in 4 bits, with a ratio for 16 columns and a scale for a row.

    round_weights: chooses the codes and ratios.
    """

    round_weights: Callable[[Matrix], Rounded] = round_weights
    format = Format(Structure.DENSE, Values.INT4)
    whole = True
    sentence = "every weight is stored, row after row"
    onnx_matrix = _ONNX_MATRIX
    onnx_rows = _ONNX_MATRIX

    def shapes(self, rows: int, columns: int, sections: Sections) -> Shapes:
        """Codes, ratios, scales."""
        return shapes(rows, columns)

    def pack(self, weight: Matrix, keep_mask: Mask) -> dict[str, Array]:
        """The weights, rounded by `round_weights`."""
        refuse_wide(weight.shape[1], Values.INT4, MAX_COLUMNS)
        return pack(self.round_weights(weight))

    def unpack(self, sections: Sections, rows: int, columns: int) -> Matrix:
        """Codes times ratios."""
        return unpack(sections, rows, columns)

    def kept(self, sections: Sections, rows: int, columns: int) -> Mask:
        """Every weight is kept: bool (rows, columns)."""
        return np.ones((rows, columns), bool)

    def problem(self, sections: Sections, rows: int, columns: int, stored: int) -> Fault | None:
        """-128 is no ratio."""
        lowest = bool((sections["ratio"] == -128).any())
        return ("ratio", "-127 to 127", -128) if lowest else None

    def predicted_bytes(self, rows: int, columns: int, stored: int) -> int:
        """The bytes of a packed matrix, exactly."""
        return bytes_of(shapes(rows, columns))
