"""What every block says of itself: the Protocol of the configurations in this folder.

A block is a part of a layer: y = block(norm(x)), added to the residual stream. Its configuration, a
frozen dataclass in the block's own file, holds its sizes and answers what reading, pruning, packing
and the graph ask. No other file knows the names of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from ssmpress.errors import BadInputError
from ssmpress.states import StateTensor

Observer = Callable[[torch.Tensor, torch.Tensor], None]
"""See `StateAxis`."""

Axis = tuple[str, ...]
"""Sizes by name, of the block or of the model, that one after the other make up an axis. The rows
of Mamba-1's in_proj are ("d_inner", "d_inner"): x, then z. "1" is one."""


@dataclass(frozen=True)
class TensorFacts:
    """A tensor of a block.

    flag: the field of the block without which the tensor does not exist; None is always there.
    """

    axes: tuple[Axis, ...]
    flag: str | None = None


@dataclass(frozen=True)
class ProjectionFacts:
    """A projection y = x Wᵀ + b of a block: a prunable matrix, `NAME.weight`, and `NAME.bias`.

    input: what x is. Projections with the same word read the same tensor, others another one: one
        Gram matrix of the calibration tokens serves all of the same word.
    adds_bias: y has the bias, if there is one; False where something after y adds it.
    """

    input: str
    adds_bias: bool = True


@dataclass(frozen=True)
class StateAxis:
    """The state of a block as a component of it.

    The block's module calls its `observer`, if it has one, with what writes and what reads the
    state (B and C, any shape of so many numbers a token).

    size: whose numbers are those of the state: of every axis with that name, they are the weights
        that write and read it. groups: so many equal parts follow one another, which must stay
        equal.
    """

    size: str
    groups: int = 1


class BlockConfig(Protocol):
    """The configuration of a block, checked when built.

    kind: the block's name in a configuration.
    limits: field -> its largest value, ten times what any published model has.
    never_pruned: parameters that somebody may ask to prune, and why they cannot be.
    """

    kind: ClassVar[str]
    limits: ClassVar[Mapping[str, int]]
    never_pruned: ClassVar[Mapping[str, str]]

    @property
    def title(self) -> str:
        """What people call it."""
        ...

    def tensors(self) -> Mapping[str, TensorFacts]:
        """Name within the block -> facts, of every tensor that it may have."""
        ...

    def projections(self) -> Mapping[str, ProjectionFacts]:
        """Name of the module within the block -> facts; each name once in a layer."""
        ...

    def states(self) -> tuple[StateTensor, ...]:
        """What it carries to the next token, in the order of its module's arguments; named
        without the layer, such as `conv_state`."""
        ...

    @property
    def channels(self) -> int:
        """How many channels it has that pruning may close; 0 where it has none."""
        ...

    @property
    def state_axis(self) -> StateAxis | None:
        """The state that may be pruned by removing some of it; None where it has none."""
        ...

    def live(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """What of it can change an output.

        Args:
            weights: pruned ones by name within the block.

        Returns:
            Name of a size -> the numbers that stay, int64, ascending, at least one; only of the
            sizes that lose some. What is left is `narrowed`, and of every axis with that name the
            numbers that stay.
        """
        ...

    def narrowed(self, kept: Mapping[str, torch.Tensor]) -> tuple[BlockConfig, Mapping[str, float]]:
        """The block of some of its parts.

        Args:
            kept: as `live` returns it; or, of `state_axis`, what stays of the state.

        Returns:
            Its sizes, and by the names of its tensors what their values are multiplied with.
        """
        ...

    def module(self, d_model: int) -> nn.Module:
        """The block in PyTorch, without trained weights: (x, *states) -> (y, *states)."""
        ...


def without(size: str, dead: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """What `BlockConfig.live` answers where one size loses its dead numbers, but never all.

    Args:
        size: its name. dead: bool, one for each of its numbers.
    """
    live = torch.nonzero(~dead)[:, 0]
    if len(live) == len(dead):
        return {}
    return {size: live if len(live) else torch.zeros(1, dtype=torch.int64)}


def resized(
    block: Any, kept: Mapping[str, torch.Tensor]
) -> tuple[BlockConfig, Mapping[str, float]]:
    """`BlockConfig.narrowed` of a block whose sizes are fields; its values stay."""
    names = {item.name for item in fields(block)} & set(kept)
    return replace(block, **{name: len(kept[name]) for name in names}), {}


def equally_many(dead: torch.Tensor) -> torch.Tensor:
    """What stays where every row loses the same number of its dead ones, but never all.

    Args:
        dead: bool (rows, columns).

    Returns:
        int64 (rows, columns that stay): numbers of columns, ascending in each row.
    """
    count = min(int(dead.sum(1).min()), dead.shape[1] - 1)
    gone = dead & (dead.cumsum(1) <= count)
    return torch.nonzero(~gone)[:, 1].reshape(len(dead), -1)


def whole_groups(kept: torch.Tensor, size: int) -> torch.Tensor:
    """Numbers within each of several groups of `size` -> numbers over all of them, int64 (n,).

    Args:
        kept: int64 (groups, n of each).
    """
    begins = size * torch.arange(len(kept))
    return (begins[:, None] + kept).flatten()


def check_sizes(block: Any) -> None:
    """Whether the sizes of a configuration are integers from 1 to its `limits`.

    Raises:
        BadInputError: one is not.
    """
    for name, limit in block.limits.items():
        value = getattr(block, name)
        if type(value) is not int or not 1 <= value <= limit:
            raise config_error(name, f"an integer from 1 to {limit}", value)


def check_flags(block: Any, *names: str) -> None:
    """Whether these fields are true or false.

    Raises:
        BadInputError: one is not.
    """
    for name in names:
        if not isinstance(getattr(block, name), bool):
            raise config_error(name, "true or false", getattr(block, name))


def check_eps(name: str, value: object, limit: float = 1e9) -> None:
    """Whether a field is a positive number below the limit.

    Raises:
        BadInputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < limit:
        raise config_error(name, "a positive number", value)


def config_error(name: str, expected: str, got: object) -> BadInputError:
    """The error about one field of a configuration."""
    text = repr(got)
    return BadInputError(
        f"model configuration: {name}: expected {expected}; got "
        f"{text if len(text) <= 60 else text[:57] + '...'}. Correct it, or take the file that came "
        "with the weights."
    )
