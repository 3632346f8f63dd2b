"""The format that each matrix of a model is packed in: the exceptions, then the rule.

The rule weighs the bytes that a layout predicts and the times of `costs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssmpress.blocks.tensors import MatrixSpec, Role
from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.costs import predicted_ns
from ssmpress.pack.layouts import LAYOUTS, int4
from ssmpress.pack.values import INT8_MAX_COLUMNS
from ssmpress.recipe.settings.pack import PackSettings


def small_format(values: Values) -> Format:
    """The format of the ends of a classifier or forecaster in a bundle of these values: fp16 at
    least. They are small, and int8 would round the numbers that go in and come out."""
    return Format(Structure.DENSE, Values.FP16 if values.quantizes_activations else values)


def matrix_format(
    spec: MatrixSpec,
    shape: tuple[int, int],
    stored: int,
    settings: PackSettings,
    machine: str = "x86_64",
    *,
    scores_tokens: bool = False,
) -> tuple[Format, str]:
    """The format of a matrix on a machine, and why.

    Args:
        shape: (rows, columns). stored: weights that are not zero.
        scores_tokens: it is `blocks.tensors.head_name`, be it the embedding too.
    """
    if spec.role is Role.TASK:
        return small_format(settings.values), "small, and next to the numbers"
    values = settings.head_values() if scores_tokens else settings.values
    if values is Values.INT4 and shape[1] > int4.MAX_COLUMNS:
        values = Values.INT8
    if values is Values.INT8 and shape[1] > INT8_MAX_COLUMNS:
        values = Values.FP16
    if spec.role is Role.EMBEDDING:
        return Format(Structure.DENSE, values), "rows are read one by one"
    if spec.reads_input and values.quantizes_activations:
        # One scale for features of different sizes would round the small ones away.
        chosen, reason = choose_format(*shape, stored, Values.FP16, machine)
        return chosen, f"{reason}; it reads the input itself, which is not rounded to int8"
    return choose_format(*shape, stored, values, machine)


BEYOND_FP16 = "beyond fp16, which ends at 65,504"
"""End of the reason for which a matrix is float32 where fp16 was asked for."""


def in_float32(
    chosen: Format, shape: tuple[int, int], stored: int, machine: str = "x86_64"
) -> Format:
    """The format of a matrix whose weights do not fit the fp16 one that was chosen."""
    if LAYOUTS[chosen].whole:
        return Format(chosen.structure, Values.FP32)
    return choose_format(*shape, stored, Values.FP32, machine)[0]


@dataclass(frozen=True)
class Cost:
    """Predicted size of a matrix in one format, and decode time in ns per weight."""

    format: Format
    nbytes: int
    time: float


SAME_SPEED = 1.05
"""Less than what two runs of the benchmark differ by."""


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
    for f, layout in LAYOUTS.items():
        if f.values is not values:
            continue
        size = layout.predicted_bytes(rows, columns, stored)
        time = predicted_ns(f, density, size / max(1, rows * columns), machine)
        costs.append(Cost(f, size, time))
    dense = next(cost for cost in costs if LAYOUTS[cost.format].whole)
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
