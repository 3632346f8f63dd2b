"""The packed model: every tensor of a checkpoint, its matrices packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD, matrix_specs
from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.choose import BEYOND_FP16, in_float32, matrix_format
from ssmpress.pack.frequent import FrequentRows
from ssmpress.pack.layout import Matrix
from ssmpress.pack.layouts import LAYOUTS, int4
from ssmpress.pack.matrix import PackedMatrix, pack_as
from ssmpress.pack.values import FP16_MAX
from ssmpress.recipe.settings.pack import PackSettings

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class PackedModel:
    """A model whose matrices are packed: what is exported.

    config: sizes. tensors: float32 arrays that are not packed, by canonical name. matrices: packed
    matrices by canonical name (projections, embedding, an untied head). frequent: corrects rows of
    the head's matrix. removed_channels: dead ones that are gone, by layer. end_tokens: after which
    a text is over, for whoever generates.
    """

    config: ModelConfig
    tensors: Mapping[str, FloatArray]
    matrices: Mapping[str, PackedMatrix]
    frequent: FrequentRows | None = None
    removed_channels: tuple[int, ...] = ()
    end_tokens: tuple[int, ...] = ()

    @property
    def head_name(self) -> str:
        """The matrix that scores the next token."""
        return EMBEDDING if self.config.tie_embeddings else LM_HEAD

    def bytes_of(self, name: str) -> int:
        """Bytes of a packed matrix, of its corrected rows too."""
        matrix = self.matrices[name]
        if self.frequent is not None and name == self.head_name:
            return matrix.nbytes + self.frequent.nbytes(matrix.rows)
        return matrix.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        packed = sum(map(self.bytes_of, self.matrices))
        return packed + sum(t.nbytes for t in self.tensors.values())


def pack_model(
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    settings: PackSettings | None,
    rounding: Mapping[str, Callable[[Matrix], int4.Rounded]] | None = None,
    machine: str = "x86_64",
) -> PackedModel:
    """Pack every matrix of a checkpoint, in the format that suits it; the rest stays as it is.

    Args:
        tensors: float32, by canonical name, pruned weights being 0. settings: None packs
            everything dense float32. A matrix with a weight beyond fp16 is float32 where the
            settings say fp16. rounding: of int4 matrices, by name; the others are rounded
            to the nearest. machine: that the formats are chosen for.
    """
    specs = matrix_specs(config)
    matrices, rest = {}, {}
    for name, tensor in tensors.items():
        array = tensor.numpy()
        if name not in specs:
            rest[name] = array
            continue
        keep_mask = array != 0
        if settings is None:
            chosen, reason = Format(Structure.DENSE, Values.FP32), "the dense baseline"
        else:
            stored = int(keep_mask.sum())
            chosen, reason = matrix_format(config, name, array.shape, stored, settings, machine)
            largest = float(np.abs(array).max(initial=0))
            if chosen.values is Values.FP16 and largest > FP16_MAX:
                chosen = in_float32(chosen, array.shape, stored, machine)
                reason = f"a weight of {largest:.6g} is {BEYOND_FP16}"
        layout = LAYOUTS[chosen]
        if rounding and name in rounding and isinstance(layout, int4.Int4):
            layout = int4.Int4(rounding[name])
        matrices[name] = pack_as(layout, array, keep_mask, reason)
    return PackedModel(config, rest, matrices)
