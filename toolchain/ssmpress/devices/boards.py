"""The least time that a board's memory allows for one decode step.

Every weight is read once per token, so a step takes at least the bytes that do not stay in the
cache, over the memory's highest bandwidth (transfers per second x bus width). It is no estimate:
a real step takes longer. Sources: docs/devices.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ssmpress.results.devices import LowerBound


@dataclass(frozen=True)
class Board:
    """cpu: as QEMU names it. bandwidth_gb_s: 1e9 bytes per second, the memory's theoretical peak.
    cache_bytes: all that its processors may keep, L2 and L3."""

    name: str
    machine: str
    cpu: str
    cores: int
    bandwidth_gb_s: float
    cache_bytes: int


BOARDS = (
    Board("Raspberry Pi Zero 2 W", "aarch64", "cortex-a53", 4, 3.6, 512 << 10),
    Board("Raspberry Pi 3 Model B+", "aarch64", "cortex-a53", 4, 4.0, 512 << 10),
    Board("Raspberry Pi 4 Model B", "aarch64", "cortex-a72", 4, 12.8, 1 << 20),
    Board("Raspberry Pi 5", "aarch64", "cortex-a76", 4, 17.1, 4 << 20),
)


def lower_bounds(machine: str, step_bytes: Mapping[str, int]) -> tuple[LowerBound, ...]:
    """The least time of a step on every board of a machine, which its memory allows.

    Args:
        step_bytes: that one decode step reads, by variant.
    """
    return tuple(
        LowerBound(
            board.name,
            board.bandwidth_gb_s,
            board.cache_bytes,
            {name: _milliseconds(board, size) for name, size in step_bytes.items()},
        )
        for board in BOARDS
        if board.machine == machine
    )


def _milliseconds(board: Board, size: int) -> float | None:
    beyond = size - board.cache_bytes
    return 1e3 * beyond / (1e9 * board.bandwidth_gb_s) if beyond > 0 else None
