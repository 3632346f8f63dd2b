"""The packed model: every tensor of a checkpoint, its matrices packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmpress.checkpoint.config import EMBEDDING, LM_HEAD, ModelConfig
from ssmpress.pack.matrix import FrequentRows, PackedMatrix

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class PackedModel:
    """A model whose matrices are packed: what is exported.

    config: sizes. tensors: float32 arrays that are not packed, by canonical name. matrices: packed
    matrices by canonical name (projections, embedding, an untied head). frequent: corrects rows of
    the head's matrix.
    """

    config: ModelConfig
    tensors: Mapping[str, FloatArray]
    matrices: Mapping[str, PackedMatrix]
    frequent: FrequentRows | None = None

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
    def removed_channels(self) -> tuple[int, ...]:
        """Dead channels that are gone, by layer."""
        return tuple(
            self.config.d_inner - self.config.channels_of(i) for i in range(self.config.n_layer)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        packed = sum(map(self.bytes_of, self.matrices))
        return packed + sum(t.nbytes for t in self.tensors.values())
