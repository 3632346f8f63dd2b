"""Axes that are permuted twice in a traced graph are permuted once, or not at all."""

from __future__ import annotations

from torch import fx

from ssmpress.nets.fx_graph import FxGraph, aten

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


def merge_permutes(graph: FxGraph) -> None:
    """Make one permute of two that follow each other."""
    for node in graph.calls(*PERMUTES):
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.target not in PERMUTES:
            continue
        first, second = axes_order(before), axes_order(node)
        source = before.args[0]
        assert isinstance(source, fx.Node)
        graph.replace(node, graph.permuted(node, source, [first[axis] for axis in second]))
    graph.finish()
