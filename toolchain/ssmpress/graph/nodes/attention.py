"""An attention mixer as ONNX nodes: what `blocks/attention.py` defines.

The queries of the heads that share keys stand below each other, so that every product is a plain
matrix product with the keys and values as they are stored:

    queries (b, v, r l, p)    keys (b, v, p, s)    values (b, v, s, p)    r = h / v, s all tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ssmpress.blocks.attention import AttentionConfig, wavelengths
from ssmpress.graph.packed_graph import PackedGraph, Place

STATES: Mapping[str, str] = {
    "key_state": "keys of all tokens until now, a column each",
    "value_state": "values of all tokens until now, a row each",
}


def nodes(
    graph: PackedGraph, block: AttentionConfig, at: Place, x: ir.Value, past: Sequence[ir.Value]
) -> list[ir.Value]:
    """The mixer from its two states: y, and the new states.

    Args:
        x: (b, l, d_model), normalised.
    """
    qkv = graph.linear(at.weight("in_proj.weight"), x, at.node("in_proj"))
    sizes = {"q": block.d_queries, "k": block.d_keys, "v": block.d_keys}
    q, k, v = graph.split(at.node("qkv"), qkv, sizes)
    shared, each, width = block.kv_heads, block.heads // block.kv_heads, block.head_dim
    q = _reshaped(graph, at.node("q_split"), q, 0, 0, shared, each, width)
    k = _reshaped(graph, at.node("k_split"), k, 0, 0, shared, width)
    v = _reshaped(graph, at.node("v_split"), v, 0, 0, shared, width)
    q = graph.node("Transpose", at.node("q_heads"), [q], perm=[0, 2, 3, 1, 4])
    k = graph.node("Transpose", at.node("k_heads"), [k], perm=[0, 2, 1, 3])
    v = graph.node("Transpose", at.node("v_heads"), [v], perm=[0, 2, 1, 3])
    positions = _Positions(graph, x, past[1])
    if block.rotary_dim:
        angles = positions.angles(block)
        q = _rope(graph, block, at.node("q_turned"), q, angles)
        k = _rope(graph, block, at.node("k_turned"), k, angles)
    columns = graph.node("Transpose", at.node("k_columns"), [k], perm=[0, 1, 3, 2])
    keys, values = (
        graph.several("Concat", at.node(name), [old, new], [at.present(state)], axis=axis)[0]
        for name, state, old, new, axis in (
            ("keys", "key_state", past[0], columns, 3),
            ("values", "value_state", past[1], v, 2),
        )
    )
    scaled = graph.scaled(at.node("q_scaled"), q, block.scale)
    rows = _reshaped(graph, at.node("q_rows"), scaled, 0, 0, -1, width)
    scores = graph.node("MatMul", at.node("scores"), [rows, keys])  # (b, v, r l, s)
    nothing = graph.constant("minus_infinity", np.array(-np.inf, np.float32))
    masked = graph.node("Where", at.node("masked"), [positions.later(each), nothing, scores])
    weights = graph.node("Softmax", at.node("weights"), [masked], axis=-1)
    mixed = graph.node("MatMul", at.node("mixed"), [weights, values])  # (b, v, r l, p)
    mixed = _reshaped(graph, at.node("mixed_heads"), mixed, 0, 0, each, -1, width)
    mixed = graph.node("Transpose", at.node("mixed_tokens"), [mixed], perm=[0, 3, 1, 2, 4])
    mixed = _reshaped(graph, at.node("mixed_flat"), mixed, 0, 0, block.d_queries)
    return [graph.linear(at.weight("out_proj.weight"), mixed, at.node("out_proj")), keys, values]


def _reshaped(graph: PackedGraph, name: str, x: ir.Value, *sizes: int) -> ir.Value:
    """x in another shape; 0 keeps the size that stands there."""
    shape = graph.constant("shape_" + "_".join(map(str, sizes)), np.array(sizes, np.int64))
    return graph.node("Reshape", name, [x, shape])


class _Positions:
    """Where the tokens stand, the same for every attention of a graph: nodes made once.

    Args:
        x: (b, l, d_model). values: (b, v, tokens before x, p).
    """

    def __init__(self, graph: PackedGraph, x: ir.Value, values: ir.Value) -> None:
        self.graph, self.x, self.values = graph, x, values

    def _node(self, op: str, name: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        name = f"attention/{name}"
        return self.graph.once(name, lambda: self.graph.node(op, name, list(inputs), **attributes))

    def _integers(self, name: str, *values: int) -> ir.Value:
        return self.graph.constant(name, np.array(values, np.int64))

    def _integer(self, value: int) -> ir.Value:
        return self.graph.constant(f"integer_{value}", np.array(value, np.int64))

    def before(self) -> ir.Value:
        """int64 (1,): tokens before x."""
        return self._node("Shape", "before", self.values, start=2, end=3)

    def end(self) -> ir.Value:
        """int64, a scalar: tokens until the last of x."""
        length = self._node("Shape", "length", self.x, start=1, end=2)
        return self._node("Squeeze", "end_scalar", self._node("Add", "end", self.before(), length))

    def places(self) -> ir.Value:
        """int64 (l,): how many tokens are before each of x."""
        begin = self._node("Squeeze", "before_scalar", self.before())
        return self._node("Range", "places", begin, self.end(), self._integer(1))

    def later(self, each: int) -> ir.Value:
        """bool (r l, s): whether a key's token comes after the query's, for r = `each` heads."""
        repeats = self._integers(f"repeats_{each}", each, 1)
        places = self._node("Expand", f"places_{each}", self.places(), repeats)
        column = self._integers("shape_-1_1", -1, 1)
        rows = self._node("Reshape", f"rows_{each}", places, column)
        columns = self._node("Range", "columns", self._integer(0), self.end(), self._integer(1))
        return self._node("Greater", f"later_{each}", columns, rows)

    def angles(self, block: AttentionConfig) -> list[ir.Value]:
        """cos and sin of rope's angles, float32 (l, rotary_dim / 2) each."""
        numbers = self._node("Cast", "numbers", self.places(), to=ir.DataType.FLOAT.value)
        column = self._node("Reshape", "column", numbers, self._integers("shape_-1_1", -1, 1))
        rope = f"{block.rotary_dim}_{block.rope_theta}"
        waves = self.graph.constant(f"wavelengths_{rope}", wavelengths(block).numpy())
        angles = self._node("Mul", f"angles_{rope}", column, waves)
        return [self._node(op, f"{op.lower()}_{rope}", angles) for op in ("Cos", "Sin")]


def _rope(
    graph: PackedGraph, block: AttentionConfig, name: str, x: ir.Value, angles: list[ir.Value]
) -> ir.Value:
    """x (..., l, p) with its first channels turned."""
    cos, sin = angles
    half = block.rotary_dim // 2
    sizes = {"a": half, "b": half, "rest": block.head_dim - 2 * half}
    a, b, *rest = graph.split(f"{name}/parts", x, {n: s for n, s in sizes.items() if s})
    products = {
        key: graph.node("Mul", f"{name}/{key}", [part, factor])
        for key, part, factor in (
            ("a_cos", a, cos),
            ("b_sin", b, sin),
            ("b_cos", b, cos),
            ("a_sin", a, sin),
        )
    }
    first = graph.node("Sub", f"{name}/first", [products["a_cos"], products["b_sin"]])
    second = graph.node("Add", f"{name}/second", [products["b_cos"], products["a_sin"]])
    return graph.node("Concat", name, [first, second, *rest], axis=-1)
