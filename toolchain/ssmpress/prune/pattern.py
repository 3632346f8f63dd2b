"""Hardware patterns: blocks of R x C weights that go together, or n kept of every m in a row.

Both cost quality at equal sparsity (docs/pruning.md); unstructured is the default.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmpress.errors import UsageError

_BLOCK = re.compile(r"block[ :]?(\d+)x(\d+)")
_GROUP = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Pattern:
    """rows x columns that are pruned as one, or (grouped) `keep` of `columns` weights in a row."""

    rows: int
    columns: int
    keep: int = 0

    @staticmethod
    def parse(text: str) -> Pattern | None:
        """`unstructured` -> None, `block 4x1` -> blocks of 4 rows x 1 column, `2:4` -> 2 of 4.

        Raises:
            UsageError: anything else, or sizes that make no pattern.
        """
        if text == "unstructured":
            return None
        if found := _BLOCK.fullmatch(text):
            rows, columns = map(int, found.groups())
            if rows * columns > 1 and 1 <= rows <= 256 and 1 <= columns <= 256:
                return Pattern(rows, columns)
        elif found := _GROUP.fullmatch(text):
            keep, group = map(int, found.groups())
            if 1 <= keep < group <= 256:
                return Pattern(1, group, keep)
        raise UsageError(
            "--pattern: expected unstructured, 'block RxC' (up to 256 each) or n:m with "
            f"0 < n < m <= 256; got {text!r}."
        )

    @property
    def grouped(self) -> bool:
        """n:m rather than blocks."""
        return self.keep > 0

    def check_sparsity(self, sparsity: float) -> None:
        """n:m has one sparsity, 1 - n/m.

        Raises:
            UsageError: another one is asked for.
        """
        own = 1 - self.keep / self.columns
        if self.grouped and abs(sparsity - own) > 0.005:
            raise UsageError(
                f"--pattern {self.keep}:{self.columns} always has sparsity {own:.4g}; got "
                f"--sparsity {sparsity:g}. Give --sparsity {own:.4g} or another n:m."
            )

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Whether a matrix is a whole number of blocks. shape: (rows, columns), and ones.

        Raises:
            UsageError: it is not.
        """
        rows, columns = shape[:2]
        if rows % self.rows or columns % self.columns:
            what = f"{self.keep}:{self.columns}" if self.grouped else f"{self.rows}x{self.columns}"
            raise UsageError(
                f"--pattern: {name} has {rows} rows and {columns} columns, no whole number of "
                f"{what}. Choose sizes that divide them, or leave it out of --prunable."
            )

    def units(self, name: str, scores: Tensor) -> Tensor:
        """(rows, columns) -> one score per block, the sum of its weights'.

        Raises:
            UsageError: the matrix is no whole number of blocks.
        """
        rows, columns = scores.shape
        self.check_shape(name, (rows, columns))
        blocks = scores.reshape(rows // self.rows, self.rows, columns // self.columns, self.columns)
        return blocks.sum(dim=(1, 3))

    def expand(self, keep: Tensor) -> Tensor:
        """One flag per block -> one per weight."""
        return keep.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)

    def keep_in_groups(self, scores: Tensor, sparsity: float) -> Tensor:
        """The highest of every group stay; on the way to n:m more of them than n.

        Ties as everywhere: the first position goes first.
        """
        count = max(self.keep, math.ceil(self.columns * (1 - sparsity) - 1e-9))
        if sparsity >= 1 - self.keep / self.columns - 0.005:
            count = self.keep
        groups = scores.reshape(-1, self.columns)
        order = groups.argsort(dim=1, stable=True)
        keep = torch.ones_like(groups, dtype=torch.bool)
        keep.scatter_(1, order[:, : self.columns - count], False)
        return keep.view_as(scores)
