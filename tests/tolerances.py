"""Every bound of the numerical tests, with its reason. Loosening one needs a CHANGELOG line.

A float comparison uses `bound * max(|expected|, 1)`, the largest magnitude of the whole tensor:
what is computed as a sum of large terms may be small, and is then only as exact as its terms.
`FLOAT32` and `FLOAT64` are the machine epsilons, 1.2e-7 and 2.2e-16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

FLOAT32 = float(np.finfo(np.float32).eps)
FLOAT64 = float(np.finfo(np.float64).eps)

SCAN_FLOAT64 = 1e-12
"""Blocked scan against the definition, both float64. The blocks multiply the same decays in another
order: 300 steps of 3 roundings and a sum of 17 terms could reach 1e-13; measured 2e-15."""

SCAN_FLOAT32 = 32 * FLOAT32
"""Any float32 scan against the float64 definition. A rounded step decays with the state, so errors
add up over about 1 / (dt |A|) steps only; exp of dt A adds |dt A| exp(-|dt A|) < 0.4 eps; the sum
over 17 states and softplus the rest. Measured 9.6 eps token by token in PyTorch at 300 tokens,
5.9 the fallback, 4.1 the library, 1.8 the blocked scan."""

SCAN_GRADIENT = 1e-12
"""Gradients of the blocked scan against autograd through the definition, float64. Those of A and
delta_bias sum over batch and sequence; measured 9e-16."""

CONV_FLOAT32 = 8 * FLOAT32
"""k products and a sigmoid: k + 6 roundings of terms about as large as the result; measured 1.7."""

REFERENCE_LOGITS = 1e-5
"""Logits against Hugging Face and mamba-ssm, relative to the largest; 1e-4 is asked. Float32
sums in another order through all layers; measured 6e-7 on the trained model."""

CARRIED_STATE = 1e-5
"""Prefill against single steps or two parts, and states against mamba-ssm's, float32, relative to
the largest value: another order of sums in the blocked scan and in matrix products of another
shape. Measured 8e-7 over 6 layers."""

PERPLEXITY = 5e-3
"""Within 0.5 % of the perplexity in ../shared/README.md, measured there in bfloat16."""

PERPLEXITY_SAMPLE = 0.15
"""Every 18th of 284 windows: their perplexities spread by 30 % (52 to 143), so that of 16 by 8 %;
80.03 measured. Catches a broken model, not a subtle one, which the slow tests do."""

PEAK_RSS_BYTES = 4 << 30
"""The whole test text on the small machines this project is for."""

GRAPH_FLOAT32 = 1e-5
"""Library against fallback, and graph against PyTorch, for float32 activations, relative to the
largest value of each tensor; docs/ops.md promises 1e-4. Measured 6e-7 (small) and
9e-7 (mamba-5m)."""

INT8_ONE_LAYER_ULPS = 2
"""docs/sparse_format.md: with equal integers, y differs by at most two roundings."""

INT8_PERPLEXITY = 1e-3
"""docs/ops.md: library against fallback with int8 activations. Where the float32 parts differ in
the last bit, an activation on the edge between two int8 values may fall to either side; over a text
that averages out. Measured 2e-5 on mamba-5m."""

INT8_GRAPH = 6e-2
"""One such activation is 1/127 of its token's largest, and layers add theirs up: the same bound as
parity.PARITY_TOLERANCE for int8. Measured 1.1e-2 on mamba-5m; a wrong scale or a swapped row
gives 0.3 and more."""

FUSED_GRADIENT_TOLERANCE = 1e-4
"""CUDA kernels against the PyTorch definition, both float32, relative to the largest value of each
gradient: sums of up to 2,500 tokens in another order, and exp and softplus of the fast kind."""

STAND_IN_FLOAT32 = 2e-6
"""Stand-ins against mamba-ssm's PyTorch references and step against sequence, float32, gradients
too, relative to the largest value: 7 steps of sums in another order; measured 5e-7."""


def assert_close(actual: ArrayLike, expected: ArrayLike, bound: float, what: str = "") -> None:
    """|actual - expected| <= bound * max(|expected|, 1), finite, and of the same shape."""
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == e.shape, f"{what}: shape {a.shape}, expected {e.shape}"
    if not e.size:
        return
    assert np.isfinite(a).all(), f"{what}: not finite"
    difference = float(np.abs(a - e).max())
    limit = bound * max(float(np.abs(e).max()), 1.0)
    assert difference <= limit, f"{what}: differs by {difference:.3g}, at most {limit:.3g} allowed"


def assert_same_logits(actual: ArrayLike, expected: ArrayLike) -> None:
    """|actual - expected| <= REFERENCE_LOGITS * max |expected|, however small that is."""
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == e.shape
    assert float(np.abs(a - e).max()) <= REFERENCE_LOGITS * float(np.abs(e).max())


TASK_METRIC_TOLERANCE = 1e-4
"""Of a forecaster's MSE and MAE between PyTorch, ONNX Runtime and ssmrun: float32 forecasts that
differ by about 1e-6 of their size, averaged. An error of 1e-4 would be a wrong window or scale."""
