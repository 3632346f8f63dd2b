"""Int4 matrices: the sections against docs/sparse_format.md, the rounding, the limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmpress import compact, int4
from ssmpress.compact import PackedMatrix
from ssmpress.errors import BadInputError
from ssmpress.ops import Format, Structure, Values

INT4 = Format(Structure.DENSE, Values.INT4)


def pack(weight: np.ndarray) -> PackedMatrix:
    return compact.pack(weight, np.ones(weight.shape, bool), INT4)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Tails of rows and columns, empty groups and rows, outliers, any magnitude."""
    rows, columns = draw(st.integers(0, 40)), draw(st.integers(0, 70))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = random.standard_normal((rows, columns)) * draw(st.sampled_from([1.0, 1e-9, 1e20]))
    weight *= random.random(weight.shape) < draw(st.sampled_from([0.02, 0.3, 1.0]))
    weight[random.random(weight.shape) < 0.01] *= 50
    return weight.astype(np.float32)


def read_slowly(packed: PackedMatrix) -> np.ndarray:
    """docs/sparse_format.md, weight by weight, with no code in common with int4.py."""
    weight, ratio, scale = (packed.sections[name] for name in INT4.weight_inputs)
    dense = np.zeros((packed.rows, packed.columns))
    for i in range(packed.rows):
        for j in range(packed.columns):
            byte = int(weight[i // 16, j // 16, 64 * (j % 16 // 8) + 4 * (i % 16) + j % 4])
            nibble = byte >> 4 if j % 8 >= 4 else byte & 15
            dense[i, j] = float(scale[i]) * int(ratio[i // 16, j // 16, i % 16]) * (nibble - 8)
    return dense


@given(weight=matrices())
def test_sections_hold_the_matrix(weight: np.ndarray) -> None:
    packed = pack(weight)
    compact.check(packed)
    assert tuple(packed.sections) == INT4.weight_inputs
    assert packed.nbytes == compact.predicted_bytes(INT4, *weight.shape, weight.size)
    np.testing.assert_allclose(compact.unpack(packed), read_slowly(packed), rtol=1e-6)


@given(weight=matrices())
def test_rounding_is_near(weight: np.ndarray) -> None:
    """At most half a step of the plainest choice, whose step is a group's largest / 7.5, plus the
    rounding of the step to a 127th of the row's; zeros stay zeros."""
    unpacked = compact.unpack(pack(weight)).astype(np.float64)
    columns = weight.shape[1]
    for group in range(0, columns, 16):
        part = slice(group, group + 16)
        largest = np.abs(weight[:, part]).max(1, initial=0).astype(np.float64)
        row = np.abs(weight).max(1, initial=0).astype(np.float64)
        error = np.sqrt(np.square(unpacked[:, part] - weight[:, part]).sum(1))
        assert (error <= 4 * (largest / 7 + row / 127 / 2)).all()
    assert (unpacked[weight == 0] == 0).all()


def test_several_steps_beat_one() -> None:
    """Against the step that reaches the largest weight, unrounded; 0.915 on normal weights."""
    weight = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    error = np.square(compact.unpack(pack(weight)) - weight).mean()
    groups = weight.reshape(64, -1, 16)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(2)[..., None], 2)
    plain = np.clip(np.rint(groups / (extreme / -8)), -8, 7) * (extreme / -8)
    assert error < 0.95 * np.square(plain - groups).mean()


def test_exact_where_16_steps_suffice() -> None:
    code = np.random.default_rng(1).integers(-8, 8, (20, 40))
    code[:, ::16] = -8
    weight = (code * 127 * 2.0**-20).astype(np.float32)
    np.testing.assert_allclose(compact.unpack(pack(weight)), weight, rtol=1e-6)


def test_refuses_damaged_sections() -> None:
    packed = pack(np.random.default_rng(2).standard_normal((20, 70)).astype(np.float32))

    def refused(message: str, **sections: np.ndarray) -> None:
        damaged = replace(packed, sections={**packed.sections, **sections})
        with pytest.raises(BadInputError, match="dense-int4 matrix, " + message):
            compact.unpack(damaged)

    ratio, scale = packed.sections["ratio"].copy(), packed.sections["scale"].copy()
    ratio[1, 0, 2] = -128
    refused("ratio: expected -127 to 127; got -128", ratio=ratio)
    scale[3] = np.inf
    refused("scale: expected finite, not negative", scale=scale)
    refused(r"weight: expected uint8 \(2, 5, 128\)", weight=packed.sections["weight"][:1])


def test_refuses_sums_that_could_overflow() -> None:
    assert 127 * 8 * 127 * int4.MAX_COLUMNS < 2**31 <= 127 * 8 * 127 * (int4.MAX_COLUMNS + 1)
    with pytest.raises(BadInputError, match="16644 columns: int4 sums hold 16643 at most"):
        pack(np.ones((1, int4.MAX_COLUMNS + 1), np.float32))
