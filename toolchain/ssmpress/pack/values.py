"""The types of stored weights: rounding to them, their limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmpress.errors import BadInputError
from ssmpress.formats import Values
from ssmpress.pack.layout import Array, Fault, Matrix, Sections, Shapes

INT8_MAX = 127
INT8_MAX_COLUMNS = 133_143
"""More columns could overflow the 32-bit sum of int8 products: docs/sparse_format.md."""

_DTYPES: Mapping[Values, type[np.generic]] = {
    Values.FP32: np.float32,
    Values.FP16: np.float16,
    Values.INT8: np.int8,
}


def element_type(values: Values) -> np.dtype[Any]:
    """Type of one stored weight; of int4, where two share a byte, there is none."""
    return np.dtype(_DTYPES[values])


def scale_shape(values: Values, rows: int) -> Shapes:
    """The section `scale` where the values have one."""
    return {"scale": (np.dtype(np.float32), (rows,))} if values.quantizes_activations else {}


FP16_MAX = float(np.finfo(np.float16).max)
"""65,504: the largest weight that fp16 holds."""


def round_to(values: Values, weight: Matrix) -> tuple[Array, dict[str, Array]]:
    """Weights (r, c) as values of a type, and the section `scale` where it has one.

    int8: w ~ scale[i] code, -127 .. 127, with the scale of each row's largest weight.

    Raises:
        BadInputError: a weight does not fit fp16, or there are too many columns for int8.
    """
    if values is Values.FP32:
        return weight, {}
    if values is Values.FP16:
        largest = float(np.abs(weight).max(initial=0))
        if largest > FP16_MAX:
            raise BadInputError(
                f"a weight of {largest:.6g} does not fit fp16 (65504 at most); use --values fp32."
            )
        return weight.astype(np.float16), {}
    refuse_wide(weight.shape[1], values, INT8_MAX_COLUMNS)
    scale = np.abs(weight).max(axis=1, initial=0).astype(np.float32) / np.float32(INT8_MAX)
    divisor = np.where(scale > 0, scale, np.float32(1))[:, None]
    # The quotient of a row's largest weight may round to 127.00001: the clip keeps the range.
    code = np.clip(np.rint(weight / divisor), -INT8_MAX, INT8_MAX).astype(np.int8)
    return code, {"scale": scale}


def refuse_wide(columns: int, values: Values, limit: int) -> None:
    """Raise BadInputError where integer sums over that many columns could overflow."""
    if columns > limit:
        raise BadInputError(
            f"a matrix of {columns} columns: {values} sums hold {limit} at most; use --values fp16."
        )


def bad_scale(sections: Sections) -> Fault | None:
    """What is wrong with the section `scale`, where there is one."""
    scale = sections.get("scale")
    if scale is None or bool(np.isfinite(scale).all() and (scale >= 0).all()):
        return None
    return "scale", "finite, not negative", "other"


def bad_int8(name: str, numbers: Array) -> Fault | None:
    """-128 has no positive twin, and no product sum is made for it; other types have no limit."""
    lowest = numbers.dtype == np.int8 and bool((numbers == -128).any())
    return (name, "-127 to 127", -128) if lowest else None
