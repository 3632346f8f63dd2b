"""What a weight costs in each format on each machine: the figures behind the choice of formats."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ssmpress.formats import Format

MEASURED_DENSITIES = (0.1, 0.3, 0.5, 0.8, 1.0)
NS_PER_WEIGHT: Mapping[str, tuple[float, ...]] = {
    "dense-fp32": (0.334,) * 5,
    "dense-fp16": (0.190,) * 5,
    "dense-int8": (0.095,) * 5,
    "bitmask-fp32": (0.096, 0.152, 0.234, 0.336, 0.354),
    "bitmask-fp16": (0.107, 0.108, 0.113, 0.165, 0.182),
    "bitmask-int8": (0.087, 0.083, 0.075, 0.086, 0.092),
    "window-int8": (0.033, 0.051, 0.069, 0.106, 0.109),
    "dense-int4": (0.053,) * 5,
    "window-fp16": (0.039, 0.082, 0.118, 0.195, 0.210),
}
"""Decode time of one weight, stored or not, by density: AVX2, one thread, matrices that stream from
memory, up to 0.5 with masks of a trained model (docs/benchmarks/formats.json). Only the order of
two formats matters here, which holds on other machines where the absolute times do not."""

INSTRUCTIONS_PER_WEIGHT: Mapping[str, tuple[float, ...]] = {
    "dense-int8": (0.126,) * 5,
    "bitmask-int8": (1.130,) * 5,
    "window-int8": (0.102, 0.152, 0.215, 0.314, 0.381),
}
"""The same for arm64, where no time was measured: instructions that QEMU executes, Cortex-A76, the
kernels of `dotprod` (docs/kernels.md). float32 and float16 are not among them: there the order of
AVX2 stands."""

ARM64_NS_PER_BYTE = 1 / 17.1
"""A Raspberry Pi 5's memory, at best (boards.py)."""

ARM64_NS_PER_INSTRUCTION = 1 / (2.4 * 2)
"""Its Cortex-A76 at 2.4 GHz, two instructions a cycle of the four that it can start."""


def predicted_ns(
    packed_format: Format, density: float, bytes_per_weight: float, machine: str
) -> float:
    """Nanoseconds that a decode step spends on one weight, interpolated between densities.

    For arm64 the time to read the bytes and the time of the instructions are added: a format that
    reads more than another must save more than that in instructions.

    Args:
        density: share of the weights that are stored. bytes_per_weight: of all weights. machine:
            as `uname -m` names it.
    """
    name = packed_format.name
    if machine == "aarch64" and name in INSTRUCTIONS_PER_WEIGHT:
        instructions = np.interp(density, MEASURED_DENSITIES, INSTRUCTIONS_PER_WEIGHT[name])
        reading = bytes_per_weight * ARM64_NS_PER_BYTE
        return reading + float(instructions) * ARM64_NS_PER_INSTRUCTION
    return float(np.interp(density, MEASURED_DENSITIES, NS_PER_WEIGHT[name]))
