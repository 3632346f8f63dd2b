"""Packed matrices as scipy's CSR, the interchange that people and other tools read."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from ssmpress.formats import Format
from ssmpress.pack.matrix import PackedMatrix, keep_mask_of, pack, unpack


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
