"""The packed model: every tensor of a checkpoint, its matrices packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD, MatrixSpec, head_name, matrix_specs
from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.choose import BEYOND_FP16, in_float32, matrix_format
from ssmpress.pack.frequent import FrequentRows
from ssmpress.pack.layout import Array, Matrix
from ssmpress.pack.layouts import LAYOUTS, int4
from ssmpress.pack.matrix import PackedMatrix, pack_as
from ssmpress.pack.values import FP16_MAX
from ssmpress.recipe.settings.pack import PackSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PackedTensors:
    """The tensors of a model or of a network, whose matrices are packed.

    tensors: arrays that are not packed, by name. matrices: packed matrices (rows, columns) by name.
    """

    tensors: Mapping[str, Array]
    matrices: Mapping[str, PackedMatrix]

    def bytes_of(self, name: str) -> int:
        """Bytes of a packed matrix."""
        return self.matrices[name].nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        packed = sum(map(self.bytes_of, self.matrices))
        return packed + sum(t.nbytes for t in self.tensors.values())


@dataclass(frozen=True)
class PackedModel(PackedTensors):
    """A model whose matrices are packed: what is exported.

    tensors: float32, by canonical name. matrices: projections, embedding, an untied head. config:
    sizes. frequent: corrects rows of the head's matrix. removed_channels: dead ones that are gone,
    by layer. end_tokens: after which a text is over, for whoever generates.
    """

    config: ModelConfig
    frequent: FrequentRows | None = None
    removed_channels: tuple[int, ...] = ()
    end_tokens: tuple[int, ...] = ()

    @property
    def head_name(self) -> str:
        """The matrix that scores the next token."""
        return EMBEDDING if self.config.tie_embeddings else LM_HEAD

    def bytes_of(self, name: str) -> int:
        """Bytes of a packed matrix, of its corrected rows too."""
        size = super().bytes_of(name)
        if self.frequent is not None and name == self.head_name:
            return size + self.frequent.nbytes(self.matrices[name].rows)
        return size


Rounding = Callable[[Matrix], int4.Rounded]
"""A matrix -> its weights in 4 bits."""


def pack_model(
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    settings: PackSettings | None,
    rounding: Mapping[str, Rounding] | None = None,
    machine: str = "x86_64",
) -> PackedModel:
    """`pack_tensors` of a checkpoint. tensors: float32, by canonical name."""
    packed = pack_tensors(
        matrix_specs(config), tensors, settings, machine, head=head_name(config), rounding=rounding
    )
    return PackedModel(packed.tensors, packed.matrices, config)


def pack_tensors(
    specs: Mapping[str, MatrixSpec],
    tensors: Mapping[str, torch.Tensor],
    settings: PackSettings | None,
    machine: str = "x86_64",
    *,
    head: str | None = None,
    rounding: Mapping[str, Rounding] | None = None,
) -> PackedTensors:
    """Pack every matrix, in the format that suits it; the rest stays as it is.

    Args:
        specs: which tensors are matrices, and what for. tensors: by name, on the CPU, pruned
            weights being 0; the matrices float32. settings: None packs everything dense float32.
            A matrix with a weight beyond fp16 is float32 where the settings say fp16. machine:
            that the formats are chosen for. head: the matrix that scores the next token.
            rounding: of int4 matrices, by name; the others are rounded to the nearest.

    Raises:
        BadInputError: a weight is not finite.
    """
    matrices: dict[str, PackedMatrix] = {}
    rest: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if name not in specs:
            rest[name] = tensor.numpy()
            continue
        weight = as_matrix(specs[name], tensor.numpy())
        keep_mask = weight != 0
        chosen, reason = Format(Structure.DENSE, Values.FP32), "the dense baseline"
        if settings is not None:
            stored = int(keep_mask.sum())
            chosen, reason = matrix_format(
                specs[name], weight.shape, stored, settings, machine, scores_tokens=name == head
            )
            largest = float(np.abs(weight).max(initial=0))
            if chosen.values is Values.FP16 and largest > FP16_MAX:
                chosen = in_float32(chosen, weight.shape, stored, machine)
                reason = f"a weight of {largest:.6g} is {BEYOND_FP16}"
        layout = LAYOUTS[chosen]
        if rounding and name in rounding and isinstance(layout, int4.Int4):
            layout = int4.Int4(rounding[name])
        matrices[name] = pack_as(layout, weight, keep_mask, reason)
    return PackedTensors(rest, matrices)


def as_matrix(spec: MatrixSpec, array: Matrix) -> Matrix:
    """A tensor of two axes, and of any number of size 1 after them, as (rows, columns)."""
    matrix = array.reshape(array.shape[:2])
    return np.ascontiguousarray(matrix.T) if spec.transposed else matrix
