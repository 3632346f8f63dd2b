"""Permutes of axes in a traced graph move down to where they meet another one and both go away.

    op(permute(x))            ->  permute(op(x))     element-wise operations, parts of an axis
    permute(permute(x))       ->  permute(x), or x

mamba-ssm's functions want (batch, channels, length), our operators (batch, length, channels): the
code around them turns tensors to and fro.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from ssmpress.nets.fx_graph import ELEMENT_WISE, PARTS, FxGraph, aten

PERMUTES = (aten.permute.default, aten.transpose.int, aten.mT.default, aten.t.default)


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


def sink_permutes(graph: FxGraph) -> None:
    """Move permutes behind what can be computed without them."""
    for node in graph.calls(*ELEMENT_WISE, *PARTS, aten.flip.default, aten.slice.Tensor):
        tensors = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if any(not _is_permute(tensor) for tensor in tensors) or node.kwargs.get("out"):
            continue
        orders = [axes_order(tensor) for tensor in tensors]
        if any(order != orders[0] for order in orders):
            continue
        args = [arg.args[0] if isinstance(arg, fx.Node) else arg for arg in node.args]
        if node.target in ELEMENT_WISE:
            graph.replace(node, graph.permuted(node, _again(graph, node, args), orders[0]))
        elif node.target in PARTS:
            _sink_parts(graph, node, args, orders[0])
        else:
            places = _axes(node)
            moved = [orders[0][axis] for axis in places]
            args[1:2] = [moved] if node.target is aten.flip.default else moved
            graph.replace(node, graph.permuted(node, _again(graph, node, args), orders[0]))
    graph.finish()


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


def _is_permute(node: fx.Node) -> bool:
    return node.target in PERMUTES


def merge_permutes(graph: FxGraph) -> None:
    """Make one permute of two that follow each other."""
    for node in graph.calls(*PERMUTES):
        before = node.args[0]
        if not isinstance(before, fx.Node) or not _is_permute(before):
            continue
        first, second = axes_order(before), axes_order(node)
        source = before.args[0]
        assert isinstance(source, fx.Node)
        graph.replace(node, graph.permuted(node, source, [first[axis] for axis in second]))
    graph.finish()
