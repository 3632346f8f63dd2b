"""The rounding errors of a 4-bit head's most frequent rows, which are stored beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.layout import Matrix
from ssmpress.pack.matrix import PackedMatrix, pack, unpack

MOST_ROWS = int(np.iinfo(np.int16).max)
"""Rows of a head that are corrected: a slot has 16 bits."""


@dataclass(frozen=True)
class FrequentRows:
    """What rounding took from the rows of a 4-bit head that are used most often.

    ids: int64 (k,), the rows, ascending. errors: dense-int8 (k + 1, c), the rows' weights less what
    is stored of them, then a row of zeros for all the others.
    """

    ids: NDArray[np.int64]
    errors: PackedMatrix

    def slots(self, rows: int) -> NDArray[np.int16]:
        """The row of `errors` of each of `rows` rows, int16 (rows,)."""
        slots = np.full(rows, len(self.ids), np.int16)
        slots[self.ids] = np.arange(len(self.ids))
        return slots

    def nbytes(self, rows: int) -> int:
        """Bytes of the errors and the slots."""
        return self.errors.nbytes + self.slots(rows).nbytes


def frequent_rows(weight: Matrix, packed: PackedMatrix, ids: NDArray[np.int64]) -> FrequentRows:
    """The rounding errors of rows `ids` of `weight` (r, c), which `packed` holds rounded."""
    ids = np.sort(ids)[:MOST_ROWS]
    return stored_errors(ids, weight[ids] - unpack(packed)[ids])


def stored_errors(ids: NDArray[np.int64], errors: Matrix) -> FrequentRows:
    """The errors (k, c) of the rows `ids` as they are stored, ascending and at most 2^15 - 1."""
    rows = np.append(errors, np.zeros((1, errors.shape[1]), np.float32), axis=0)
    int8 = Format(Structure.DENSE, Values.INT8)
    kept = pack(rows, np.ones(rows.shape, bool), int8, "rounding errors of frequent rows")
    return FrequentRows(ids, kept)
