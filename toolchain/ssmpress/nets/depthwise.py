"""Depthwise convolutions before a scan in a traced graph become `ssmpress::causal_conv1d`.

    silu(conv1d(x, weight, groups=channels))  of the input's length, whatever steps it looks ahead

The operator is causal: for r steps ahead the sequence is continued by r zeros, and the first r
results are left out.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ssmpress.nets.fx_graph import FxGraph, aten
from ssmpress.nets.products import named_arguments

_CONV = torch.ops.ssmpress.causal_conv1d.default


@dataclass(frozen=True)
class _Convolution:
    """x: (b, d, l). weight: (d, 1, k). ahead: steps that it looks ahead."""

    x: fx.Node
    weight: Any
    bias: Any
    ahead: int


def mark_convolutions(graph: FxGraph) -> None:
    """Replace them; others stay what they are."""
    for silu in graph.calls(aten.silu.default):
        found = _convolution(graph, silu.args[0])
        if found is None:
            continue
        x = graph.add(silu, aten.transpose.int, found.x, 1, 2)
        if found.ahead:
            x = graph.add(silu, aten.constant_pad_nd.default, x, [0, 0, 0, found.ahead])
        weight = graph.add(silu, aten.squeeze.dim, found.weight, 1)
        both = graph.add(silu, _CONV, x, weight, found.bias, None, True)
        y = graph.add(silu, operator.getitem, both, 0)
        if found.ahead:
            y = graph.add(silu, aten.slice.Tensor, y, 1, found.ahead)
        graph.replace(silu, graph.add(silu, aten.transpose.int, y, 1, 2))
    graph.finish()


def _convolution(graph: FxGraph, node: Any) -> _Convolution | None:
    """The convolution of a length that is its input's, which nobody else reads."""
    length = _length(graph, node)
    if isinstance(node, fx.Node) and node.target is aten.slice.Tensor:
        dim, start = (*node.args[1:3], 0, 0)[:2]
        if dim not in (2, -1) or start not in (0, None) or len(node.users) != 1:
            return None
        node = node.args[0]
    if not isinstance(node, fx.Node) or len(node.users) != 1:
        return None
    if node.target not in (aten.conv1d.default, aten.conv1d.padding):
        return None
    arguments = named_arguments(node)
    x, weight = arguments["input"], arguments["weight"]
    shape = tuple(graph.value(weight).shape)
    dilated = any(
        n not in (1, [1]) for n in (arguments.get("stride", 1), arguments.get("dilation", 1))
    )
    if graph.value(x).dim() != 3 or shape[1] != 1 or arguments.get("groups", 1) != shape[0]:
        return None
    if dilated or graph.value(x).dtype != torch.float32:
        return None
    taps = shape[2]
    before = _before(arguments.get("padding", 0), taps)
    if x.target in (aten.pad.default, aten.constant_pad_nd.default) and len(x.users) == 1:
        pads, value = x.args[1], x.args[-1] if len(x.args) > 2 else 0
        if len(pads) != 2 or value not in (0, None, "constant"):
            return None
        before, x = before + int(pads[0]), x.args[0]
    if not 0 <= before <= taps - 1 or _length(graph, x) != length or int(shape[0]) < 1:
        return None
    return _Convolution(x, weight, arguments.get("bias"), taps - 1 - before)


def _before(padding: Any, taps: int) -> int:
    """Zeros before the sequence."""
    if padding == "same":
        return (taps - 1) // 2
    if padding == "valid":
        return 0
    return int(padding[0] if isinstance(padding, list | tuple) else padding)


def _length(graph: FxGraph, node: Any) -> str:
    """The size of the last axis, such as 7 or s77."""
    return str(graph.value(node).shape[-1])
