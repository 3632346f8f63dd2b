"""Packed matrices: properties of packing, the bytes against docs/sparse_format.md, the choice."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import small_config
from ssmpress.blocks.tensors import matrix_specs
from ssmpress.errors import BadInputError
from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.choose import choose_format
from ssmpress.pack.costs import predicted_ns
from ssmpress.pack.csr import check_csr_target, to_csr, write_csr
from ssmpress.pack.layouts import FORMATS, LAYOUTS, sections_of
from ssmpress.pack.matrix import PackedMatrix, check, keep_mask_of, pack, unpack
from ssmpress.pack.values import INT8_MAX_COLUMNS

FORMAT = pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
BITMASK_FORMATS = [f for f in FORMATS if f.structure is Structure.BITMASK]
BITMASK = pytest.mark.parametrize("fmt", BITMASK_FORMATS, ids=lambda f: f.name)
INT8_FORMATS = [f for f in FORMATS if f.values is Values.INT8]
INT8 = pytest.mark.parametrize("fmt", INT8_FORMATS, ids=lambda f: f.name)
EVERY_TYPE = pytest.mark.parametrize("structure", [Structure.DENSE, Structure.BITMASK])
"""Structures that hold values of every type."""


SIMPLE = pytest.mark.parametrize(
    "fmt",
    [f for f in FORMATS if f.structure is not Structure.WINDOW and f.values is not Values.INT4],
    ids=lambda f: f.name,
)
"""Formats whose bytes a matrix and its mask determine; the others have tests of their own."""


def named(name: str) -> Format:
    return next(f for f in FORMATS if f.name == name)


# ---- matrices of every kind ----


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Weight float32 and keep_mask: any density, zeros that are kept, weights that are not."""
    rows = draw(st.integers(0, 12))
    columns = draw(st.one_of(st.integers(1, 200), st.sampled_from([1, 63, 64, 65, 127, 128, 129])))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = random.standard_normal((rows, columns)).astype(np.float32)
    # Largest weight 1e4 times 6: below 65504; smallest far below what fp16 can hold.
    weight *= np.float32(draw(st.sampled_from([1.0, 1e4, 1e-3, 1e-9, 1e-38, 1e-44])))
    weight[random.random(weight.shape) < draw(st.sampled_from([0.0, 0.2]))] = 0
    keep_mask = random.random(weight.shape) < draw(st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]))
    if rows and draw(st.booleans()):
        keep_mask[random.integers(rows)] = draw(st.booleans())
    return weight, keep_mask


def one(rows: int, columns: int, kept: bool) -> tuple[np.ndarray, np.ndarray]:
    weight = np.arange(1.0, rows * columns + 1, dtype=np.float32).reshape(rows, columns)
    return weight, np.full((rows, columns), kept)


def edge_cases(test: Callable[..., None]) -> Callable[..., None]:
    for rows, columns in [(0, 1), (0, 64), (1, 1), (3, 0), (5, 64), (2, 65), (1, 200)]:
        for kept in (False, True):
            test = example(matrix=one(rows, columns, kept))(test)
    return test


# ---- unpack(pack(w)) ----


@EVERY_TYPE
@edge_cases
@given(matrix=matrices())
def test_fp32_is_exact(structure: Structure, matrix: tuple[np.ndarray, np.ndarray]) -> None:
    weight, keep_mask = matrix
    packed = pack(weight, keep_mask, Format(structure, Values.FP32))
    unpacked = unpack(packed)
    assert unpacked.dtype == np.float32
    np.testing.assert_array_equal(unpacked, np.where(keep_mask, weight, 0))


@EVERY_TYPE
@edge_cases
@given(matrix=matrices())
def test_fp16_is_correctly_rounded(
    structure: Structure, matrix: tuple[np.ndarray, np.ndarray]
) -> None:
    weight, keep_mask = matrix
    unpacked = unpack(pack(weight, keep_mask, Format(structure, Values.FP16)))
    rounded = np.where(keep_mask, weight, 0).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(unpacked, rounded)


@pytest.mark.parametrize("structure", list(Structure))
@edge_cases
@given(matrix=matrices())
def test_int8_is_within_half_a_step(
    structure: Structure, matrix: tuple[np.ndarray, np.ndarray]
) -> None:
    weight, keep_mask = matrix
    packed = pack(weight, keep_mask, Format(structure, Values.INT8))
    check(packed)
    scale = packed.sections["scale"].astype(np.float64)
    kept = np.where(keep_mask, weight, 0).astype(np.float64)
    largest = np.abs(kept).max(axis=1, initial=0)
    ulp = np.spacing(largest.astype(np.float32)).astype(np.float64)[:, None]
    # Below the smallest normal number, 1.2e-38, the scale itself has only a few bits left; rows
    # of such weights do not occur in a trained model.
    normal = (largest / 127 >= np.finfo(np.float32).tiny)[:, None]
    error = np.abs(unpack(packed) - kept)
    assert (error <= scale[:, None] / 2 + ulp)[np.broadcast_to(normal, kept.shape)].all()
    assert (scale[largest == 0] == 0).all()
    assert (unpack(packed)[largest == 0] == 0).all()
    for section in ("weight", "value"):
        assert (packed.sections.get(section, np.int8([0])) > -128).all()


@INT8
def test_int8_never_leaves_its_range(fmt: Format) -> None:
    """So near to 0 the scale is rounded to 2 units of 1e-45, and the quotient is 150."""
    weight = np.full((1, 3), -300 * 2.0**-149, np.float32)
    packed = pack(weight, weight != 0, fmt)
    assert packed.sections[sections_of(fmt)[-2]].min() == -127
    check(packed)


@FORMAT
@given(matrix=matrices())
@settings(max_examples=30)
def test_mask_decides_what_is_stored(fmt: Format, matrix: tuple[np.ndarray, np.ndarray]) -> None:
    weight, keep_mask = matrix
    packed = pack(weight, keep_mask, fmt)
    dense = fmt.structure is Structure.DENSE
    assert packed.stored == (weight.size if dense else keep_mask.sum())
    np.testing.assert_array_equal(keep_mask_of(packed), keep_mask | dense)


def test_pack_leaves_its_input_alone() -> None:
    weight, keep_mask = one(3, 70, kept=True)
    keep_mask[:, ::2] = False
    before = weight.copy()
    for fmt in FORMATS:
        for section in pack(weight, keep_mask, fmt).sections.values():
            assert not np.shares_memory(section, weight)
        np.testing.assert_array_equal(weight, before)


def test_a_weight_that_is_not_kept_may_be_anything() -> None:
    weight, keep_mask = one(2, 3, kept=True)
    weight[0, 1], keep_mask[0, 1] = np.nan, False
    assert unpack(pack(weight, keep_mask, named("bitmask-fp32")))[0, 1] == 0


# ---- bytes ----


def spell_out(weight: np.ndarray, keep_mask: np.ndarray, fmt: Format) -> dict[str, bytes]:
    """docs/sparse_format.md, one weight at a time, with no code in common with pack/."""
    rows, columns = weight.shape
    code = {Values.FP32: "<f", Values.FP16: "<e", Values.INT8: "<b"}[fmt.values]
    bits, value, start, scales = bytearray(), bytearray(), [0], []
    nnz = 0
    for i in range(rows):
        row = [float(weight[i, j]) if keep_mask[i, j] else 0.0 for j in range(columns)]
        scale = np.float32(max(map(abs, row), default=0.0)) / np.float32(127)
        scales.append(float(scale))
        row_bits = [0] * (8 * -(-columns // 64))
        for j in range(columns):
            if fmt.structure is Structure.BITMASK and not keep_mask[i, j]:
                continue
            w: Any = row[j]
            if fmt.values is Values.INT8:
                w = round(float(np.float32(w) / scale)) if scale else 0  # half to even
            value += struct.pack(code, w)
            row_bits[j // 8] += 1 << (j % 8)
            nnz += 1
        bits += bytes(row_bits)
        start.append(nnz)
    sections: dict[str, bytes] = {}
    if fmt.structure is Structure.DENSE:
        sections["weight"] = bytes(value)
    else:
        value += bytes(64)
        value += bytes(-len(value) % 64)
        sections = {
            "bits": bytes(bits),
            "start": struct.pack(f"<{rows + 1}i", *start),
            "value": bytes(value),
        }
    if fmt.values is Values.INT8:
        sections["scale"] = struct.pack(f"<{rows}f", *scales)
    return sections


@SIMPLE
@pytest.mark.parametrize(
    ("rows", "columns", "density"),
    [
        (0, 5, 0.5),
        (1, 1, 1.0),
        (4, 9, 0.0),
        (3, 64, 0.5),
        (5, 65, 0.3),
        (2, 200, 1.0),
        (2, 0, 1.0),
        (16, 16, 1.0),
    ],
)
def test_bytes_are_those_of_the_specification(
    fmt: Format, rows: int, columns: int, density: float
) -> None:
    random = np.random.default_rng([rows, columns])
    weight = random.standard_normal((rows, columns)).astype(np.float32)
    weight[random.random(weight.shape) < 0.1] = 0
    keep_mask = random.random(weight.shape) < density
    packed = pack(weight, keep_mask, fmt)
    expected = spell_out(weight, keep_mask, fmt)
    assert {name: a.tobytes() for name, a in packed.sections.items()} == expected
    assert tuple(packed.sections) == sections_of(fmt)
    assert packed.nbytes == sum(map(len, expected.values()))
    if "value" in expected:
        stored_bytes = packed.stored * packed.sections["value"].itemsize
        assert len(expected["value"]) % 64 == 0
        assert len(expected["value"]) - stored_bytes >= 64
        assert packed.sections["bits"].shape == (rows, 8 * -(-columns // 64))


@SIMPLE
@given(matrix=matrices())
@settings(max_examples=30)
def test_predicted_bytes(fmt: Format, matrix: tuple[np.ndarray, np.ndarray]) -> None:
    weight, keep_mask = matrix
    packed = pack(weight, keep_mask, fmt)
    predicted = LAYOUTS[fmt].predicted_bytes(*weight.shape, int(keep_mask.sum()))
    padding = 0
    if "value" in packed.sections:
        value = packed.sections["value"]
        padding = value.nbytes - packed.stored * value.itemsize
    assert predicted == packed.nbytes - padding


# ---- interchange ----


@BITMASK
@given(matrix=matrices())
@settings(max_examples=30)
def test_csr_round_trip(fmt: Format, matrix: tuple[np.ndarray, np.ndarray]) -> None:
    packed = pack(*matrix, fmt)
    csr = to_csr(unpack(packed), keep_mask_of(packed))
    assert csr.nnz == packed.stored  # zeros that are kept stay
    assert csr.has_canonical_format
    np.testing.assert_array_equal(csr.toarray(), unpack(packed))
    keep_mask = np.zeros(csr.shape, bool)
    keep_mask[np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr)), csr.indices] = True
    again = pack(csr.toarray(), keep_mask, fmt)
    np.testing.assert_array_equal(again.sections["bits"], packed.sections["bits"])
    np.testing.assert_array_equal(again.sections["start"], packed.sections["start"])
    if fmt.values is not Values.INT8:
        np.testing.assert_array_equal(again.sections["value"], packed.sections["value"])


def test_pruned_matrices_are_saved_as_csr(tmp_path: Path) -> None:
    weight = np.array([[0, 1.5, 0], [0, 0, -2], [0, 0, 0]], np.float32)
    name = "backbone.layers.0.mixer.in_proj.weight"
    tensors = {
        name: torch.from_numpy(weight),
        "backbone.layers.0.mixer.out_proj.weight": torch.ones(2, 2),
        "backbone.layers.0.mixer.D": torch.zeros(3),
    }
    check_csr_target(tmp_path / "csr")
    write_csr(matrix_specs(small_config()), tensors, tmp_path / "csr")
    assert [path.name for path in (tmp_path / "csr").iterdir()] == [f"{name}.npz"]
    saved = scipy.sparse.load_npz(tmp_path / "csr" / f"{name}.npz")
    assert (saved.nnz, saved.format, saved.dtype) == (2, "csr", np.float32)
    np.testing.assert_array_equal(saved.toarray(), weight)
    check_csr_target(tmp_path / "csr")
    write_csr(matrix_specs(small_config()), tensors, tmp_path / "csr")
    (tmp_path / "csr" / "thesis.txt").touch()
    with pytest.raises(BadInputError, match=r"earlier \.npz files; got thesis\.txt there"):
        check_csr_target(tmp_path / "csr")


# ---- the choice ----


@given(
    rows=st.integers(1, 2000),
    columns=st.integers(1, 2000),
    density=st.floats(0, 1),
    values=st.sampled_from(Values),
    machine=st.sampled_from(["x86_64", "aarch64"]),
)
def test_chosen_format_is_never_larger_than_dense(
    rows: int, columns: int, density: float, values: Values, machine: str
) -> None:
    stored = round(density * rows * columns)
    chosen, reason = choose_format(rows, columns, stored, values, machine)
    dense = Format(Structure.DENSE, values)
    assert chosen.values is values
    size, dense_size = (LAYOUTS[f].predicted_bytes(rows, columns, stored) for f in (chosen, dense))
    assert size <= dense_size
    if chosen != dense:
        ns, dense_ns = (
            predicted_ns(f, stored / (rows * columns), n / (rows * columns), machine)
            for f, n in ((chosen, size), (dense, dense_size))
        )
        assert ns <= dense_ns
    assert reason


@pytest.mark.parametrize("values", [Values.FP32, Values.FP16, Values.INT8])
def test_dense_where_most_is_kept_and_packed_where_most_is_not(values: Values) -> None:
    dense, reason = choose_format(1024, 512, 1024 * 512, values)
    assert dense.structure is Structure.DENSE
    assert reason == "100% kept: packing saves nothing"
    packed, reason = choose_format(1024, 512, 1024 * 512 * 3 // 10, values)
    best = Structure.BITMASK if values is Values.FP32 else Structure.WINDOW
    assert packed.structure is best
    assert re.fullmatch(
        r"30% kept: \d\d% of the dense bytes, (\d\.\d x as fast|not slower)", reason
    )


def test_dense_where_packing_is_slower() -> None:
    """A mask costs time to expand."""
    chosen, reason = choose_format(1024, 512, 1024 * 512 * 95 // 100, Values.FP32)
    assert chosen == named("dense-fp32")
    assert reason == "95% kept: smaller packed, but slower"


@pytest.mark.parametrize(
    ("percent", "name"), [(5, "window"), (50, "window"), (65, "bitmask"), (100, "dense")]
)
def test_int8_structure_by_density(percent: int, name: str) -> None:
    stored = 1024 * 512 * percent // 100
    chosen, _ = choose_format(1024, 512, stored, Values.INT8)
    assert chosen == named(f"{name}-int8")


@pytest.mark.parametrize(
    ("percent", "name"), [(5, "window"), (30, "window"), (55, "dense"), (65, "dense")]
)
def test_arm64_never_expands_int8_masks(percent: int, name: str) -> None:
    """They take nine times the instructions of a dense row, and windows read no more."""
    stored = 1024 * 512 * percent // 100
    chosen, _ = choose_format(1024, 512, stored, Values.INT8, "aarch64")
    assert chosen == named(f"{name}-int8")


@pytest.mark.parametrize(
    ("percent", "structure"), [(5, "window"), (30, "window"), (60, "bitmask"), (100, "dense")]
)
def test_fp16_structure_by_density(percent: int, structure: str) -> None:
    stored = 1024 * 512 * percent // 100
    chosen, _ = choose_format(1024, 512, stored, Values.FP16)
    assert chosen == named(f"{structure}-fp16")


@pytest.mark.parametrize("values", list(Values))
def test_a_matrix_without_weights_has_a_format(values: Values) -> None:
    for rows, columns in [(0, 5), (5, 0)]:
        chosen, _ = choose_format(rows, columns, 0, values)
        assert LAYOUTS[chosen].predicted_bytes(rows, columns, 0) <= 4 * rows


# ---- what cannot be packed ----


@FORMAT
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(fmt: Format, bad: float) -> None:
    weight, keep_mask = one(3, 70, kept=True)
    weight[1, 60] = bad
    with pytest.raises(BadInputError, match="holds NaN or infinity; train or export it again"):
        pack(weight, keep_mask, fmt)


@EVERY_TYPE
@pytest.mark.parametrize("bad", [65520.0, -70000.0, 3e38])
def test_refuses_what_overflows_fp16(structure: Structure, bad: float) -> None:
    weight, keep_mask = one(3, 70, kept=True)
    weight[1, 60] = bad
    message = re.escape(f"a weight of {abs(bad):.6g} does not fit fp16 (65504 at most)")
    with pytest.raises(BadInputError, match=message):
        pack(weight, keep_mask, Format(structure, Values.FP16))
    keep_mask[1, 60] = False
    pack(weight, keep_mask, Format(structure, Values.FP16))


def test_largest_fp16_fits() -> None:
    weight = np.full((1, 2), 65504, np.float32)
    np.testing.assert_array_equal(unpack(pack(weight, weight > 0, named("dense-fp16"))), weight)


def test_refuses_sums_that_could_overflow() -> None:
    columns = INT8_MAX_COLUMNS
    assert 127**2 * columns < 2**31
    weight = np.ones((1, columns + 1), np.float32)
    with pytest.raises(BadInputError, match="133144 columns: int8 sums hold 133143 at most; use"):
        pack(weight, weight > 0, named("dense-int8"))
    pack(weight[:, :-1], weight[:, :-1] > 0, named("dense-int8"))


# ---- what a reader must check: every limit of the specification ----


def good(fmt: Format) -> PackedMatrix:
    random = np.random.default_rng(0)
    weight = random.standard_normal((20, 70)).astype(np.float32)
    return pack(weight, random.random(weight.shape) < 0.4, fmt)


def refused(packed: PackedMatrix, message: str, **sections: np.ndarray | None) -> None:
    """`check` and `unpack` refuse the matrix with these sections changed (None: removed)."""
    changed = {**packed.sections, **sections}
    damaged = replace(packed, sections={k: v for k, v in changed.items() if v is not None})
    start = re.escape(f"{packed.format.name} matrix, ")
    for read in (check, unpack):
        with pytest.raises(BadInputError, match=start + message) as raised:
            read(damaged)
        assert "damaged or was written by another version; pack the model again" in str(
            raised.value
        )


def changed(array: np.ndarray, index: object, value: object) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


@FORMAT
def test_good_matrices_pass(fmt: Format) -> None:
    check(good(fmt))


@FORMAT
def test_refuses_missing_and_extra_sections(fmt: Format) -> None:
    packed = good(fmt)
    for name in sections_of(fmt):
        refused(packed, "sections: expected", **{name: None})
    refused(packed, "sections: expected", zero_point=np.zeros(20, np.int8))


@FORMAT
def test_refuses_another_type_or_shape(fmt: Format) -> None:
    packed = good(fmt)
    for name, array in packed.sections.items():
        refused(
            packed,
            f"{name}: expected {array.dtype} .*; got float64",
            **{name: array.astype(np.float64)},
        )
        if (fmt.structure, name) not in (
            (Structure.BITMASK, "value"),  # longer than it needs to be
            (Structure.WINDOW, "step"),  # says how many records there are
        ):
            refused(packed, f"{name}: expected .*; got ", **{name: array[:-1]})
        if name != "step":
            refused(packed, f"{name}: expected .*; got ", **{name: array[None]})


@BITMASK
def test_refuses_starts_and_bits_that_disagree(fmt: Format) -> None:
    packed = good(fmt)
    start, bits = packed.sections["start"], packed.sections["bits"]
    refused(packed, r"start\[0\]: expected 0; got 1", start=start + np.int32(1))
    refused(packed, r"start\[0\]: expected 0; got -5", start=start - np.int32(5))
    for value in (start[8] - 1, start[9] + 1, -1, 2**31 - 1):
        refused(packed, "start: expected the bits of each row", start=changed(start, 9, value))
    refused(packed, "start: expected the bits of each row", start=changed(start, 20, 2**31 - 1))
    flipped = bits[3, 0] ^ 1
    refused(packed, "start: expected the bits of each row", bits=changed(bits, (3, 0), flipped))
    # Two flips that leave the total as it is, in two rows.
    moved = changed(changed(bits, 3, 0), 4, bits[3] | bits[4])
    refused(packed, "start: expected the bits of each row", bits=moved)


@BITMASK
@pytest.mark.parametrize(("byte", "bit"), [(8, 6), (8, 7), (9, 0), (15, 7)])
def test_refuses_bits_beyond_the_columns(fmt: Format, byte: int, bit: int) -> None:
    packed = good(fmt)
    bits = packed.sections["bits"]
    refused(
        packed,
        "bits: expected none beyond the columns",
        bits=changed(bits, (3, byte), bits[3, byte] | 1 << bit),
    )


@BITMASK
def test_refuses_a_short_value_section(fmt: Format) -> None:
    packed = good(fmt)
    value = packed.sections["value"]
    needed = packed.stored + 64 // value.itemsize
    for size in (packed.stored - 1, packed.stored, needed - 1):
        refused(packed, f"value: expected at least {needed} elements; got", value=value[:size])
    check(replace(packed, sections={**packed.sections, "value": value[:needed]}))


@BITMASK
def test_refuses_another_count_than_stored(fmt: Format) -> None:
    packed = good(fmt)
    refused(replace(packed, stored=packed.stored + 1), r"start\[r\]: expected")


@INT8
def test_refuses_bad_scales_and_values(fmt: Format) -> None:
    packed = good(fmt)
    scale = packed.sections["scale"]
    for bad in (np.nan, np.inf, -1.0):
        refused(packed, "scale: expected finite, not negative", scale=changed(scale, 4, bad))
    name = "weight" if fmt.structure is Structure.DENSE else "value"
    values = packed.sections[name]
    index = (0, 3) if values.ndim == 2 else 3
    refused(
        packed, "values: expected -127 to 127; got -128", **{name: changed(values, index, -128)}
    )
