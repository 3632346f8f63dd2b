"""Permutes of axes in a traced graph move down to where they meet another one and both go away.

    op(permute(x))            ->  permute(op(x))       element-wise operations, parts of an axis
    reshape(permute(x))       ->  permute(reshape(x))  where axes that are merged follow in x
    permute(permute(x))       ->  permute(x), or x

mamba-ssm's functions want (batch, channels, length), its block multiplies (channels, batch length),
our operators want (batch, length, channels): the code around them turns tensors to and fro.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ssmpress.nets.fx_graph import ELEMENT_WISE, PARTS, FxGraph, aten, source

PERMUTES = (aten.permute.default, aten.transpose.int, aten.mT.default, aten.t.default)


_RESHAPES = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
)

ROUNDS = 3
"""A permute that moved may meet another one, and then move on."""


def axes_order(node: fx.Node) -> list[int]:
    """Axis of a permute's result -> axis of what it permutes."""
    rank = node.meta["val"].dim()
    if node.target is aten.permute.default:
        return [axis % rank for axis in node.args[1]]  # type: ignore[union-attr]
    order = list(range(rank))
    if node.target is aten.t.default:
        return order[::-1]
    first, second = (-1, -2) if node.target is aten.mT.default else node.args[1:3]
    order[first], order[second] = order[second], order[first]  # type: ignore[index]
    return order


def cancel_permutes(graph: FxGraph) -> None:
    """Move permutes down and merge them, until the ones that are left stay where they are."""
    merge_permutes(graph)
    for _ in range(ROUNDS):
        _sink_permutes(graph)
        _sink_under_reshapes(graph)
        merge_permutes(graph)


def _sink_permutes(graph: FxGraph) -> None:
    """Move permutes behind what can be computed without them."""
    for node in graph.calls(*ELEMENT_WISE, *PARTS, aten.flip.default, aten.slice.Tensor):
        tensors = [arg for arg in node.args if isinstance(arg, fx.Node)]
        varying = [tensor for tensor in tensors if not _is_weight(graph, tensor)]
        if not varying or not all(map(_is_permute, varying)):
            continue
        order = axes_order(varying[0])
        if any(axes_order(tensor) != order for tensor in varying):
            continue
        if any(tensor.meta["val"].dim() > len(order) for tensor in tensors):
            continue
        args = [
            _before(graph, node, arg, order) if isinstance(arg, fx.Node) else arg
            for arg in node.args
        ]
        if node.target in ELEMENT_WISE:
            graph.replace(node, graph.permuted(node, _again(graph, node, args), order))
        elif node.target in PARTS:
            _sink_parts(graph, node, args, order)
        else:
            places = _axes(node)
            moved = [order[axis] for axis in places]
            args[1:2] = [moved] if node.target is aten.flip.default else moved
            graph.replace(node, graph.permuted(node, _again(graph, node, args), order))
    graph.finish()


def _before(graph: FxGraph, node: fx.Node, arg: fx.Node, order: list[int]) -> Any:
    """What an argument is before a permute of the result; a weight is turned, once and for all."""
    if not _is_weight(graph, arg):
        return arg.args[0]
    for _ in range(len(order) - arg.meta["val"].dim()):
        arg = graph.add(node, aten.unsqueeze.default, arg, 0)
    return graph.permuted(node, arg, [order.index(axis) for axis in range(len(order))])


def _sink_parts(graph: FxGraph, node: fx.Node, args: list[Any], order: list[int]) -> None:
    """The parts of what was permuted, each permuted."""
    dim = node.kwargs.get("dim", [*args, 0][2])
    whole = graph.add(node, node.target, *args[:2], order[dim % len(order)])  # type: ignore[arg-type]
    for user in list(node.users):
        part = graph.add(user, operator.getitem, whole, user.args[1])
        graph.replace(user, graph.permuted(user, part, order))


def _again(graph: FxGraph, node: fx.Node, args: list[Any]) -> fx.Node:
    return graph.add(node, node.target, *args, **node.kwargs)  # type: ignore[arg-type]


def _axes(node: fx.Node) -> list[int]:
    """The axes of a flip, or the one of a slice."""
    rank = node.meta["val"].dim()
    given: Any = node.args[1] if len(node.args) > 1 else 0
    return [axis % rank for axis in (given if isinstance(given, list | tuple) else [given])]


def _is_weight(graph: FxGraph, node: fx.Node) -> bool:
    return source(node)[0] in graph.tensors


def _is_permute(node: fx.Node) -> bool:
    return node.target in PERMUTES


def _sink_under_reshapes(graph: FxGraph) -> None:
    """Reshape what was permuted, and permute then."""
    for node in graph.calls(*_RESHAPES):
        before = node.args[0]
        if not isinstance(before, fx.Node) or not _is_permute(before):
            continue
        groups = _groups(graph.value(before).shape, graph.value(node).shape)
        if groups is None:
            continue
        order, whole = axes_order(before), before.args[0]
        places = [[order[axis] for axis in old] for old, _ in groups]
        if any(at != list(range(at[0], at[0] + len(at))) for at in places):
            continue
        ranked = sorted(range(len(groups)), key=lambda i: places[i][0])
        sizes = [s for i in ranked for s in _sizes(graph, node, whole, places[i], groups[i][1])]
        if any(size is None for size in sizes) or sizes.count(-1) > 1:
            continue
        axes = [axis for i in ranked for axis in groups[i][1]]
        made = graph.add(node, aten.reshape.default, whole, sizes)
        back = [axes.index(axis) for axis in range(len(axes))]
        graph.replace(node, graph.permuted(node, made, back))
    graph.finish()


def _groups(old: Any, new: Any) -> list[tuple[list[int], list[int]]] | None:
    """Axes before and after a reshape that hold the same elements: one to one, several that become
    one, or one that becomes several; None where that is not known."""
    groups, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        merged = _run(old, i, new[j])
        parts = _run(new, j, old[i])
        if not merged and not parts:
            return None
        first, second = (merged, 1) if merged else (1, parts)
        groups.append((list(range(i, i + first)), list(range(j, j + second))))
        i, j = i + first, j + second
    return groups if (i, j) == (len(old), len(new)) else None


def _run(sizes: Any, start: int, product: Any) -> int:
    """How many sizes from `start` on have a product; 0 where none is known to."""
    whole = 1
    for count, size in enumerate(sizes[start:], 1):
        whole = whole * size
        if statically_known_true(whole == product):
            return count
    return 0


def _sizes(graph: FxGraph, node: fx.Node, whole: Any, old: list[int], new: list[int]) -> list[Any]:
    """The sizes of a group's new axes, as arguments; None where one cannot be told."""
    shape = graph.value(node).shape
    if all(isinstance(shape[axis], int) for axis in new):
        return [shape[axis] for axis in new]
    if len(old) == len(new) == 1:
        return [graph.add(node, aten.sym_size.int, whole, old[0])]
    if len(new) == 1:
        return [-1]
    if node.target is aten.unflatten.int:
        given: Any = node.args[2]
        return list(given)
    listed: Any = node.args[1]
    return [listed[axis] for axis in new] if isinstance(listed, list | tuple) else [None]


def merge_permutes(graph: FxGraph) -> None:
    """Make one permute of two that follow each other."""
    for node in graph.calls(*PERMUTES):
        before = node.args[0]
        if not isinstance(before, fx.Node) or not _is_permute(before):
            continue
        first, second = axes_order(before), axes_order(node)
        x = before.args[0]
        assert isinstance(x, fx.Node)
        graph.replace(node, graph.permuted(node, x, [first[axis] for axis in second]))
    graph.finish()
