"""Tensors of a network packed: convolutions and transposed weights are matrices too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import small_network as small
from ssmpress.blocks.tensors import MatrixSpec, Role
from ssmpress.errors import BadInputError
from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.choose import matrix_format
from ssmpress.pack.matrix import pack, unpack
from ssmpress.pack.model import pack_tensors
from ssmpress.pack.values import INT8_MAX_COLUMNS
from ssmpress.recipe.settings.pack import PackSettings

PLAIN = MatrixSpec(Role.PROJECTION, "linear")
TURNED = MatrixSpec(Role.PROJECTION, "linear", transposed=True)


@given(
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.integers(0, 2),
    st.booleans(),
    st.floats(0, 1),
    st.sampled_from(Values),
    st.sampled_from(["x86_64", "aarch64"]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_packed_is_the_matrix_that_multiplies(
    shape: tuple[int, int],
    ones: int,
    transposed: bool,
    density: float,
    values: Values,
    machine: str,
) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(*shape, *[1] * ones, generator=generator)
    weight *= torch.rand(weight.shape, generator=generator) < density
    spec = TURNED if transposed else PLAIN
    packed = pack_tensors({"w": spec}, {"w": weight}, PackSettings(values), machine)
    found = packed.matrices["w"]
    expected = weight.flatten(1).numpy()
    expected = expected.T if transposed else expected
    assert (found.rows, found.columns) == expected.shape
    assert found.format.values is values
    assert found.zeros == int((expected == 0).sum())
    itself = pack(expected, expected != 0, found.format)
    assert all(np.array_equal(found.sections[name], s) for name, s in itself.sections.items())
    if values is Values.FP32:
        assert np.array_equal(unpack(found), expected)
    assert packed.nbytes == packed.bytes_of("w") == found.nbytes


def test_a_network_is_packed_but_for_what_is_no_matrix() -> None:
    model = small.dense()
    tensors = model.tensors()
    packed = pack_tensors(model.matrices, tensors, PackSettings())
    assert set(packed.matrices) == set(model.matrices)
    assert set(packed.matrices) | set(packed.tensors) == set(tensors)
    assert packed.tensors["norm.num_batches_tracked"].dtype == np.int64
    assert np.shares_memory(packed.tensors["head.bias"], tensors["head.bias"].numpy())
    assert packed.matrices["embed.weight"].columns == 2
    assert packed.nbytes == sum(m.nbytes for m in packed.matrices.values()) + sum(
        t.nbytes for t in packed.tensors.values()
    )
    dense = pack_tensors(model.matrices, tensors, None)
    fp32 = Format(Structure.DENSE, Values.FP32)
    assert {matrix.format for matrix in dense.matrices.values()} == {fp32}
    for name, matrix in dense.matrices.items():
        assert np.array_equal(unpack(matrix), tensors[name].flatten(1).numpy())


def test_weights_beyond_a_format_are_wider_and_nan_is_refused() -> None:
    large = torch.full((4, 4), 1e6)
    packed = pack_tensors({"w": PLAIN}, {"w": large}, PackSettings(Values.FP16))
    assert packed.matrices["w"].format.values is Values.FP32
    wide = (1, INT8_MAX_COLUMNS + 1)
    chosen, _ = matrix_format(PLAIN, wide, wide[1], PackSettings(Values.INT8))
    assert chosen.values is Values.FP16
    with pytest.raises(BadInputError, match="NaN or infinity"):
        pack_tensors({"w": PLAIN}, {"w": large * torch.nan}, PackSettings())


@pytest.mark.parametrize("values", [Values.INT8, Values.INT4, Values.FP16])
def test_what_reads_the_input_itself_is_not_rounded_to_int8(values: Values) -> None:
    """Columns of a user's input may differ in size, and one scale for all would lose the small."""
    spec = MatrixSpec(Role.PROJECTION, "embed", reads_input=True)
    weight = torch.randn(40, 64) * (torch.rand(40, 64) < 0.3)
    packed = pack_tensors({"embed": spec}, {"embed": weight}, PackSettings(values=values))
    assert packed.matrices["embed"].format.values is Values.FP16
