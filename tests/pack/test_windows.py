"""Window matrices: the sections against docs/sparse_format.md, their limits, and the fallback."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ssmpress.errors import BadInputError
from ssmpress.formats import Format, Structure, Values
from ssmpress.graph import fallback, ops
from ssmpress.pack.layouts import LAYOUTS, sections_of, window_fp16, window_int8
from ssmpress.pack.matrix import PackedMatrix, check, keep_mask_of, pack, unpack

WINDOW = Format(Structure.WINDOW, Values.INT8)
FP16_WINDOW = Format(Structure.WINDOW, Values.FP16)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and keep_mask: tails, empty rows and tiles, gaps wider than a step."""
    rows = draw(st.integers(0, 40))
    columns = draw(st.one_of(st.integers(1, 70), st.sampled_from([255, 256, 257, 600, 1100])))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.002, 0.05, 0.3, 0.9, 1.0]))
    row_density = density * random.choice([0.0, 0.5, 1.0, 1.0], size=(rows, 1))
    values = random.integers(-127, 128, size=(rows, columns)).astype(np.int8)
    keep_mask = random.random(values.shape) < row_density
    return np.where(keep_mask, values, 0).astype(np.int8), keep_mask


def read_slowly(
    sections: dict[str, np.ndarray], rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """docs/sparse_format.md, slot by slot, with no code in common with window_int8.py."""
    values, stored = np.zeros((rows, columns), np.int8), np.zeros((rows, columns), bool)
    order = sections["order"].tolist()
    assert sorted(order) == [-1] * (len(order) - rows) + list(range(rows))
    start = sections["start"].tolist()
    for tile in range(len(order) // 8):
        first = [0, 0]
        for record in range(start[tile], start[tile + 1]):
            position = sections["position"][record].tolist()
            value = sections["value"][record].tolist()
            for lane in (0, 1):
                first[lane] += int(sections["step"][record, lane])
                assert first[lane] < columns
            for entry in range(8):
                lane = entry // 4
                p = [position[entry % 4 * 4 + k] >> 4 * lane & 15 for k in range(4)]
                used = 0
                if p != [1, 0, 0, 0]:
                    used = 1 + sum(1 for k in (1, 2, 3) if p[k] > p[k - 1])
                    assert p == sorted(p)
                    assert p[used:] == p[used - 1 : used] * (4 - used)
                for k in range(4):
                    if k >= used:
                        assert value[4 * entry + k] == 0
                        continue
                    row, column = order[8 * tile + entry], first[lane] + p[k]
                    assert row >= 0
                    assert not stored[row, column:].any()
                    stored[row, column] = True
                    values[row, column] = value[4 * entry + k]
    assert start[-1] == len(sections["step"])
    return values, stored


@given(matrix=matrices())
def test_sections_hold_the_matrix(matrix: tuple[np.ndarray, np.ndarray]) -> None:
    values, keep_mask = matrix
    sections = window_int8.pack(values, keep_mask)
    expected = window_int8.shapes(len(values), len(sections["step"]))
    assert {name: (a.dtype, a.shape) for name, a in sections.items()} == expected
    assert tuple(sections) == sections_of(WINDOW)[:-1]
    assert window_int8.problem(sections, *values.shape) is None
    read, stored = read_slowly(sections, *values.shape)
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(stored, keep_mask)
    np.testing.assert_array_equal(window_int8.unpack(sections, *values.shape), values)
    np.testing.assert_array_equal(window_int8.keep_mask_of(sections, *values.shape), keep_mask)


def test_a_small_matrix_byte_by_byte() -> None:
    """One row of 5 weights in a window, one of 2 far apart, one empty."""
    values = np.zeros((3, 300), np.int8)
    values[0, [2, 3, 5, 9, 17]] = [1, -2, 3, -4, 5]
    values[1, [3, 290]] = [6, 7]
    sections = window_int8.pack(values, values != 0)
    assert sections["order"].tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
    assert sections["start"].tolist() == [0, 4]
    assert sections["step"].tolist() == [[2, 0], [15, 0], [255, 0], [18, 0]]
    nothing = [1, 0, 0, 0]
    high = [0x10, 0, 0, 0] * 4
    low = [
        [0, 1, 3, 7, 1, 1, 1, 1, *nothing, *nothing],
        [0, 0, 0, 0, *nothing, *nothing, *nothing],
        [*nothing] * 4,
        [*nothing, 0, 0, 0, 0, *nothing, *nothing],
    ]
    expected = [[a | b for a, b in zip(row, high, strict=True)] for row in low]
    assert sections["position"].tolist() == expected
    value = np.zeros((4, 32), np.int8)
    value[0, :5] = [1, -2, 3, -4, 6]
    value[1, 0], value[3, 4] = 5, 7
    assert sections["value"].tolist() == value.tolist()


def test_rows_with_like_masks_share_lanes() -> None:
    """Rows of two kinds take turns, each dense where the other is sparse."""
    random = np.random.default_rng(3)
    dense_part = np.arange(512) // 32 % 2 == np.arange(64)[:, None] % 2
    keep_mask = random.random((64, 512)) < np.where(dense_part, 0.5, 0.1)
    keep_mask &= np.cumsum(keep_mask, axis=1) <= keep_mask.sum(1).min()
    sections = window_int8.pack(keep_mask.astype(np.int8), keep_mask)
    kinds = (sections["order"].reshape(-1, 4) % 2).sum(1)
    assert np.isin(kinds, (0, 4)).mean() >= 0.75


def test_predicted_size_is_near() -> None:
    random = np.random.default_rng(1)
    for density in (0.05, 0.1, 0.3, 0.5, 0.7, 1.0):
        keep_mask = random.random((256, 512)) < density
        packed = pack(keep_mask.astype(np.float32), keep_mask, WINDOW)
        predicted = LAYOUTS[WINDOW].predicted_bytes(256, 512, packed.stored)
        assert 0.7 < predicted / packed.nbytes < 1.3


# ---- limits ----


def good(values: str = "int8") -> PackedMatrix:
    random = np.random.default_rng(0)
    weight = random.standard_normal((20, 70)).astype(np.float32)
    window = Format(Structure.WINDOW, Values(values))
    return pack(weight, random.random(weight.shape) < 0.4, window)


def refused(section: str, index: object, value: object, message: str, values: str = "int8") -> None:
    packed = good(values)
    array = packed.sections[section].copy()
    array[index] = value
    damaged = replace(packed, sections={**packed.sections, section: array})
    for read in (check, unpack):
        with pytest.raises(BadInputError, match=f"window-{values} matrix, {re.escape(message)}"):
            read(damaged)


@pytest.mark.parametrize("value", [-2, 20, 3])
def test_refuses_an_order_that_is_none(value: int) -> None:
    index = 0 if good().sections["order"][0] != value else 1
    refused("order", index, value, "order: expected each of 20 rows once, and -1; got")


@pytest.mark.parametrize(("index", "value"), [(0, 1), (1, -1), (1, 1000), (3, 2**31 - 1)])
def test_refuses_starts_out_of_order(index: int, value: int) -> None:
    refused("start", index, value, "start: expected non-decreasing from 0 to")


def test_refuses_windows_beyond_the_columns() -> None:
    refused("step", (0, 0), 255, "step: expected first columns below 70; got a larger one")


def test_refuses_positions_without_a_meaning() -> None:
    message = "position: expected ascending, the last one repeated, or 1 0 0 0; got"
    for entry in ([2, 0, 0, 0], [1, 0, 1, 0], [3, 5, 4, 6], [0, 0, 0, 1]):
        refused("position", (0, slice(0, 4)), entry, message)


def test_refuses_weights_that_lie_twice_or_outside() -> None:
    refused("step", (slice(None), 0), 0, "position: expected ascending columns in each row")
    last = int(good().sections["start"][1]) - 1
    refused("position", (last, slice(0, 4)), [15] * 4, "")


def test_refuses_values_where_nothing_is_stored() -> None:
    refused("value", slice(None), 1, "value: expected 0 in slots that are not in use")


def test_refuses_another_count_than_stored() -> None:
    packed = good()
    with pytest.raises(BadInputError, match="slots in use: expected"):
        check(replace(packed, stored=packed.stored + 1))


# ---- the fallback ----


def run_fallback(packed: PackedMatrix, x: np.ndarray) -> np.ndarray:
    """The op as its function, in ONNX Runtime without the library."""
    op, sections = packed.format.op_type, dict(packed.sections)
    attributes = {ops.COLUMNS_ATTRIBUTE: packed.columns, ops.VERSION_ATTRIBUTE: 1}
    node = helper.make_node(op, ["x", *sections], ["y"], domain=ops.DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * x.ndim)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in sections.items()],
    )
    opsets = [
        helper.make_opsetid("", ops.ONNX_OPSET),
        helper.make_opsetid(ops.DOMAIN, ops.DOMAIN_VERSION),
    ]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=10, functions=[fallback.function(op)]
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x})
    assert isinstance(y, np.ndarray)
    return y


@pytest.mark.parametrize(
    ("rows", "columns", "density"),
    [(1, 1, 1.0), (20, 70, 0.4), (8, 16, 1.0), (9, 900, 0.003), (50, 40, 0.0), (0, 5, 1.0)],
)
def test_fallback_multiplies_the_same_integers(rows: int, columns: int, density: float) -> None:
    random = np.random.default_rng([rows, columns])
    weight = random.standard_normal((rows, columns)).astype(np.float32)
    packed = pack(weight, random.random(weight.shape) < density, WINDOW)
    x = random.integers(-127, 128, size=(2, 3, columns)).astype(np.float32)
    x[..., 0] = 127  # the scale of the activations is 1: they are exact
    values = window_int8.unpack(packed.sections, rows, columns).astype(np.int64)
    sums = (x.astype(np.int64) @ values.T).astype(np.float32)
    np.testing.assert_array_equal(run_fallback(packed, x), sums * packed.sections["scale"])


# ---- fp16 ----


def read_fp16_slowly(
    sections: dict[str, np.ndarray], rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """docs/sparse_format.md, slot by slot, with no code in common with window_fp16.py."""
    values, stored = np.zeros((rows, columns), np.float16), np.zeros((rows, columns), bool)
    order, start = sections["order"].tolist(), sections["start"].tolist()
    assert sorted(order[:rows]) == list(range(rows))
    assert order[rows:] == [-1] * (len(order) - rows)
    bits = sections["value"].view(np.uint16)
    for tile in range(len(order) // 8):
        first = 0
        for record in range(start[tile], start[tile + 1]):
            first += int(sections["step"][record])
            assert first < columns
            for i in range(8):
                position = int(sections["position"][record, i // 2]) >> i % 2 * 4 & 15
                if bits[record, i] == 0x8000:
                    assert position == 0
                    continue
                row, column = order[8 * tile + i], first + position
                assert row >= 0
                assert not stored[row, column:].any()
                stored[row, column] = True
                values[row, column] = sections["value"][record, i]
    assert start[-1] == len(sections["step"])
    return values, stored


@given(matrix=matrices())
def test_fp16_sections_hold_the_matrix(matrix: tuple[np.ndarray, np.ndarray]) -> None:
    values, keep_mask = matrix[0].astype(np.float16) / np.float16(8), matrix[1]
    sections = window_fp16.pack(values, keep_mask)
    expected = window_fp16.shapes(len(values), len(sections["step"]))
    assert {name: (a.dtype, a.shape) for name, a in sections.items()} == expected
    assert tuple(sections) == sections_of(FP16_WINDOW)
    assert window_fp16.problem(sections, *values.shape) is None
    read, stored = read_fp16_slowly(sections, *values.shape)
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(stored, keep_mask)
    np.testing.assert_array_equal(window_fp16.unpack(sections, *values.shape), values)
    np.testing.assert_array_equal(window_fp16.keep_mask_of(sections, *values.shape), keep_mask)


def test_fp16_keeps_a_negative_zero_as_zero() -> None:
    packed = pack(np.array([[-0.0, 1]], np.float32), np.ones((1, 2), bool), FP16_WINDOW)
    check(packed)
    assert keep_mask_of(packed).all()


def test_fp16_predicted_size_is_near() -> None:
    random = np.random.default_rng(1)
    for density in (0.05, 0.1, 0.3, 0.5, 0.7, 1.0):
        keep_mask = random.random((256, 512)) < density
        packed = pack(keep_mask.astype(np.float32), keep_mask, FP16_WINDOW)
        predicted = LAYOUTS[FP16_WINDOW].predicted_bytes(256, 512, packed.stored)
        assert 0.8 < predicted / packed.nbytes < 1.25


@pytest.mark.parametrize(
    ("section", "index", "value", "message"),
    [
        ("order", 0, 20, "order: expected each of 20 rows once, then -1"),
        ("order", 22, 1, "order: expected each of 20 rows once, then -1"),
        ("start", 1, -1, "start: expected non-decreasing from 0 to"),
        ("step", 0, 255, "step: expected first columns below 70"),
        ("step", slice(None), 0, "position: expected ascending columns in each row"),
        ("value", slice(None), -0.0, "position: expected 0 in slots that are not in use"),
        ("value", (-1, slice(None)), 1, "position: expected weights of rows"),
    ],
)
def test_refuses_damaged_fp16_sections(
    section: str, index: object, value: float, message: str
) -> None:
    refused(section, index, value, message, "fp16")


@pytest.mark.parametrize(
    ("rows", "columns", "density"),
    [(1, 1, 1.0), (20, 70, 0.4), (8, 16, 1.0), (9, 900, 0.003), (50, 40, 0.0), (0, 5, 1.0)],
)
def test_fp16_fallback(rows: int, columns: int, density: float) -> None:
    random = np.random.default_rng([rows, columns])
    weight = random.standard_normal((rows, columns)).astype(np.float32)
    packed = pack(weight, random.random(weight.shape) < density, FP16_WINDOW)
    x = random.standard_normal((2, 3, columns)).astype(np.float32)
    expected = x.astype(np.float64) @ unpack(packed).astype(np.float64).T
    np.testing.assert_allclose(run_fallback(packed, x), expected, rtol=1e-5, atol=1e-5)
