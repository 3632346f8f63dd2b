"""Int4 matrices: the sections against docs/sparse_format.md, the rounding, the limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmpress.errors import BadInputError
from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.layouts import LAYOUTS, int4, sections_of
from ssmpress.pack.matrix import PackedMatrix, check, pack_as, unpack

INT4 = Format(Structure.DENSE, Values.INT4)


def pack(weight: np.ndarray, hessian: np.ndarray | None = None) -> PackedMatrix:
    def rounded(w: np.ndarray) -> int4.Rounded:
        return int4.round_weights(w, hessian)

    return pack_as(int4.Int4(rounded), weight, np.ones(weight.shape, bool))


def correlated(columns: int, seed: int) -> np.ndarray:
    """X^T X / n of inputs with a mean and a few strong directions, as a head has them."""
    random = np.random.default_rng(seed)
    strong = random.standard_normal((4, columns))
    x = random.standard_normal((600, 4)) @ strong + 0.5 * random.standard_normal((600, columns))
    x += random.standard_normal(columns)
    return x.T @ x / len(x)


def cost(weight: np.ndarray, packed: PackedMatrix, hessian: np.ndarray) -> float:
    """Mean of e H e^T over the rows, float64."""
    error = unpack(packed).astype(np.float64) - weight
    return float(np.einsum("ij,jk,ik->i", error, hessian, error).mean())


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
    weight, ratio, scale = (packed.sections[name] for name in sections_of(INT4))
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
    check(packed)
    assert tuple(packed.sections) == sections_of(INT4)
    assert packed.nbytes == LAYOUTS[INT4].predicted_bytes(*weight.shape, weight.size)
    np.testing.assert_allclose(unpack(packed), read_slowly(packed), rtol=1e-6)


@given(weight=matrices())
def test_rounding_is_near(weight: np.ndarray) -> None:
    """At most half a step of the plainest choice, whose step is a group's largest / 7.5, plus the
    rounding of the step to a 127th of the row's; zeros stay zeros."""
    unpacked = unpack(pack(weight)).astype(np.float64)
    columns = weight.shape[1]
    for group in range(0, columns, 16):
        part = slice(group, group + 16)
        largest = np.abs(weight[:, part]).max(1, initial=0).astype(np.float64)
        row = np.abs(weight).max(1, initial=0).astype(np.float64)
        error = np.sqrt(np.square(unpacked[:, part] - weight[:, part]).sum(1))
        assert (error <= 4 * (largest / 7 + row / 127 / 2)).all()
    assert (unpacked[weight == 0] == 0).all()


@given(rows=st.integers(24, 48), columns=st.integers(33, 90), seed=st.integers(0, 2**32))
def test_feedback_costs_less_on_correlated_inputs(rows: int, columns: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    hessian = correlated(columns, seed)
    plain, fed = pack(weight), pack(weight, hessian)
    check(fed)
    np.testing.assert_allclose(unpack(fed), read_slowly(fed), rtol=1e-6)
    assert cost(weight, fed, hessian) < 0.8 * cost(weight, plain, hessian)
    again = pack(weight, hessian)
    for name, section in fed.sections.items():
        np.testing.assert_array_equal(section, again.sections[name])


@given(weight=matrices())
def test_feedback_keeps_zeros_and_the_range(weight: np.ndarray) -> None:
    fed = pack(weight, correlated(weight.shape[1], 3))
    check(fed)
    assert (unpack(fed)[weight == 0] == 0).all()


def test_feedback_by_its_definition() -> None:
    """Column by column, what is left of a row is the least-squares answer to what is rounded."""
    weight = np.random.default_rng(4).standard_normal((12, 70)).astype(np.float32)
    hessian = correlated(70, 4)
    rounded = int4.round_weights(weight, hessian)
    damped = hessian + 0.05 * hessian.diagonal().mean() * np.eye(70)
    same = 0
    for row, code, ratio, scale in zip(
        weight, rounded.code, rounded.ratio, rounded.scale, strict=True
    ):
        wanted = row.astype(np.float64)
        for j in range(70):
            step = float(scale) * int(ratio[j // 16])
            best = np.clip(np.rint(wanted[j] / step), -8, 7) if step else 0
            same += best == code[j]
            error, rest = wanted[j] - step * code[j], slice(j + 1, None)
            wanted[rest] += error * np.linalg.solve(damped[rest, rest], damped[rest, j])
    assert same >= 0.99 * weight.size  # the others lie between two steps, but for rounding


def test_without_correlation_feedback_is_the_nearest() -> None:
    weight = np.random.default_rng(5).standard_normal((40, 70)).astype(np.float32)
    plain, fed = int4.round_weights(weight), int4.round_weights(weight, 3 * np.eye(70))
    assert (plain.code == fed.code).mean() > 0.99
    told: list[tuple[int, int]] = []
    int4.round_weights(weight, None, lambda done, total: told.append((done, total)))
    assert told == [(40, 40)]


def test_several_steps_beat_one() -> None:
    """Against the step that reaches the largest weight, unrounded; 0.915 on normal weights."""
    weight = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    error = np.square(unpack(pack(weight)) - weight).mean()
    groups = weight.reshape(64, -1, 16)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(2)[..., None], 2)
    plain = np.clip(np.rint(groups / (extreme / -8)), -8, 7) * (extreme / -8)
    assert error < 0.95 * np.square(plain - groups).mean()


def test_exact_where_16_steps_suffice() -> None:
    code = np.random.default_rng(1).integers(-8, 8, (20, 40))
    code[:, ::16] = -8
    weight = (code * 127 * 2.0**-20).astype(np.float32)
    np.testing.assert_allclose(unpack(pack(weight)), weight, rtol=1e-6)


def test_refuses_damaged_sections() -> None:
    packed = pack(np.random.default_rng(2).standard_normal((20, 70)).astype(np.float32))

    def refused(message: str, **sections: np.ndarray) -> None:
        damaged = replace(packed, sections={**packed.sections, **sections})
        with pytest.raises(BadInputError, match="dense-int4 matrix, " + message):
            unpack(damaged)

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
