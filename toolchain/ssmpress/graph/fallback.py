"""The ops of `ops.py` as ONNX functions: what they compute, in standard operators.

A model carries the functions of the ops it uses. Where the op library is loaded its kernels take
over; where it is not, ONNX Runtime (or any other backend) inlines these, so that the same file
runs everywhere. Written in ONNX's textual syntax. How a packed matrix is unpacked stands in the
file of its layout, in `pack/layouts/`; what is done with it here.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx.parser

from ssmpress.formats import Format, Values
from ssmpress.graph import ops
from ssmpress.pack.layouts import LAYOUTS

_SCAN_OVER_TOKENS = """
    state_out, h_first = Scan <num_scan_inputs = 4, body = token
        (float[b, n, d] h_before, float[b, d] dt_t, float[b, d] x_t, float[b, n] B_t,
         float[b, n] C_t) => (float[b, n, d] h_after, float[b, d] y_t) {
        state_axis = Constant <value_ints = [1]> ()
        channel_axis = Constant <value_ints = [2]> ()
        dt_row = Unsqueeze(dt_t, state_axis)
        dt_A = Mul(dt_row, A)
        decay = Exp(dt_A)
        decayed = Mul(decay, h_before)
        x_row = Unsqueeze(x_t, state_axis)
        B_column = Unsqueeze(B_t, channel_axis)
        added = Mul(x_row, B_column)
        h_after = Add(decayed, added)
        C_row = Unsqueeze(C_t, state_axis)
        y_row = MatMul(C_row, h_after)
        y_t = Squeeze(y_row, state_axis)
    }> (state, dt_first, x_first, B_first, C_first)
"""
"""h of every token, from dt, dt u, B and C with the axis of the tokens first."""

_SELECTIVE_SCAN = (
    """
    biased = Add(delta, delta_bias)
    dt = Softplus(biased)
    x = Mul(dt, u)
    dt_first = Transpose <perm = [1, 0, 2]> (dt)
    x_first = Transpose <perm = [1, 0, 2]> (x)
    B_first = Transpose <perm = [1, 0, 2]> (B)
    C_first = Transpose <perm = [1, 0, 2]> (C)
"""
    + _SCAN_OVER_TOKENS
    + """
    h_y = Transpose <perm = [1, 0, 2]> (h_first)
    skip = Mul(D, u)
    ungated = Add(h_y, skip)
    sigmoid_z = Sigmoid(z)
    gate = Mul(z, sigmoid_z)
    y = Mul(ungated, gate)
"""
)

_UNGATED_SCAN = (
    """
    biased = Add(delta, delta_bias)
    softened = Softplus(biased)
    softplus_flag = Constant <value_int: int = @softplus> ()
    softens = Cast <to = 9> (softplus_flag)
    steps = Where(softens, softened, biased)
    offset_scalar = Constant <value_float: float = @offset> ()
    dt = Add(steps, offset_scalar)
    x = Mul(dt, u)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    beyond_last = Constant <value_ints = [9223372036854775807]> ()
    before_first = Constant <value_ints = [-9223372036854775807]> ()
    reverse_scalar = Constant <value_int: int = @reverse> ()
    reverse_flag = Unsqueeze(reverse_scalar, zero)
    reverses = Cast <to = 9> (reverse_flag)
    last = Neg(one)
    begin = Where(reverses, last, zero)
    end = Where(reverses, before_first, beyond_last)
    step = Where(reverses, last, one)
    dt_taken = Slice(dt, begin, end, one, step)
    x_taken = Slice(x, begin, end, one, step)
    B_taken = Slice(B, begin, end, one, step)
    C_taken = Slice(C, begin, end, one, step)
    dt_first = Transpose <perm = [1, 0, 2]> (dt_taken)
    x_first = Transpose <perm = [1, 0, 2]> (x_taken)
    B_first = Transpose <perm = [1, 0, 2]> (B_taken)
    C_first = Transpose <perm = [1, 0, 2]> (C_taken)
"""
    + _SCAN_OVER_TOKENS
    + """
    h_taken = Transpose <perm = [1, 0, 2]> (h_first)
    h_y = Slice(h_taken, begin, end, one, step)
    skip = Mul(D, u)
    y = Add(h_y, skip)
"""
)

_SSD_SCAN = """
    biased = Add(delta, delta_bias)
    steps = Softplus(biased)
    lowest = Constant <value_float: float = @dt_min> ()
    highest = Constant <value_float: float = @dt_max> ()
    dt = Clip(steps, lowest, highest)
    dt_A = Mul(dt, A)
    decay = Exp(dt_A)
    as_before = Constant <value_ints = [0, 0]> ()
    the_rest = Constant <value_ints = [-1]> ()
    one = Constant <value_ints = [1]> ()
    heads = Shape <start = 1, end = 2> (state)
    rows = Shape <start = 2, end = 3> (state)
    by_head = Concat <axis = 0> (as_before, heads, the_rest)
    by_group = Concat <axis = 0> (as_before, the_rest, one, rows)
    x_heads = Reshape(x, by_head)
    dt_last = Unsqueeze(dt, the_rest)
    x_dt = Mul(x_heads, dt_last)
    B_groups = Reshape(B, by_group)
    C_groups = Reshape(C, by_group)
    groups = Shape <start = 2, end = 3> (B_groups)
    each = Div(heads, groups)
    repeats = Concat <axis = 0> (one, one, one, each, one)
    B_repeated = Expand(B_groups, repeats)
    C_repeated = Expand(C_groups, repeats)
    rows_by_head = Concat <axis = 0> (as_before, heads, rows)
    B_heads = Reshape(B_repeated, rows_by_head)
    C_heads = Reshape(C_repeated, rows_by_head)
    decay_first = Transpose <perm = [1, 0, 2]> (decay)
    x_first = Transpose <perm = [1, 0, 2, 3]> (x_dt)
    B_first = Transpose <perm = [1, 0, 2, 3]> (B_heads)
    C_first = Transpose <perm = [1, 0, 2, 3]> (C_heads)
    state_out, y_first = Scan <num_scan_inputs = 4, body = token
        (float[b, h, n, p] S_before, float[b, h] decay_t, float[b, h, p] x_t, float[b, h, n] B_t,
         float[b, h, n] C_t) => (float[b, h, n, p] S_after, float[b, h, p] y_t) {
        column_axis = Constant <value_ints = [3]> ()
        row_axis = Constant <value_ints = [2]> ()
        both = Constant <value_ints = [2, 3]> ()
        decay_all = Unsqueeze(decay_t, both)
        decayed = Mul(decay_all, S_before)
        x_row = Unsqueeze(x_t, row_axis)
        B_column = Unsqueeze(B_t, column_axis)
        added = Mul(B_column, x_row)
        S_after = Add(decayed, added)
        C_row = Unsqueeze(C_t, row_axis)
        y_row = MatMul(C_row, S_after)
        y_t = Squeeze(y_row, row_axis)
    }> (state, decay_first, x_first, B_first, C_first)
    y_heads = Transpose <perm = [1, 0, 2, 3]> (y_first)
    like_x = Shape(x)
    read = Reshape(y_heads, like_x)
    skip = Mul(D, x)
    y = Add(read, skip)
"""

_GATED_RMS_NORM = """
    sigmoid = Sigmoid(z)
    gate = Mul(z, sigmoid)
    flag = Constant <value_int: int = @gate_first> ()
    first = Cast <to = 9> (flag)
    gated = Mul(x, gate)
    inside = Where(first, gated, x)
    as_before = Constant <value_ints = [0, 0]> ()
    group_count = Constant <value_int: int = @groups> ()
    zero_axis = Constant <value_ints = [0]> ()
    feature_axis = Constant <value_ints = [-1]> ()
    groups_1d = Unsqueeze(group_count, zero_axis)
    by_group = Concat <axis = 0> (as_before, groups_1d, feature_axis)
    parts = Reshape(inside, by_group)
    two = Constant <value_float = 2.0> ()
    square = Pow(parts, two)
    mean_square = ReduceMean(square, feature_axis)
    epsilon_scalar = Constant <value_float: float = @epsilon> ()
    above_zero = Add(mean_square, epsilon_scalar)
    root = Sqrt(above_zero)
    normal_parts = Div(parts, root)
    like_x = Shape(x)
    normal = Reshape(normal_parts, like_x)
    weighted = Mul(normal, weight)
    outside = Mul(weighted, gate)
    y = Where(first, weighted, outside)
"""

_CAUSAL_CONV1D = """
    padded = Concat <axis = 1> (state, x)
    channels_first = Transpose <perm = [0, 2, 1]> (padded)
    taps_last = Transpose <perm = [1, 0]> (weight)
    one = Constant <value_ints = [1]> ()
    kernel = Unsqueeze(taps_last, one)
    convolved = Conv <group: int = @channels> (channels_first, kernel, bias)
    biased = Transpose <perm = [0, 2, 1]> (convolved)
    sigmoid = Sigmoid(biased)
    y = Mul(biased, sigmoid)
    length = Shape <start = 1, end = 2> (x)
    padded_length = Shape <start = 1, end = 2> (padded)
    state_out = Slice(padded, length, padded_length, one)
"""

_RMS_NORM = """
    two = Constant <value_float = 2.0> ()
    feature_axis = Constant <value_ints = [-1]> ()
    epsilon_scalar = Constant <value_float: float = @epsilon> ()
    square = Pow(x, two)
    mean_square = ReduceMean(square, feature_axis)
    above_zero = Add(mean_square, epsilon_scalar)
    root = Sqrt(above_zero)
    normal = Div(x, root)
    y = Mul(normal, weight)
"""
"""In exactly the nodes, Pow and all, that ONNX Runtime replaces by its SimplifiedLayerNormalization
kernel."""

_QUANTIZE = """
    feature_axis = Constant <value_ints = [-1]> ()
    magnitude = Abs(x)
    reduced = ReduceMax(magnitude, feature_axis)
    token_shape = Shape <start = 0, end = -1> (x)
    one_scale = Constant <value_ints = [1]> ()
    scale_shape = Concat <axis = 0> (token_shape, one_scale)
    largest = Reshape <allowzero = 1> (reduced, scale_shape)
    zero_or_nan = Sub(x, x)
    nan_sum = ReduceSum(zero_or_nan, feature_axis)
    nan_if_not_finite = Reshape <allowzero = 1> (nan_sum, scale_shape)
    tiny = Constant <value_float = 1e-30> ()
    at_least = Max(largest, tiny)
    steps = Constant <value_float = 127.0> ()
    finite_scale = Div(at_least, steps)
    x_scale = Add(finite_scale, nan_if_not_finite)
    quotient = Div(x, x_scale)
    x_q = Round(quotient)
"""
"""ONNX Runtime's ReduceMax skips NaN, hence the sum of x - x, and keeps the axis of an x without
tokens, hence the Reshapes."""

_MULTIPLY = {
    Values.FP32: """
    transposed = Transpose <perm = [1, 0]> (weight)
    y = MatMul(x, transposed)
""",
    Values.FP16: """
    widened = Cast <to = 1> (weight)
    transposed = Transpose <perm = [1, 0]> (widened)
    y = MatMul(x, transposed)
""",
    Values.INT8: _QUANTIZE
    + """
    offset = Constant <value_float = 128.0> ()
    x_shifted = Add(x_q, offset)
    x_u8 = Cast <to = 2> (x_shifted)
    w_float = Cast <to = 1> (weight)
    w_shifted = Add(w_float, offset)
    w_u8 = Cast <to = 2> (w_shifted)
    transposed = Transpose <perm = [1, 0]> (w_u8)
    middle = Constant <value = uint8 {128}> ()
    sums = MatMulInteger(x_u8, transposed, middle, middle)
    sums_float = Cast <to = 1> (sums)
    of_token = Mul(sums_float, x_scale)
    y = Mul(of_token, scale)
""",
    Values.INT4: _QUANTIZE
    + """
    transposed = Transpose <perm = [1, 0]> (integers)
    sums = MatMul(x_q, transposed)
    of_token = Mul(sums, x_scale)
    y = Mul(of_token, scale)
""",
}
"""int8: both operands are shifted to uint8 with zero point 128: unsigned products are exact in
every ONNX Runtime build while its signed ones may saturate on x86 without VNNI. The two scales are
multiplied in one after the other: ONNX Runtime 1.31 fuses MatMulInteger followed by a product with
(scale * scale) into MatMulIntegerToFloat, which takes the first one as one number. int4: the sums
are rounded, as float32 products."""


def _linear(f: Format) -> str:
    return LAYOUTS[f].onnx_matrix + _MULTIPLY[f.values]


def _embedding(f: Format) -> str:
    """A Gather counts an id below 0 from the end; as the number of rows it refuses it, as the op
    does."""
    return f"""{LAYOUTS[f].onnx_rows}
    ids_zero = Constant <value = int64 {{0}}> ()
    ids_ends = Shape <start = 0, end = 1> (scale)
    ids_end = Squeeze(ids_ends)
    ids_below = Less(ids, ids_zero)
    ids_counted = Where(ids_below, ids_end, ids)
    of_token = Gather <axis = 0> (integers, ids_counted)
    scale_of_token = Gather <axis = 0> (scale, ids_counted)
    feature_axis = Constant <value_ints = [-1]> ()
    scales = Unsqueeze(scale_of_token, feature_axis)
    y = Mul(of_token, scales)
"""


_BODIES = (
    {
        ops.SELECTIVE_SCAN.name: _SELECTIVE_SCAN,
        ops.UNGATED_SCAN.name: _UNGATED_SCAN,
        ops.SSD_SCAN.name: _SSD_SCAN,
        ops.GATED_RMS_NORM.name: _GATED_RMS_NORM,
        ops.CAUSAL_CONV1D.name: _CAUSAL_CONV1D,
        ops.RMS_NORM.name: _RMS_NORM,
    }
    | {op.name: _linear(f) for f, op in ops.LINEAR.items()}
    | {op.name: _embedding(f) for f, op in ops.EMBEDDING.items()}
)
"""Op -> the nodes that compute its outputs from its inputs; the names are those of `ops.OPS`."""


def function(name: str) -> onnx.FunctionProto:
    """The fallback of one op, checked by onnx's parser; its nodes are named like their outputs."""
    op = ops.OPS[name]
    attributes = f"<{', '.join(op.attributes)}>" if op.attributes else ""
    signature = f"{op.name} {attributes} ({', '.join(op.inputs)}) => ({', '.join(op.outputs)})"
    header = f'<domain: "{ops.DOMAIN}", opset_import: ["": {ops.ONNX_OPSET}]>'
    fallback = onnx.parser.parse_function(f"{header}{signature} {{{_BODIES[name]}}}")
    fallback.doc_string = op.doc
    _name_nodes(fallback.node)
    return fallback


def _name_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        node.name = node.output[0]
        for attribute in node.attribute:
            _name_nodes(attribute.g.node)
