"""Dense matrices of floats or int8: every weight, row after row. Bytes: docs/sparse_format.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.layout import Array, Fault, Mask, Matrix, Sections, Shapes, bytes_of
from ssmpress.pack.values import bad_int8, element_type, round_to, scale_shape


@dataclass(frozen=True)
class Dense:
    """Every weight is stored, with zeros where the mask is False."""

    values: Values
    whole = True
    sentence = "every weight is stored, row after row"
    onnx_matrix = ""

    @property
    def format(self) -> Format:
        """Its name and version."""
        return Format(Structure.DENSE, self.values)

    @property
    def onnx_rows(self) -> str:
        """Rows of floats need no op: a Gather reads them."""
        int8 = self.values is Values.INT8
        return "    integers = Cast <to = 1> (weight)\n" if int8 else ""

    def shapes(self, rows: int, columns: int, sections: Sections) -> Shapes:
        """The weights, then the scales."""
        weight = (element_type(self.values), (rows, columns))
        return {"weight": weight, **scale_shape(self.values, rows)}

    def pack(self, weight: Matrix, keep_mask: Mask) -> dict[str, Array]:
        """The weights, rounded."""
        numbers, scale = round_to(self.values, weight)
        return {"weight": numbers, **scale}

    def unpack(self, sections: Sections, rows: int, columns: int) -> Matrix:
        """The stored numbers."""
        return sections["weight"].astype(np.float32)

    def kept(self, sections: Sections, rows: int, columns: int) -> Mask:
        """Every weight is kept: bool (rows, columns)."""
        return np.ones((rows, columns), bool)

    def problem(self, sections: Sections, rows: int, columns: int, stored: int) -> Fault | None:
        """int8 has a limit."""
        return bad_int8("values", sections["weight"])

    def predicted_bytes(self, rows: int, columns: int, stored: int) -> int:
        """The bytes of a packed matrix, exactly."""
        return bytes_of(self.shapes(rows, columns, {}))
