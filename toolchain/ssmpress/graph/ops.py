"""The ONNX domain: every op's name, inputs, outputs and attributes. The one place.

`graph/export.py` calls these ops by the names of their inputs, `graph/fallback.py` has what each
computes in standard operators, `runtimes/ops/` registers them with ONNX Runtime, `docs/ops.md` and
`docs/sparse_format.md` specify them byte by byte. Symbols: b batch, l sequence length, d channels,
n d_state, k d_conv, h heads, p channels of a head, g groups, r rows (output features), c columns
(input features).

Every op has a model-local function of the same domain and name as its fallback, so that a file
written by ssmpress also runs where the op library is not loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssmpress.formats import Format, Values
from ssmpress.pack.layouts import LAYOUTS, sections_of

DOMAIN = "ssmpress"
DOMAIN_VERSION = 1
ONNX_OPSET = 18
"""The lowest that has what the functions use (BitwiseAnd, axes as an input of ReduceMax): ONNX
Runtime 1.17 loads it, and that is also the oldest whose ABI the op library knows."""

COLUMNS_ATTRIBUTE = "columns"
VERSION_ATTRIBUTE = "format_version"
CHANNELS_ATTRIBUTE = "channels"
EPSILON_ATTRIBUTE = "epsilon"
GROUPS_ATTRIBUTE = "groups"
GATE_FIRST_ATTRIBUTE = "gate_first"
DT_MIN_ATTRIBUTE, DT_MAX_ATTRIBUTE = "dt_min", "dt_max"
SOFTPLUS_ATTRIBUTE, REVERSE_ATTRIBUTE = "softplus", "reverse"
OFFSET_ATTRIBUTE = "offset"


@dataclass(frozen=True)
class Op:
    """One op of the domain.

    inputs, outputs, attributes: their names, in the order of the ONNX node; all are required.
    doc: what it computes, for viewers of the file.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    doc: str
    attributes: tuple[str, ...] = ()


SELECTIVE_SCAN = Op(
    "SelectiveScan",
    inputs=("u", "delta", "delta_bias", "A", "B", "C", "D", "z", "state"),
    outputs=("y", "state_out"),
    doc="""The selective scan: a state per channel that every token decays, adds to and reads.
    dt_t = softplus(delta_t + delta_bias)
    h_t  = exp(dt_t A) h_{t-1} + (dt_t u_t) B_t
    y_t  = (sum_n C_t h_t + D u_t) * silu(z_t)
Source: arXiv 2312.00752, section 3.2. Inputs and shapes: docs/ops.md of ssmpress.""",
)
"""u, delta, z (b, l, d); delta_bias, D (d); A (n, d); B, C (b, l, n); state (b, n, d)."""

UNGATED_SCAN = Op(
    "UngatedScan",
    inputs=("u", "delta", "delta_bias", "A", "B", "C", "D", "state"),
    outputs=("y", "state_out"),
    doc="""The selective scan without a gate, in either direction: a network of another design.
    dt_t = softplus(delta_t + delta_bias) + offset    with softplus 1
    dt_t = delta_t + delta_bias + offset              with softplus 0
    h_t  = exp(dt_t A) h_s + (dt_t u_t) B_t           with s = t-1, or t+1 with reverse 1
    y_t  = sum_n C_t h_t + D u_t
Source: arXiv 2312.00752, section 3.2. Inputs and shapes: docs/ops.md of ssmpress.""",
    attributes=(SOFTPLUS_ATTRIBUTE, REVERSE_ATTRIBUTE, OFFSET_ATTRIBUTE),
)
"""As SELECTIVE_SCAN without z. state: before the first token, with reverse 1 after the last."""

CAUSAL_CONV1D = Op(
    "CausalConv1d",
    inputs=("x", "weight", "bias", "state"),
    outputs=("y", "state_out"),
    doc="""Causal depthwise convolution, then silu; the state is the last k-1 inputs.
    y_t = silu(bias + sum_j weight_j x_{t-(k-1)+j})
Inputs and shapes: docs/ops.md of ssmpress.""",
    attributes=(CHANNELS_ATTRIBUTE,),
)
"""x (b, l, d); weight (k, d); bias (d); state (b, k-1, d). SiLU is part of the op."""

SSD_SCAN = Op(
    "SsdScan",
    inputs=("x", "delta", "delta_bias", "A", "B", "C", "D", "state"),
    outputs=("y", "state_out"),
    doc="""The scan of Mamba-2: every head has one decay, and a state of n rows and p columns.
    dt_t = clip(softplus(delta_t + delta_bias), dt_min, dt_max)
    S_t  = exp(dt_t A) S_{t-1} + (dt_t B_t) x_t^T
    y_t  = C_t^T S_t + D x_t
Source: arXiv 2405.21060, section 5. Inputs and shapes: docs/ops.md of ssmpress.""",
    attributes=(DT_MIN_ATTRIBUTE, DT_MAX_ATTRIBUTE),
)
"""x (b, l, d) with d = h p, head after head; delta (b, l, h); delta_bias, A (h); B, C (b, l, g n),
group after group, each for h / g heads; D (d); state (b, h, n, p)."""

GATED_RMS_NORM = Op(
    "GatedRMSNorm",
    inputs=("x", "z", "weight"),
    outputs=("y",),
    doc="""The RMS norm of each of `groups` equal parts of the last axis, and a gate.
    y = norm(x silu(z)) weight    with gate_first 1
    y = norm(x) weight silu(z)    with gate_first 0
Source: arXiv 2405.21060, section 7.2. Inputs and shapes: docs/ops.md of ssmpress.""",
    attributes=(EPSILON_ATTRIBUTE, GROUPS_ATTRIBUTE, GATE_FIRST_ATTRIBUTE),
)
"""x, z, y (b, l, d); weight (d)."""

RMS_NORM = Op(
    "RMSNorm",
    inputs=("x", "weight"),
    outputs=("y",),
    doc="""y = x / sqrt(mean(x^2) + epsilon) * weight, the mean over the last axis.
Source: arXiv 1910.07467. Inputs and shapes: docs/ops.md of ssmpress.""",
    attributes=(EPSILON_ATTRIBUTE,),
)
"""x, y (..., d); weight (d). The op library has no kernel for it: ONNX Runtime fuses the nodes of
its function into one, as fast as opset 23's RMSNormalization, which needs ONNX Runtime 1.23."""

_COMPUTED = {
    Values.FP32: "products in float32",
    Values.FP16: "weights in float16, products in float32",
    Values.INT8: "weights and activations in int8 with a scale per row and per token",
    Values.INT4: "weights in int4 with a ratio per 16 columns and a scale per row, activations in "
    "int8 with a scale per token",
}
_BYTE_BY_BYTE = "Byte by byte: docs/sparse_format.md of ssmpress."
_MATRIX_ATTRIBUTES = (COLUMNS_ATTRIBUTE, VERSION_ATTRIBUTE)


def _linear(f: Format) -> Op:
    """y = x W^T; x float32 (..., c), y float32 (..., r)."""
    return Op(
        f.op_type,
        inputs=("x", *sections_of(f)),
        outputs=("y",),
        doc=f"y = x W^T with W stored as {f.name}: {LAYOUTS[f].sentence}; {_COMPUTED[f.values]}.\n"
        + _BYTE_BY_BYTE,
        attributes=_MATRIX_ATTRIBUTES,
    )


def _embedding(f: Format) -> Op:
    """Rows of a matrix; ids int64 (...), y float32 (..., c)."""
    return Op(
        f"{f.structure.capitalize()}Embedding{f.values.capitalize()}",
        inputs=("ids", *sections_of(f)),
        outputs=("y",),
        doc=f"Rows of a matrix stored as {f.name}, by number, as float32.\n" + _BYTE_BY_BYTE,
        attributes=_MATRIX_ATTRIBUTES,
    )


LINEAR = {f: _linear(f) for f in LAYOUTS}
"""The product with a packed matrix, by its format."""
EMBEDDING = {f: _embedding(f) for f, layout in LAYOUTS.items() if layout.onnx_rows}
"""The rows of a packed matrix, by its format."""

OPS = {
    op.name: op
    for op in (
        SELECTIVE_SCAN,
        UNGATED_SCAN,
        SSD_SCAN,
        CAUSAL_CONV1D,
        RMS_NORM,
        GATED_RMS_NORM,
        *LINEAR.values(),
        *EMBEDDING.values(),
    )
}
"""Every op of the domain by name."""
