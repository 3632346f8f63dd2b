"""Scans of reversed sequences in a traced graph become scans from the last step to the first.

    flip(scan(flip(u), flip(delta), flip(B), flip(C)))  ->  scan(u, delta, B, C, reverse)
    flip(flip(x))                                       ->  x

A flip goes away if the one before it can be reached through what treats all steps alike:
element-wise operations, products over the last axis, parts of it, scans. What stands in between is
computed without the flips. A convolution stays: its flips are copies, and cheap beside it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ssmpress.nets.fx_graph import ELEMENT_WISE, PARTS, FxGraph, aten
from ssmpress.nets.permutes import PERMUTES, axes_order

MOST_STEPS_BACK = 100
"""Nodes between two flips."""

_SCAN = torch.ops.ssmpress.selective_scan.default
_BY_STEP = (0, 1, 4, 5, 7)  # u, delta, B, C, z
_STATE, _REVERSE = 8, 10

_OVER_LAST_AXIS = (aten.linear.default, aten.layer_norm.default, aten.rms_norm.default)


def turn_scans(graph: FxGraph) -> None:
    """Remove the flips of a graph that come in pairs."""
    pass_over = _Flips(graph)
    for node in graph.calls(aten.flip.default):
        axes = _axes(node)
        if len(axes) != 1:
            continue
        without = pass_over.unflipped(node.args[0], axes[0])
        if without is not None:
            graph.replace(node, without)
    graph.finish()


def _counted(axis: int, x: Any) -> int:
    rank: int = x.meta["val"].dim()
    return axis % rank


class _Flips:
    def __init__(self, graph: FxGraph) -> None:
        self.graph = graph
        self.known: dict[tuple[fx.Node, int], fx.Node | None] = {}

    def unflipped(self, node: Any, axis: int, steps: int = MOST_STEPS_BACK) -> fx.Node | None:
        """A node whose flip along an axis is `node`; None where none is near."""
        if not isinstance(node, fx.Node) or node.op != "call_function" or steps == 0:
            return None
        key = (node, axis)
        if key not in self.known:
            self.known[key] = self._unflipped(node, axis, steps - 1)
        return self.known[key]

    def _unflipped(self, node: fx.Node, axis: int, steps: int) -> fx.Node | None:
        target, x = node.target, node.args[0]
        if target is aten.flip.default:
            return x if _axes(node) == [axis] else None  # type: ignore[return-value]
        if target is operator.getitem:
            return self._part(node, axis, steps)
        if target in ELEMENT_WISE:
            return self._element_wise(node, axis, steps)
        rank = node.meta["val"].dim()
        if target in _OVER_LAST_AXIS:
            is_last = target is not aten.linear.default and len(node.args[1]) != 1  # type: ignore
            return None if is_last or axis == rank - 1 else self._again(node, axis, steps)
        if target is aten.matmul.default:
            whole = self.graph.value(node.args[1]).dim() == 2
            return self._again(node, axis, steps) if whole and axis < rank - 1 else None
        if target is aten.slice.Tensor:
            dim = _counted(node.args[1] if len(node.args) > 1 else 0, x)  # type: ignore
            return None if dim == axis else self._again(node, axis, steps)
        if target in PERMUTES:
            return self._again(node, axes_order(node)[axis], steps)
        return None

    def _again(self, node: fx.Node, axis: int, steps: int) -> fx.Node | None:
        """The node with its first argument unflipped."""
        x = self.unflipped(node.args[0], axis, steps)
        return None if x is None else self._call(node, [x, *node.args[1:]])

    def _call(self, node: fx.Node, args: list[Any]) -> fx.Node:
        return self.graph.add(node, node.target, *args, **node.kwargs)  # type: ignore[arg-type]

    def _element_wise(self, node: fx.Node, axis: int, steps: int) -> fx.Node | None:
        rank, args = node.meta["val"].dim(), list(node.args)
        for i, arg in enumerate(args):
            if not isinstance(arg, fx.Node):
                continue
            shape = arg.meta["val"].shape
            own = axis - (rank - len(shape))
            if own < 0 or str(shape[own]) == "1":
                continue  # the same at every step
            args[i] = self.unflipped(arg, own, steps)
            if args[i] is None:
                return None
        return self._call(node, args)

    def _part(self, node: fx.Node, axis: int, steps: int) -> fx.Node | None:
        whole, number = node.args
        assert isinstance(whole, fx.Node)
        if whole.target is _SCAN and number == 0 and axis == 1:
            turned = self._scan(whole, steps)
        elif whole.target in PARTS:
            arguments = [*whole.args, 0][:3]
            dim = whole.kwargs.get("dim", arguments[2])
            if _counted(dim, arguments[0]) == axis:  # type: ignore[arg-type]
                return None
            turned = self._once(whole, axis, steps)
        else:
            return None
        return None if turned is None else self.graph.add(node, operator.getitem, turned, number)

    def _once(self, whole: fx.Node, axis: int, steps: int) -> fx.Node | None:
        key = (whole, axis)
        if key not in self.known:
            self.known[key] = self._again(whole, axis, steps)
        return self.known[key]

    def _scan(self, scan: fx.Node, steps: int) -> fx.Node | None:
        """The scan of the unflipped sequences in the other direction."""
        args = list(scan.args)
        for i in _BY_STEP:
            if args[i] is not None:
                args[i] = self.unflipped(args[i], 1, steps)
                if args[i] is None:
                    return None
        args[_REVERSE] = not args[_REVERSE]
        return self._call(scan, args)


def _axes(node: fx.Node) -> list[int]:
    return [_counted(axis, node.args[0]) for axis in node.args[1]]  # type: ignore
