"""Every layout of a packed matrix, a file each. Their bytes: docs/sparse_format.md."""

from __future__ import annotations

from ssmpress.formats import Format, Values
from ssmpress.pack.layout import Layout
from ssmpress.pack.layouts.bitmask import Bitmask
from ssmpress.pack.layouts.dense import Dense
from ssmpress.pack.layouts.int4 import Int4
from ssmpress.pack.layouts.window_fp16 import WindowFp16
from ssmpress.pack.layouts.window_int8 import WindowInt8

_FLOATS_AND_INT8 = (Values.FP32, Values.FP16, Values.INT8)

_ALL: tuple[Layout, ...] = (
    *map(Dense, _FLOATS_AND_INT8),
    *map(Bitmask, _FLOATS_AND_INT8),
    Int4(),
    WindowFp16(),
    WindowInt8(),
)
LAYOUTS = {layout.format: layout for layout in _ALL}
"""By format; y = x Wᵀ with x float32 (..., c), W (r, c) packed, y float32 (..., r)."""

FORMATS = tuple(LAYOUTS)


def sections_of(packed_format: Format) -> tuple[str, ...]:
    """Names of the packed sections, in the order of the op's inputs after `x`."""
    return tuple(LAYOUTS[packed_format].shapes(0, 0, {}))
