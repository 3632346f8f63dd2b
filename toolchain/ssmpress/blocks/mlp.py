"""What the MLPs have in common: channels between two projections, fc1 and fc2, and no state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ssmpress.blocks.facts import (
    BlockConfig,
    StateAxis,
    check_sizes,
    resized,
    without,
)
from ssmpress.states import StateTensor


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """The size of an MLP, checked when built.

    Args:
        d_intermediate: channels between its two projections.

    Raises:
        BadInputError: it is not an integer from 1 to its limit.
    """

    d_intermediate: int

    limits: ClassVar[Mapping[str, int]] = {"d_intermediate": 1 << 19}
    never_pruned: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        check_sizes(self)

    def states(self) -> tuple[StateTensor, ...]:
        """It carries no state."""
        return ()

    @property
    def channels(self) -> int:
        """Every channel can die: each may be closed on its way in or out."""
        return self.d_intermediate

    @property
    def state_axis(self) -> StateAxis | None:
        """It carries no state."""
        return None

    def live_channels(self, closed: Tensor, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The channels that are open and that fc2 reads. closed: bool (d_intermediate,)."""
        unread = (weights["fc2.weight"] == 0).all(0)
        return without("d_intermediate", closed | unread)

    def narrowed(self, kept: Mapping[str, Tensor]) -> tuple[BlockConfig, Mapping[str, float]]:
        """Its size is a field."""
        return resized(self, kept)
