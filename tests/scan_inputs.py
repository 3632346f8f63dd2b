"""Random inputs of the selective scan."""

from __future__ import annotations

import numpy as np

from ssmpress.graph import ops


def draw_scan(
    b: int, length: int, d: int, n: int, delta: float = 0.0, decay: float = 1.0, seed: int = 0
) -> dict[str, np.ndarray]:
    """float32 inputs of the scan. delta: added to every step; decay: times A."""
    random = np.random.default_rng([seed, b, length, d, n])
    shapes = {
        "u": (b, length, d),
        "delta": (b, length, d),
        "delta_bias": (d,),
        "A": (n, d),
        "B": (b, length, n),
        "C": (b, length, n),
        "D": (d,),
        "z": (b, length, d),
        "state": (b, n, d),
    }
    assert tuple(shapes) == ops.SELECTIVE_SCAN.inputs
    arrays = {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    arrays["A"] = -np.exp(arrays["A"]) * np.float32(decay)
    arrays["delta"] += np.float32(delta)
    return arrays
