"""Masks and values -> packed matrices, and back, exactly. Bytes: docs/sparse_format.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ssmpress.errors import BadInputError
from ssmpress.formats import Format
from ssmpress.pack.layout import Array, Fault, Layout, Mask, Matrix
from ssmpress.pack.layouts import LAYOUTS, sections_of
from ssmpress.pack.values import bad_scale


@dataclass(frozen=True)
class PackedMatrix:
    """A weight matrix (rows, columns) in one of the `LAYOUTS`.

    sections: arrays by the names and in the order of `sections_of(format)`. stored: number of
    stored weights. reason: why this format was chosen, one clause. zeros: weights that the mask
    left out, also where the layout stores them.
    """

    format: Format
    rows: int
    columns: int
    stored: int
    sections: Mapping[str, Array]
    reason: str = ""
    zeros: int = 0

    @property
    def layout(self) -> Layout:
        """How its bytes are read."""
        return LAYOUTS[self.format]

    @property
    def nbytes(self) -> int:
        """Bytes of all sections: what a decode step reads."""
        return sum(section.nbytes for section in self.sections.values())


def pack(weight: Matrix, keep_mask: Mask, packed_format: Format, reason: str = "") -> PackedMatrix:
    """Pack a matrix in a format; see `pack_as`."""
    return pack_as(LAYOUTS[packed_format], weight, keep_mask, reason)


def pack_as(layout: Layout, weight: Matrix, keep_mask: Mask, reason: str = "") -> PackedMatrix:
    """Pack a matrix.

    Args:
        layout: the layout to use. weight: float32 (r, c), finite where it is stored. keep_mask:
            bool (r, c), True where the weight is stored; the others count as 0. reason: kept in
            the result.

    Returns:
        The packed matrix; a whole layout stores every weight, with zeros where the mask is False.

    Raises:
        BadInputError: a weight is not finite, does not fit fp16, or has too many columns for int8.
    """
    rows, columns = weight.shape
    weight = np.where(keep_mask, weight, np.float32(0))
    if not np.isfinite(weight).all():
        raise BadInputError("a weight matrix holds NaN or infinity; train or export it again.")
    sections = layout.pack(weight, keep_mask)
    kept = int(keep_mask.sum())
    stored = weight.size if layout.whole else kept
    zeros = weight.size - kept
    return PackedMatrix(layout.format, rows, columns, stored, sections, reason, zeros)


def unpack(packed: PackedMatrix) -> Matrix:
    """The matrix that the packed bytes stand for, float32 (r, c).

    Equal to what was packed for fp32, correctly rounded for fp16, within scale / 2 for int8; for
    int4, what was chosen when it was rounded.

    Raises:
        BadInputError: a section has a wrong type, shape or content (see `check`).
    """
    check(packed)
    dense = packed.layout.unpack(packed.sections, packed.rows, packed.columns)
    if "scale" in packed.sections:
        dense *= packed.sections["scale"][:, None]
    return dense


def keep_mask_of(packed: PackedMatrix) -> Mask:
    """Which weights are stored, bool (r, c); all of them in a whole layout."""
    return packed.layout.kept(packed.sections, packed.rows, packed.columns)


def check(packed: PackedMatrix) -> None:
    """Check every limit of docs/sparse_format.md.

    Raises:
        BadInputError: the first section that breaks one, with what was expected.
    """
    fault = _fault(packed)
    if fault is not None:
        section, expected, got = fault
        raise BadInputError(
            f"{packed.format.name} matrix, {section}: expected {expected}; got {got}. "
            "The file is damaged or was written by another version; pack the model again."
        )


def _fault(packed: PackedMatrix) -> Fault | None:
    names, sections = sections_of(packed.format), packed.sections
    if set(sections) != set(names):
        return "sections", names, tuple(sections)
    shapes = packed.layout.shapes(packed.rows, packed.columns, sections)
    for name, (dtype, shape) in shapes.items():
        array = sections[name]
        if array.dtype != dtype or array.shape != shape:
            return name, f"{dtype} {shape}", f"{array.dtype} {array.shape}"
    fault = packed.layout.problem(sections, packed.rows, packed.columns, packed.stored)
    return fault or bad_scale(sections)
