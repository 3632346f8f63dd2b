"""Masks and values -> packed matrices, and back, exactly. Bytes: docs/sparse_format.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from ssmpress.errors import BadInputError
from ssmpress.formats import FORMATS, SECTION_ALIGNMENT, Format, Structure, Values
from ssmpress.pack.costs import predicted_ns
from ssmpress.pack.layouts import int4
from ssmpress.pack.layouts import window_fp16 as float_windows
from ssmpress.pack.layouts import window_int8 as windows

Array = NDArray[Any]
Matrix = NDArray[np.float32]
Mask = NDArray[np.bool_]

INT8_MAX = 127
INT8_MAX_COLUMNS = 133_143
"""More columns could overflow the 32-bit sum of int8 products: docs/sparse_format.md."""

_DTYPES: Mapping[Values, type[np.generic]] = {
    Values.FP32: np.float32,
    Values.FP16: np.float16,
    Values.INT8: np.int8,
    Values.INT4: np.uint8,  # two weights
}


@dataclass(frozen=True)
class PackedMatrix:
    """A weight matrix (rows, columns) in one of the formats of `ops.FORMATS`.

    sections: arrays by the names and in the order of `format.weight_inputs`.
    stored: number of stored weights. reason: why this format was chosen, one clause.
    """

    format: Format
    rows: int
    columns: int
    stored: int
    sections: Mapping[str, Array]
    reason: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all sections: what a decode step reads."""
        return sum(section.nbytes for section in self.sections.values())


@dataclass(frozen=True)
class FrequentRows:
    """What rounding took from the rows of a 4-bit head that are used most often.

    ids: int64 (k,), the rows, ascending. errors: dense-int8 (k + 1, c), the rows' weights less what
    is stored of them, then a row of zeros for all the others.
    """

    ids: NDArray[np.int64]
    errors: PackedMatrix

    def slots(self, rows: int) -> NDArray[np.int16]:
        """For every one of `rows` rows its row of `errors`."""
        slots = np.full(rows, len(self.ids), np.int16)
        slots[self.ids] = np.arange(len(self.ids))
        return slots

    def nbytes(self, rows: int) -> int:
        """Bytes of the errors and the slots."""
        return self.errors.nbytes + self.slots(rows).nbytes


def frequent_rows(weight: Matrix, packed: PackedMatrix, ids: NDArray[np.int64]) -> FrequentRows:
    """The rounding errors of rows `ids` of `weight` (r, c), which `packed` holds rounded."""
    ids = np.sort(ids)[: np.iinfo(np.int16).max]
    errors = np.zeros((len(ids) + 1, packed.columns), np.float32)
    errors[:-1] = weight[ids] - unpack(packed)[ids]
    int8 = Format(Structure.DENSE, Values.INT8)
    kept = pack(errors, np.ones(errors.shape, bool), int8, "rounding errors of frequent rows")
    return FrequentRows(ids, kept)


def pack(
    weight: Matrix,
    keep_mask: Mask,
    packed_format: Format,
    reason: str = "",
    round_int4: Callable[[Matrix], int4.Rounded] = int4.round_weights,
) -> PackedMatrix:
    """Pack a matrix.

    Args:
        weight: float32 (r, c), finite. keep_mask: bool (r, c), True where the weight is stored;
            the others count as 0. packed_format: the format to use. reason: kept in the result.
        round_int4: how an int4 matrix is rounded; only that is.

    Returns:
        The packed matrix; a dense format stores every weight, with zeros where the mask is False.

    Raises:
        BadInputError: a weight is not finite, does not fit fp16, or has too many columns for int8.
    """
    rows, columns = weight.shape
    weight = np.where(keep_mask, weight, np.float32(0))
    if not np.isfinite(weight).all():
        raise BadInputError("a weight matrix holds NaN or infinity; train or export it again.")
    if packed_format.values is Values.INT4:
        _refuse_wide(columns, packed_format.values, int4.MAX_COLUMNS)
        sections = int4.pack(round_int4(weight))
        return PackedMatrix(packed_format, rows, columns, weight.size, sections, reason)
    values, scale = _convert(weight, packed_format.values)
    if packed_format.structure is Structure.DENSE:
        sections = {"weight": values}
        stored = weight.size
    elif packed_format.structure is Structure.WINDOW:
        sections = _windows(packed_format).pack(values, keep_mask)
        stored = int(keep_mask.sum())
    else:
        kept = values[keep_mask]
        stored = kept.size
        sections = {
            "bits": _mask_to_bits(keep_mask),
            "start": np.concatenate([[0], np.cumsum(keep_mask.sum(1))]).astype(np.int32),
            "value": np.concatenate([kept, np.zeros(_padding(kept), kept.dtype)]),
        }
    if scale is not None:
        sections["scale"] = scale
    return PackedMatrix(packed_format, rows, columns, stored, sections, reason)


def unpack(packed: PackedMatrix) -> Matrix:
    """The matrix that the packed bytes stand for, float32 (r, c).

    Equal to what was packed for fp32, correctly rounded for fp16, within scale / 2 for int8.
    For int4, what `round_int4` chose.

    Raises:
        BadInputError: a section has a wrong type, shape or content (see `check`).
    """
    check(packed)
    s = packed.sections
    if packed.format.values is Values.INT4:
        dense = int4.unpack(s, packed.rows, packed.columns)
    elif packed.format.structure is Structure.DENSE:
        dense = s["weight"].astype(np.float32)
    elif packed.format.structure is Structure.WINDOW:
        layout = _windows(packed.format)
        dense = layout.unpack(s, packed.rows, packed.columns).astype(np.float32)
    else:
        dense = np.zeros((packed.rows, packed.columns), np.float32)
        dense[_bits_to_mask(s["bits"], packed.columns)] = s["value"][: packed.stored]
    if "scale" in s:
        dense *= s["scale"][:, None]
    return dense


def keep_mask_of(packed: PackedMatrix) -> Mask:
    """Which weights are stored, bool (r, c); all of them in a dense format."""
    if packed.format.structure is Structure.DENSE:
        return np.ones((packed.rows, packed.columns), bool)
    if packed.format.structure is Structure.WINDOW:
        layout = _windows(packed.format)
        mask: Mask = layout.keep_mask_of(packed.sections, packed.rows, packed.columns)
        return mask
    return _bits_to_mask(packed.sections["bits"], packed.columns)


def check(packed: PackedMatrix) -> None:
    """Check every limit of docs/sparse_format.md.

    Raises:
        BadInputError: the first section that breaks one, with what was expected.
    """
    f, s = packed.format, packed.sections
    _expect(set(s) == set(f.weight_inputs), f, "sections", f.weight_inputs, tuple(s))
    if f.values is Values.INT4:
        for name, (dtype, shape) in int4.shapes(packed.rows, packed.columns).items():
            _expect_array(f, name, s[name], dtype, shape)
        _expect(not (s["ratio"] == -128).any(), f, "ratio", "-127 to 127", -128)
    elif f.structure is Structure.DENSE:
        dtype = np.dtype(_DTYPES[f.values])
        _expect_array(f, "weight", s["weight"], dtype, (packed.rows, packed.columns))
    elif f.structure is Structure.WINDOW:
        _check_windows(packed)
    else:
        _check_bitmask(packed)
    if f.values.quantizes_activations:
        _expect_array(f, "scale", s["scale"], np.dtype(np.float32), (packed.rows,))
        good = np.isfinite(s["scale"]).all() and (s["scale"] >= 0).all()
        _expect(bool(good), f, "scale", "finite, not negative", "other")
    if f.values is Values.INT8:
        values = s["weight" if f.structure is Structure.DENSE else "value"]
        _expect(not (values == -128).any(), f, "values", "-127 to 127", -128)


def _windows(f: Format) -> Any:
    """The module that knows the layout; both have the same functions."""
    return float_windows if f.values is Values.FP16 else windows


def _check_windows(packed: PackedMatrix) -> None:
    f, s = packed.format, packed.sections
    layout = _windows(f)
    for name, (dtype, shape) in layout.shapes(packed.rows, len(s["step"])).items():
        _expect_array(f, name, s[name], dtype, shape)
    broken = layout.problem(s, packed.rows, packed.columns)
    _expect(broken is None, f, *(broken or ("", "", "")))
    used = int(layout.read_slots(s).used.sum())
    _expect(used == packed.stored, f, "slots in use", packed.stored, used)


def _check_bitmask(packed: PackedMatrix) -> None:
    f, s = packed.format, packed.sections
    values = s["value"]
    _expect_array(f, "bits", s["bits"], np.dtype(np.uint8), _bits_shape(packed))
    _expect_array(f, "start", s["start"], np.dtype(np.int32), (packed.rows + 1,))
    _expect_array(f, "value", values, np.dtype(_DTYPES[f.values]), (values.size,))
    start = s["start"].astype(np.int64)
    _expect(int(start[0]) == 0, f, "start[0]", 0, int(start[0]))
    counts = np.unpackbits(s["bits"], axis=1).sum(1)
    inside = _bits_to_mask(s["bits"], packed.columns).sum(1)
    _expect(bool((counts == inside).all()), f, "bits", "none beyond the columns", "some")
    _expect(bool((np.diff(start) == inside).all()), f, "start", "the bits of each row", "other")
    _expect(int(start[-1]) == packed.stored, f, "start[r]", packed.stored, int(start[-1]))
    needed = packed.stored + SECTION_ALIGNMENT // values.itemsize
    _expect(needed <= values.size, f, "value", f"at least {needed} elements", values.size)


def _expect_array(
    f: Format, section: str, array: Array, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> None:
    got = f"{array.dtype} {array.shape}"
    _expect(array.dtype == dtype and array.shape == shape, f, section, f"{dtype} {shape}", got)


def _expect(ok: bool, f: Format, section: str, expected: object, got: object) -> None:
    if not ok:
        raise BadInputError(
            f"{f.name} matrix, {section}: expected {expected}; got {got}. "
            "The file is damaged or was written by another version; pack the model again."
        )


def _convert(weight: Matrix, values: Values) -> tuple[Array, NDArray[np.float32] | None]:
    if values is Values.FP32:
        return weight, None
    if values is Values.FP16:
        largest = float(np.abs(weight).max(initial=0))
        if largest > float(np.finfo(np.float16).max):
            raise BadInputError(
                f"a weight of {largest:.6g} does not fit fp16 (65504 at most); use --values fp32."
            )
        return weight.astype(np.float16), None
    _refuse_wide(weight.shape[1], values, INT8_MAX_COLUMNS)
    scale = np.abs(weight).max(axis=1, initial=0).astype(np.float32) / np.float32(INT8_MAX)
    divisor = np.where(scale > 0, scale, np.float32(1))[:, None]
    # The quotient of a row's largest weight may round to 127.00001: the clip keeps the range.
    return np.clip(np.rint(weight / divisor), -INT8_MAX, INT8_MAX).astype(np.int8), scale


def _refuse_wide(columns: int, values: Values, limit: int) -> None:
    if columns > limit:
        raise BadInputError(
            f"a matrix of {columns} columns: {values} sums hold {limit} at most; use --values fp16."
        )


def _bits_shape(packed: PackedMatrix) -> tuple[int, int]:
    return packed.rows, 8 * -(-packed.columns // 64)


def _mask_to_bits(keep_mask: Mask) -> NDArray[np.uint8]:
    rows, columns = keep_mask.shape
    padded = np.zeros((rows, 64 * -(-columns // 64)), bool)
    padded[:, :columns] = keep_mask
    return np.packbits(padded, axis=1, bitorder="little")


def _bits_to_mask(bits: Array, columns: int) -> Mask:
    return np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, :columns].astype(bool)


def _padding(values: Array) -> int:
    """Zero elements after the values: a 64-byte load from any of them stays inside."""
    size = values.itemsize
    used = values.size * size
    total = -(-(used + SECTION_ALIGNMENT) // SECTION_ALIGNMENT) * SECTION_ALIGNMENT
    return (total - used) // size


def to_csr(packed: PackedMatrix) -> scipy.sparse.csr_array:
    """The matrix as scipy's CSR, float32, the readable interchange; stored zeros stay stored."""
    keep_mask, dense = keep_mask_of(packed), unpack(packed)
    start = np.concatenate([[0], np.cumsum(keep_mask.sum(1))])
    columns = np.nonzero(keep_mask)[1]
    return scipy.sparse.csr_array((dense[keep_mask], columns, start), shape=dense.shape)


def from_csr(matrix: scipy.sparse.csr_array, packed_format: Format) -> PackedMatrix:
    """Pack scipy's CSR matrix; every stored entry, zeros too, is kept."""
    keep_mask = np.zeros(matrix.shape, bool)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    keep_mask[rows, matrix.indices] = True
    return pack(matrix.toarray().astype(np.float32), keep_mask, packed_format)


@dataclass(frozen=True)
class Cost:
    """Predicted size of a matrix in one format, and decode time in ns per weight."""

    format: Format
    nbytes: int
    time: float


SAME_SPEED = 1.05
"""Less than what two runs of the benchmark differ by."""


def predicted_bytes(packed_format: Format, rows: int, columns: int, stored: int) -> int:
    """Bytes of all sections without packing anything; exact but for the padding."""
    item = np.dtype(_DTYPES[packed_format.values]).itemsize
    if packed_format.values is Values.INT4:
        return sum(d.itemsize * prod(n) for d, n in int4.shapes(rows, columns).values())
    scale = 4 * rows if packed_format.values is Values.INT8 else 0
    if packed_format.structure is Structure.DENSE:
        return rows * columns * item + scale
    if packed_format.structure is Structure.WINDOW:
        layout = _windows(packed_format)
        records = layout.predicted_records(rows, columns, stored)
        per_tile = 4 * layout.TILE + 4
        size: int = records * layout.RECORD_BYTES + layout.tile_count(rows) * per_tile + 4 + scale
        return size
    return rows * 8 * -(-columns // 64) + 4 * (rows + 1) + stored * item + scale


def choose_format(
    rows: int, columns: int, stored: int, values: Values, machine: str = "x86_64"
) -> tuple[Format, str]:
    """The fastest format that is not larger than the dense one, and why.

    Of formats that are as fast within `SAME_SPEED`, the smallest.

    Args:
        rows, columns: shape. stored: weights that are kept. values: type of the stored weights.
        machine: that runs it.
    """
    density = stored / max(1, rows * columns)
    costs = []
    for f in (f for f in FORMATS if f.values is values):
        size = predicted_bytes(f, rows, columns, stored)
        time = predicted_ns(f, density, size / max(1, rows * columns), machine)
        costs.append(Cost(f, size, time))
    dense = next(c for c in costs if c.format.structure is Structure.DENSE)
    candidates = [c for c in costs if c.nbytes <= dense.nbytes and c.time <= dense.time]
    fastest = min(c.time for c in candidates)
    fast = [c for c in candidates if c.time <= fastest * SAME_SPEED]
    best = min(fast, key=lambda c: (c.nbytes, c.time))
    return best.format, _reason(best, dense, costs, density)


def _reason(best: Cost, dense: Cost, costs: list[Cost], density: float) -> str:
    kept = f"{density:.0%} kept"
    if best is not dense:
        size, speed = best.nbytes / dense.nbytes, dense.time / best.time
        faster = f"{speed:.1f} x as fast" if speed >= SAME_SPEED else "not slower"
        return f"{kept}: {size:.0%} of the dense bytes, {faster}"
    smaller = any(c.nbytes < dense.nbytes for c in costs)
    return f"{kept}: smaller packed, but slower" if smaller else f"{kept}: packing saves nothing"
