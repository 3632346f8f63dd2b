"""The ops of `ops.py` as ONNX functions: what they compute, in standard operators.

A model carries the functions of the ops it uses. Where the op library is loaded its kernels take
over; where it is not, ONNX Runtime (or any other backend) inlines these, so that the same file
runs everywhere. Written in ONNX's textual syntax.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx.parser

from ssmpress.formats import Format, Structure, Values
from ssmpress.graph import ops

_SELECTIVE_SCAN = """
    biased = Add(delta, delta_bias)
    dt = Softplus(biased)
    x = Mul(dt, u)
    dt_first = Transpose <perm = [1, 0, 2]> (dt)
    x_first = Transpose <perm = [1, 0, 2]> (x)
    B_first = Transpose <perm = [1, 0, 2]> (B)
    C_first = Transpose <perm = [1, 0, 2]> (C)
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
    h_y = Transpose <perm = [1, 0, 2]> (h_first)
    skip = Mul(D, u)
    ungated = Add(h_y, skip)
    sigmoid_z = Sigmoid(z)
    gate = Mul(z, sigmoid_z)
    y = Mul(ungated, gate)
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

_UNPACK_BITMASK = """
    powers = Constant <value = uint8[8] {1, 2, 4, 8, 16, 32, 64, 128}> ()
    last = Constant <value_ints = [-1]> ()
    one = Constant <value_ints = [1]> ()
    zero = Constant <value_ints = [0]> ()
    bytes = Unsqueeze(bits, last)
    of_bit = BitwiseAnd(bytes, powers)
    is_set = Cast <to = 9> (of_bit)
    row_shape = Constant <value_ints = [0, -1]> ()
    rows_of_bits = Reshape(is_set, row_shape)
    columns_scalar = Constant <value_int: int = @columns> ()
    columns = Reshape(columns_scalar, last)
    keep = Slice(rows_of_bits, zero, columns, one)
    keep_shape = Shape(keep)
    flat = Reshape(keep, last)
    flat_int = Cast <to = 6> (flat)
    axis = Constant <value_int = 0> ()
    ordinal = CumSum <exclusive = 1> (flat_int, axis)
    value_float = Cast <to = 1> (value)
    at_place = Gather(value_float, ordinal)
    in_rows = Reshape(at_place, keep_shape)
    nothing = Constant <value_float = 0.0> ()
    weight = Where(keep, in_rows, nothing)
"""

"""Unpacked as float32, whatever the values: ONNX Runtime has no Where for fp16, and folds all of
this into a dense constant when it loads the model."""

# What both layouts of windows have in common.
_TILE_OF_RECORD = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    last = Constant <value_ints = [-1]> ()
    end = Constant <value_ints = [2147483647]> ()
    axis = Constant <value_int = 0> ()
    records = Shape <start = 0, end = 1> (step)
    records_and_one = Add(records, one)
    no_tile = ConstantOfShape <value = int64[1] {0}> (records_and_one)
    first_records = Cast <to = 7> (start)
    after_tiles = Slice(first_records, one, end, zero)
    tiles = Shape(after_tiles)
    each_tile = ConstantOfShape <value = int64[1] {1}> (tiles)
    tile_ends = ScatterElements <axis = 0, reduction = "add"> (no_tile, after_tiles, each_tile)
    tiles_before = CumSum(tile_ends, axis)
    tile = Slice(tiles_before, zero, records, zero)
    step_int = Cast <to = 7> (step)
"""
_FIRST_COLUMN = """
    reach = CumSum(all_steps, axis)
    record_reach = Slice(reach, one, end, zero)
    first_record = Gather(first_records, tile)
    tile_reach = Gather(reach, first_record)
    first_column = Sub(record_reach, tile_reach)
"""
_NIBBLES = """
    fifteen = Constant <value = uint8 {15}> ()
    four = Constant <value = uint8 {4}> ()
    low = BitwiseAnd(position, fifteen)
    high = BitShift <direction = "RIGHT"> (position, four)
"""
_PLACES = """
    columns_scalar = Constant <value_int: int = @columns> ()
    columns = Reshape(columns_scalar, last)
    row_begin = Mul(row, columns)
    place = Add(row_begin, column)
    place_flat = Reshape(place, last)
"""

_UNPACK_WINDOWS = (
    _TILE_OF_RECORD
    + """
    no_step = Constant <value = int64[1, 2] {0, 0}> ()
    all_steps = Concat <axis = 0> (no_step, step_int)
"""
    + _FIRST_COLUMN
    + """
    lanes_shape = Constant <value_ints = [0, 2, 1, 1]> ()
    window = Reshape(first_column, lanes_shape)
"""
    + _NIBBLES
    + """
    both = Concat <axis = 1> (low, high)
    both_int = Cast <to = 7> (both)
    slots_shape = Constant <value_ints = [0, 2, 4, 4]> ()
    in_window = Reshape(both_int, slots_shape)
    column = Add(window, in_window)
    order_int = Cast <to = 7> (order)
    tile_shape = Constant <value_ints = [-1, 8]> ()
    tile_rows = Reshape(order_int, tile_shape)
    record_rows = Gather(tile_rows, tile)
    rows_shape = Constant <value_ints = [0, 2, 4, 1]> ()
    row = Reshape(record_rows, rows_shape)
"""
    + _PLACES
    + """
    value_flat = Reshape(value, last)
    is_weight = Cast <to = 9> (value_flat)
    place_of_weight = Where(is_weight, place_flat, zero)
    value_float = Cast <to = 1> (value_flat)
    rows = Shape(scale)
    size = Mul(rows, columns)
    nothing = ConstantOfShape(size)
    flat = ScatterElements <axis = 0, reduction = "add"> (nothing, place_of_weight, value_float)
    shape = Concat <axis = 0> (rows, columns)
    weight = Reshape <allowzero = 1> (flat, shape)
"""
)
"""Zeros, of which slots that are not in use hold plenty, are added at the first weight."""

_UNPACK_FP16_WINDOWS = (
    _TILE_OF_RECORD
    + """
    all_steps = Concat <axis = 0> (zero, step_int)
"""
    + _FIRST_COLUMN
    + """
    window = Unsqueeze(first_column, last)
"""
    + _NIBBLES
    + """
    low_column = Unsqueeze(low, last)
    high_column = Unsqueeze(high, last)
    both = Concat <axis = 2> (low_column, high_column)
    both_int = Cast <to = 7> (both)
    slots_shape = Constant <value_ints = [0, 8]> ()
    in_window = Reshape(both_int, slots_shape)
    column = Add(window, in_window)
    order_int = Cast <to = 7> (order)
    tile_shape = Constant <value_ints = [-1, 8]> ()
    tile_rows = Reshape(order_int, tile_shape)
    row = Gather(tile_rows, tile)
"""
    + _PLACES
    + """
    value_float = Cast <to = 1> (value)
    value_flat = Reshape(value_float, last)
    is_weight = Cast <to = 9> (value_flat)
    place_of_weight = Where(is_weight, place_flat, zero)
    is_row = GreaterOrEqual(order_int, zero)
    is_row_int = Cast <to = 7> (is_row)
    rows = ReduceSum(is_row_int, zero)
    size = Mul(rows, columns)
    nothing = ConstantOfShape(size)
    flat = ScatterElements <axis = 0, reduction = "add"> (nothing, place_of_weight, value_flat)
    shape = Concat <axis = 0> (rows, columns)
    weight = Reshape <allowzero = 1> (flat, shape)
"""
)

_UNPACK_INT4 = """
    tiles_by = Constant <value_ints = [0, 0, 2, 1, 16, 4]> ()
    fifteen = Constant <value = uint8 {15}> ()
    four = Constant <value = uint8 {4}> ()
    low = BitwiseAnd(weight, fifteen)
    high = BitShift <direction = "RIGHT"> (weight, four)
    low_parts = Reshape(low, tiles_by)
    high_parts = Reshape(high, tiles_by)
    parts = Concat <axis = 3> (low_parts, high_parts)
    by_row = Transpose <perm = [0, 4, 1, 2, 3, 5]> (parts)
    groups_shape = Constant <value_ints = [0, 0, 0, 16]> ()
    nibble = Reshape(by_row, groups_shape)
    nibble_float = Cast <to = 1> (nibble)
    eight = Constant <value_float = 8.0> ()
    code = Sub(nibble_float, eight)
    ratio_float = Cast <to = 1> (ratio)
    ratio_by_row = Transpose <perm = [0, 2, 1]> (ratio_float)
    last = Constant <value_ints = [-1]> ()
    ratios = Unsqueeze(ratio_by_row, last)
    product = Mul(code, ratios)
    sizes = Shape(product)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    four_axes = Constant <value_ints = [4]> ()
    row_sizes = Slice(sizes, zero, two, zero)
    column_sizes = Slice(sizes, two, four_axes, zero)
    all_rows = ReduceProd(row_sizes, zero)
    all_columns = ReduceProd(column_sizes, zero)
    shape = Concat <axis = 0> (all_rows, all_columns)
    padded = Reshape <allowzero = 1> (product, shape)
    rows = Shape(scale)
    columns_scalar = Constant <value_int: int = @columns> ()
    columns = Reshape(columns_scalar, last)
    begin = Constant <value_ints = [0, 0]> ()
    end = Concat <axis = 0> (rows, columns)
    integers = Slice(padded, begin, end)
"""
"""Codes times ratios: at most 1016, exact in float32."""

_UNPACK = {
    Structure.DENSE: "",
    Structure.BITMASK: _UNPACK_BITMASK,
    Structure.WINDOW: _UNPACK_WINDOWS,
}

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
    if f.values is Values.INT4:
        unpack = _UNPACK_INT4
    elif f.structure is Structure.WINDOW and f.values is Values.FP16:
        unpack = _UNPACK_FP16_WINDOWS
    else:
        unpack = _UNPACK[f.structure]
    return unpack + _MULTIPLY[f.values]


def _embedding(f: Format) -> str:
    integers = (
        _UNPACK_INT4 if f.values is Values.INT4 else "    integers = Cast <to = 1> (weight)\n"
    )
    return f"""{integers}
    of_token = Gather <axis = 0> (integers, ids)
    scale_of_token = Gather <axis = 0> (scale, ids)
    feature_axis = Constant <value_ints = [-1]> ()
    scales = Unsqueeze(scale_of_token, feature_axis)
    y = Mul(of_token, scales)
"""


_BODIES = (
    {
        ops.SELECTIVE_SCAN.name: _SELECTIVE_SCAN,
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
