"""The ONNX domain: op names, inputs, attributes and shapes. The one place.

`graph/export.py` writes these ops, `runtimes/ops/` registers them with ONNX Runtime, `docs/ops.md`
and `docs/sparse_format.md` specify them byte by byte. Symbols: b batch, l sequence length,
d d_inner, n d_state, k d_conv, r rows (output features), c columns (input features).

Every op has a model-local function of the same domain and name as its fallback, so that a file
written by ssmpress also runs where the op library is not loaded.
"""

from __future__ import annotations

DOMAIN = "ssmpress"
DOMAIN_VERSION = 1
ONNX_OPSET = 23

SELECTIVE_SCAN = "SelectiveScan"
SELECTIVE_SCAN_INPUTS = ("u", "delta", "delta_bias", "A", "B", "C", "D", "z", "state")
SELECTIVE_SCAN_OUTPUTS = ("y", "state_out")
"""u, delta, z (b, l, d); delta_bias, D (d); A (n, d); B, C (b, l, n); state (b, n, d)."""

CAUSAL_CONV1D = "CausalConv1d"
CAUSAL_CONV1D_INPUTS = ("x", "weight", "bias", "state")
CAUSAL_CONV1D_OUTPUTS = ("y", "state_out")
"""x (b, l, d); weight (k, d); bias (d); state (b, k-1, d). SiLU is part of the op."""


COLUMNS_ATTRIBUTE = "columns"
VERSION_ATTRIBUTE = "format_version"
CHANNELS_ATTRIBUTE = "channels"
