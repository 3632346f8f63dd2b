"""Mamba-2 scans of step sizes that are given in a traced graph become scans of Mamba-1.

The op for heads takes softplus of what it is given. The channels of a head are channels with the
same steps and decays, so that the other scan computes the same, group by group.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ssmpress.nets.fx_graph import FxGraph, aten

_HEADS = torch.ops.ssmpress.ssd_scan.default
_CHANNELS = torch.ops.ssmpress.selective_scan.default
_SOFTPLUS = 8


def replace_given_steps(graph: FxGraph) -> None:
    """Replace the scans over heads that take no softplus."""
    for node in graph.calls(_HEADS):
        if not node.args[_SOFTPLUS]:
            _replace(graph, node)
    graph.finish()


def _replace(graph: FxGraph, scan: fx.Node) -> None:
    def call(target: Any, *args: Any) -> fx.Node:
        return graph.add(scan, target, *args)

    x, delta, bias, A, B, C, D, state, _, lowest, highest = list[Any](scan.args)
    heads, width = graph.value(x).shape[2:]
    groups, states = graph.value(B).shape[2:]
    each = heads // groups
    steps = delta if bias is None else call(aten.add.Tensor, delta, bias)
    if (lowest, highest) != (0.0, float("inf")):
        steps = call(aten.clamp.default, steps, lowest, highest)
    ys, ends = [], []
    for group in range(groups):
        at = (group * each, (group + 1) * each)

        def of_group(tensor: Any, dim: int, at: tuple[int, int] = at) -> Any:
            return None if tensor is None else call(aten.slice.Tensor, tensor, dim, *at)

        def flat(tensor: Any, first: int) -> Any:
            """Heads and channels as one axis."""
            return (
                None if tensor is None else call(aten.flatten.using_ints, tensor, first, first + 1)
            )

        repeated = call(aten.unsqueeze.default, of_group(steps, 2), -1)
        decays = call(aten.unsqueeze.default, of_group(A, 0), -1)
        decays = flat(call(aten.expand.default, decays, [each, width]), 0)
        decays = call(aten.expand.default, call(aten.unsqueeze.default, decays, -1), [-1, states])
        before = of_group(state, 1)
        if before is not None:
            before = flat(call(aten.permute.default, before, [0, 2, 1, 3]), 2)
        both = call(
            _CHANNELS,
            flat(of_group(x, 2), 2),
            flat(call(aten.expand.default, repeated, [-1, -1, -1, width]), 2),
            None,
            decays,
            call(aten.select.int, B, 2, group),
            call(aten.select.int, C, 2, group),
            flat(of_group(D, 0), 0),
            None,
            before,
            False,
            False,
        )
        y, end = (call(operator.getitem, both, i) for i in (0, 1))
        ys.append(call(aten.unflatten.int, y, 2, [each, width]))
        end = call(aten.unflatten.int, end, 2, [each, width])  # (b, n, heads, p)
        ends.append(call(aten.permute.default, end, [0, 2, 1, 3]))
    results = (call(aten.cat.default, ys, 2), call(aten.cat.default, ends, 1))
    for user in list(scan.users):
        graph.replace(user, results[user.args[1]])  # type: ignore[index]
