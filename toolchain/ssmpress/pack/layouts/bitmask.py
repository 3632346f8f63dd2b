"""Bitmask matrices: a bit per weight, then the stored ones. Bytes: docs/sparse_format.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmpress.formats import SECTION_ALIGNMENT, Format, Structure, Values
from ssmpress.pack.layout import Array, Fault, Mask, Matrix, Sections, Shapes, length
from ssmpress.pack.values import bad_int8, element_type, round_to, scale_shape

_ONNX_MATRIX = """
    powers = Constant <value = uint8[8] {1, 2, 4, 8, 16, 32, 64, 128}> ()
    last = Constant <value_ints = [-1]> ()
    one = Constant <value_ints = [1]> ()
    zero = Constant <value_ints = [0]> ()
    bytes = Unsqueeze(bits, last)
    of_bit = BitwiseAnd(bytes, powers)
    is_set = Cast <to = 9> (of_bit)
    row_shape = Constant <value_ints = [0, -1]> ()
    rows_of_bits = Reshape(is_set, row_shape)
    columns_scalar = Constant <value_int: int = @columns> ()
    columns = Reshape(columns_scalar, last)
    keep = Slice(rows_of_bits, zero, columns, one)
    keep_shape = Shape(keep)
    flat = Reshape(keep, last)
    flat_int = Cast <to = 6> (flat)
    axis = Constant <value_int = 0> ()
    ordinal = CumSum <exclusive = 1> (flat_int, axis)
    value_float = Cast <to = 1> (value)
    at_place = Gather(value_float, ordinal)
    in_rows = Reshape(at_place, keep_shape)
    nothing = Constant <value_float = 0.0> ()
    weight = Where(keep, in_rows, nothing)
"""
"""Unpacked as float32, whatever the values: ONNX Runtime has no Where for fp16, and folds all of
this into a dense constant when it loads the model."""


@dataclass(frozen=True)
class Bitmask:
    """A bit per weight says whether it is stored; `start` says where a row's values begin."""

    values: Values
    whole = False
    sentence = "a bit per weight says whether it is stored; the stored ones follow"
    onnx_matrix = _ONNX_MATRIX
    onnx_rows = ""

    @property
    def format(self) -> Format:
        """Its name and version."""
        return Format(Structure.BITMASK, self.values)

    def shapes(self, rows: int, columns: int, sections: Sections) -> Shapes:
        """Bits in whole 64-bit words, where each row's values begin, the values and padding."""
        return {
            "bits": (np.dtype(np.uint8), (rows, 8 * -(-columns // 64))),
            "start": (np.dtype(np.int32), (rows + 1,)),
            "value": (element_type(self.values), (length(sections, "value"),)),
            **scale_shape(self.values, rows),
        }

    def pack(self, weight: Matrix, keep_mask: Mask) -> dict[str, Array]:
        """The kept weights, rounded, row after row."""
        numbers, scale = round_to(self.values, weight)
        kept = numbers[keep_mask]
        return {
            "bits": _mask_to_bits(keep_mask),
            "start": np.concatenate([[0], np.cumsum(keep_mask.sum(1))]).astype(np.int32),
            "value": np.concatenate([kept, np.zeros(_padding(kept), kept.dtype)]),
            **scale,
        }

    def unpack(self, sections: Sections, rows: int, columns: int) -> Matrix:
        """The stored numbers at their places."""
        keep_mask = _bits_to_mask(sections["bits"], columns)
        dense = np.zeros((rows, columns), np.float32)
        dense[keep_mask] = sections["value"][: np.count_nonzero(keep_mask)]
        return dense

    def kept(self, sections: Sections, rows: int, columns: int) -> Mask:
        """What the bits say."""
        return _bits_to_mask(sections["bits"], columns)

    def problem(self, sections: Sections, rows: int, columns: int, stored: int) -> Fault | None:
        """Bits, starts and values must tell the same."""
        values, start = sections["value"], sections["start"].astype(np.int64)
        if start[0] != 0:
            return "start[0]", 0, int(start[0])
        counts = np.unpackbits(sections["bits"], axis=1).sum(1)
        inside = _bits_to_mask(sections["bits"], columns).sum(1)
        if (counts != inside).any():
            return "bits", "none beyond the columns", "some"
        if (np.diff(start) != inside).any():
            return "start", "the bits of each row", "other"
        if start[-1] != stored:
            return "start[r]", stored, int(start[-1])
        needed = stored + SECTION_ALIGNMENT // values.itemsize
        if needed > values.size:
            return "value", f"at least {needed} elements", values.size
        return bad_int8("values", values)

    def predicted_bytes(self, rows: int, columns: int, stored: int) -> int:
        """Exact but for the padding of the values."""
        scale = 4 * rows if self.values is Values.INT8 else 0
        item = element_type(self.values).itemsize
        return rows * 8 * -(-columns // 64) + 4 * (rows + 1) + stored * item + scale


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
