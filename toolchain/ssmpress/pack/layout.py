"""What every layout of a packed matrix answers, and what all of them share.

A layout is one way to store a matrix: one file in `layouts/`, one kernel in `runtimes/kernels`, one
paragraph of docs/sparse_format.md. Symbols: r rows (output features), c columns (input features).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssmpress.formats import Format

Array = NDArray[Any]
Matrix = NDArray[np.float32]
Mask = NDArray[np.bool_]
Sections = Mapping[str, Array]
"""The arrays of a packed matrix by name."""
Shapes = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Element type and shape of every section, in the order of the op's inputs."""
Fault = tuple[str, object, object]
"""A limit that is broken: section, expected, got."""


class Layout(Protocol):
    """One layout with one type of values.

    format: its name and version. whole: every weight has a place, and the mask stores zeros.
    sentence: how the weights lie, one clause for docs and viewers. onnx_matrix: nodes in ONNX's
    textual syntax that make of the sections what `graph/fallback.py` multiplies with; the inputs
    are the sections and the attribute `columns`. onnx_rows: nodes that make `integers` of them,
    whose rows an embedding reads; "" where a row cannot be read by itself.
    """

    @property
    def format(self) -> Format: ...
    @property
    def whole(self) -> bool: ...
    @property
    def sentence(self) -> str: ...
    @property
    def onnx_matrix(self) -> str: ...
    @property
    def onnx_rows(self) -> str: ...

    def shapes(self, rows: int, columns: int, sections: Sections) -> Shapes:
        """Type and shape of every section. sections: say how long those are that the matrix's
        shape does not; one that is missing is empty."""
        ...

    def pack(self, weight: Matrix, keep_mask: Mask) -> dict[str, Array]:
        """Sections of finite weights (r, c), which are 0 where the mask (r, c) is False."""
        ...

    def unpack(self, sections: Sections, rows: int, columns: int) -> Matrix:
        """The matrix (r, c) without its rows' scales, from sections without a fault."""
        ...

    def kept(self, sections: Sections, rows: int, columns: int) -> Mask:
        """Which weights are stored, bool (r, c)."""
        ...

    def problem(self, sections: Sections, rows: int, columns: int, stored: int) -> Fault | None:
        """The first limit of docs/sparse_format.md that sections of the right types and shapes
        break. stored: how many weights they should hold."""
        ...

    def predicted_bytes(self, rows: int, columns: int, stored: int) -> int:
        """Bytes of all sections without packing anything; exact but for the padding."""
        ...


def length(sections: Sections, name: str) -> int:
    """Elements along a section's first axis; 0 where it is missing or has none."""
    section = sections.get(name)
    return 0 if section is None or section.ndim == 0 else len(section)


def bytes_of(shapes: Shapes) -> int:
    """Bytes of sections of these types and shapes."""
    return sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in shapes.values())
