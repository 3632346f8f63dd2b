"""The report's `target` and `devices`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ssmpress.results.devices import DeviceResult, Instructions, TargetResult


def target_block(target: TargetResult) -> dict[str, Any]:
    """The report's `target`."""
    return asdict(target)


def device_block(device: DeviceResult, latency: Any, memory: Any) -> dict[str, Any]:
    """One of the report's `devices`. latency, memory: as the report's blocks of these names."""
    parity = device.parity
    return {
        "device": device.name,
        "kind": device.kind,
        "machine": device.machine,
        "environment": device.environment,
        "parity": parity and {**asdict(parity), "ok": parity.ok},
        "sample": device.sample and asdict(device.sample),
        "latency": latency,
        "memory": memory,
        "not_measured": device.not_measured,
        "before": device.before,
        "after": device.after,
        "instructions": _instructions(device.instructions),
        "not_counted": device.not_counted,
        "counted_length": device.counted_length,
    }


def _instructions(repeats: Mapping[str, Instructions]) -> dict[str, Any] | None:
    """The mean and the spread of the repeats by variant and part, and dense / compressed."""
    if not repeats:
        return None
    blocks = {
        name: {part: _spread(counts) for part, counts in asdict(i).items()}
        for name, i in repeats.items()
    }
    ratio: dict[str, float | None] = {}
    if {"dense", "compressed"} <= set(blocks):
        for part, dense in blocks["dense"].items():
            below = blocks["compressed"][part]["mean"]
            ratio[part] = dense["mean"] / below if below else None
    return {**blocks, "ratio": ratio}


def _spread(counts: Sequence[float]) -> dict[str, Any]:
    """spread: (largest - smallest) / mean of the repeats."""
    mean = sum(counts) / len(counts)
    spread = (max(counts) - min(counts)) / mean if mean else None
    return {"mean": mean, "spread": spread, "repeats": list(counts)}
