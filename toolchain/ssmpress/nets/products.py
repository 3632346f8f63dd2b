"""Finds every product with a whole parameter in a traced graph, and marks it `ssmpress::linear`.

A product is `aten.linear`, `x @ W` or `W @ x` in any spelling, or a 1x1 convolution. Its matrix is
marked if the parameter is used in products only, and everywhere in the same orientation: a slice of
a fused weight, a tied embedding or a weight that is computed stays what it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from ssmpress.blocks.tensors import MatrixSpec, Role
from ssmpress.nets.fx_graph import FxGraph, aten, source, viewed

_CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.convolution.default,
)


@dataclass(frozen=True)
class _Product:
    """A node that multiplies x with a parameter W: y = x Wᵀ, W (r, c).

    name: of the parameter. transposed: it is stored (c, r). chain: views between it and the node.
    build: makes the node's value out of a function x -> x Wᵀ.
    """

    node: fx.Node
    name: str
    transposed: bool
    chain: tuple[fx.Node, ...]
    build: Callable[[Callable[[fx.Node, Any], fx.Node]], fx.Node]


def mark_products(graph: FxGraph) -> dict[str, MatrixSpec]:
    """Replace the products of a graph by `ssmpress::linear`.

    Returns:
        The parameters that are now matrices of such nodes and nothing else, by name, in the order
        of the graph's inputs.
    """
    by_name: dict[str, list[_Product]] = defaultdict(list)
    for product in _products(graph):
        by_name[product.name].append(product)
    matrices = {
        name: matrix_spec(name, transposed=by_name[name][0].transposed)
        for name in dict.fromkeys(graph.tensors.values())
        if by_name[name] and _only_used_in(graph, name, by_name[name])
    }
    for node in list(graph.graph.nodes):
        again = _product(graph, node)  # what it multiplies may have been replaced
        if again is not None and again.name in matrices:
            _mark(graph, again)
    graph.finish()
    for node in graph.calls(torch.ops.ssmpress.linear.default):
        if _is_input(graph, node.args[0]):
            name = linear_matrix(graph, node)
            matrices[name] = replace(matrices[name], reads_input=True)
    return matrices


def _is_input(graph: FxGraph, x: Any) -> bool:
    """Whether a value is what the caller gave, in any shape."""
    start, _ = source(x)
    return isinstance(start, fx.Node) and start.op == "placeholder" and start not in graph.tensors


def matrix_spec(name: str, *, transposed: bool = False) -> MatrixSpec:
    """What a parameter is, by its name: `blocks.3.mixer.in_proj.weight` is in_proj of layer 3."""
    parts = name.split(".")
    words = [part for part in parts if not part.isdigit()]
    if len(words) > 1 and words[-1] == "weight":
        words.pop()
    layer = next((int(part) for part in parts if part.isdigit()), None)
    return MatrixSpec(Role.PROJECTION, words[-1], layer, transposed=transposed)


def linear_matrix(graph: FxGraph, node: fx.Node) -> str:
    """The parameter that an `ssmpress::linear` node multiplies with."""
    start, _ = source(node.args[1])
    return graph.tensors[start]


def _only_used_in(graph: FxGraph, name: str, products: list[_Product]) -> bool:
    """Whether a parameter has no use but these, all of one orientation."""
    if len({product.transposed for product in products}) > 1:
        return False
    known = {node for product in products for node in (product.node, *product.chain)}
    waiting = [node for node, tensor in graph.tensors.items() if tensor == name]
    while waiting:
        for user in waiting.pop().users:
            if user not in known:
                return False
            if not any(user is product.node for product in products):
                waiting.append(user)
    return True


def _mark(graph: FxGraph, product: _Product) -> None:
    node = product.node
    start = next(n for n, tensor in graph.tensors.items() if tensor == product.name)

    def linear(x: fx.Node, bias: Any) -> fx.Node:
        weight = graph.add(node, aten.t.default, start) if product.transposed else start
        return graph.add(node, torch.ops.ssmpress.linear.default, x, weight, bias)

    graph.replace(node, product.build(linear))


def _products(graph: FxGraph) -> Iterator[_Product]:
    constant = set(graph.tensors)
    for node in graph.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and inputs and all(n in constant for n in inputs):
            constant.add(node)  # a weight that is computed of weights
            continue
        product = _product(graph, node)
        if product is not None:
            yield product


def _product(graph: FxGraph, node: fx.Node) -> _Product | None:
    finders: dict[Any, Callable[[FxGraph, fx.Node], _Product | None]] = {
        aten.linear.default: _linear,
        aten.matmul.default: _matmul,
        aten.mm.default: _matmul,
        aten.bmm.default: _matmul,
        aten.addmm.default: _addmm,
        aten.einsum.default: _einsum,
        **dict.fromkeys(_CONVOLUTIONS, _convolution),
    }
    finder = finders.get(node.target) if node.op == "call_function" else None
    return finder(graph, node) if finder else None


def _weight(graph: FxGraph, node: Any, axes: int) -> tuple[str, bool, tuple[fx.Node, ...]] | None:
    """The parameter that a value is, seen as (r, c) with `axes` axes of size 1 after them.

    Returns:
        Its name, whether it is stored (c, r), and the views in between; None for anything else.
    """
    start, chain = source(node)
    if start not in graph.tensors:
        return None
    stored = graph.value(start)
    if stored.dtype != torch.float32 or stored.dim() < 2 or any(s != 1 for s in stored.shape[2:]):
        return None
    rows, columns = stored.shape[:2]
    numbers = torch.arange(rows * columns).reshape(rows, columns)
    view = viewed(numbers.reshape(stored.shape), chain)
    if view.dim() < 2 + axes or any(s != 1 for s in view.shape[2:]):
        return None
    view = view.reshape(view.shape[:2])
    if view.shape == numbers.shape and torch.equal(view, numbers):
        return graph.tensors[start], False, tuple(chain)
    if view.shape == numbers.T.shape and torch.equal(view, numbers.T):
        return graph.tensors[start], True, tuple(chain)
    return None


def _is_float(graph: FxGraph, x: Any) -> bool:
    return isinstance(x, fx.Node) and graph.value(x).dtype == torch.float32


def _linear(graph: FxGraph, node: fx.Node) -> _Product | None:
    x, weight, *bias = list[Any](node.args)
    found = _weight(graph, weight, 0)
    if found is None or not _is_float(graph, x):
        return None
    return _Product(node, *found, lambda linear: linear(x, bias[0] if bias else None))


def _matmul(graph: FxGraph, node: fx.Node) -> _Product | None:
    return _product_of(graph, node, node.args[0], node.args[1], None)


def _addmm(graph: FxGraph, node: fx.Node) -> _Product | None:
    bias, left, right = node.args
    if any(node.kwargs.get(factor, 1) != 1 for factor in ("alpha", "beta")):
        return None
    if graph.value(bias).dim() != 1:
        return None
    return _product_of(graph, node, left, right, bias)


def _product_of(graph: FxGraph, node: fx.Node, left: Any, right: Any, bias: Any) -> _Product | None:
    """left @ right (+ bias), one of which is a matrix."""
    found = _matrix(graph, right)
    if found is not None and _is_float(graph, left) and graph.value(left).dim() >= 1:
        name, transposed, chain = found  # of (c, r), which is the transposed (r, c)
        return _Product(node, name, not transposed, chain, lambda linear: linear(left, bias))
    found = _matrix(graph, left)
    if found is None or bias is not None or not _is_float(graph, right):
        return None
    rank = graph.value(right).dim()
    order = [*range(rank - 2), rank - 1, rank - 2] if rank > 1 else [0]

    def build(linear: Callable[[fx.Node, Any], fx.Node]) -> fx.Node:
        y = linear(graph.permuted(node, right, order), None)
        return graph.permuted(node, y, order)

    return _Product(node, *found, build)


def _matrix(graph: FxGraph, node: Any) -> tuple[str, bool, tuple[fx.Node, ...]] | None:
    """As `_weight`; also a matrix that is repeated for every element of a batch."""
    repeats: list[fx.Node] = []
    while isinstance(node, fx.Node) and graph.value(node).dim() == 3:
        if node.target not in (aten.expand.default, aten.unsqueeze.default):
            return None
        if node.target is aten.unsqueeze.default and node.args[1] not in (0, -3):
            return None
        repeats.append(node)
        node = node.args[0]
    if not isinstance(node, fx.Node) or graph.value(node).dim() != 2:
        return None
    found = _weight(graph, node, 0)
    return None if found is None else (found[0], found[1], (*repeats, *found[2]))


def _convolution(graph: FxGraph, node: fx.Node) -> _Product | None:
    """A convolution of one tap: a product over the channels, which stand before the places."""
    arguments = named_arguments(node)
    x, weight = arguments["input"], arguments["weight"]
    spatial = graph.value(weight).dim() - 2
    found = _weight(graph, weight, spatial)
    plain = (
        arguments.get("groups", 1) == 1
        and not arguments.get("transposed", False)
        and all(step == 1 for step in _each(arguments.get("stride", 1)))
        and (
            isinstance(arguments.get("padding", 0), str)
            or not any(_each(arguments.get("padding", 0)))
        )
    )
    if found is None or found[1] or not plain or not _is_float(graph, x):
        return None
    rank = graph.value(x).dim()
    first = rank - spatial - 1  # the axis of the channels
    last = [*range(first), *range(first + 1, rank), first]
    back = [*range(first), rank - 1, *range(first, rank - 1)]

    def build(linear: Callable[[fx.Node, Any], fx.Node]) -> fx.Node:
        y = linear(graph.permuted(node, x, last), arguments.get("bias"))
        return graph.permuted(node, y, back)

    return _Product(node, *found, build)


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by the names of its schema."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    return dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _einsum(graph: FxGraph, node: fx.Node) -> _Product | None:
    """An einsum of two, one a matrix of which one axis is summed and the other is new."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    terms, arrow, output = equation.partition("->")
    names = terms.split(",")
    if not arrow or "." in equation or len(names) != 2 or not isinstance(operands, list | tuple):
        return None
    for at in (0, 1):
        matrix, other = names[at], names[1 - at]
        x = operands[1 - at]
        found = _matrix(graph, operands[at]) if len(matrix) == 2 else None
        summed = [axis for axis in matrix if axis in other and axis not in output]
        new = [axis for axis in matrix if axis not in other and axis in output]
        kept = other.replace(summed[0], "") if summed else ""
        if found is None or not _is_float(graph, x) or len(summed) != 1 or len(new) != 1:
            continue
        if len(set(other)) < len(other) or sorted(kept + new[0]) != sorted(output):
            continue
        name, transposed, chain = found
        is_columns_last = matrix[1] == summed[0]
        order = [other.index(axis) for axis in kept + summed[0]]
        back = [(kept + new[0]).index(axis) for axis in output]

        def build(
            linear: Callable[[fx.Node, Any], fx.Node],
            x: Any = x,
            order: list[int] = order,
            back: list[int] = back,
        ) -> fx.Node:
            y = linear(graph.permuted(node, x, order), None)
            return graph.permuted(node, y, back)

        return _Product(node, name, transposed is is_columns_last, chain, build)
    return None
