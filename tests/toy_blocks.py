"""Two blocks that the package does not know, as the next ones will be: a gated MLP whose channels
can die, and attention whose state grows with every token.

Each is what `docs/extending.md` says: a configuration with its facts and its module, and its nodes.
`register` is the line in each of the two tables. The attention has one head and no positions:

    y_t = softmax_{s <= t}(q_t k_s) v_s, through out_proj
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.blocks import config as model_config
from ssmpress.blocks.facts import (
    BlockConfig,
    ProjectionFacts,
    StateAxis,
    TensorFacts,
    check_sizes,
    resized,
)
from ssmpress.blocks.projection import Projection
from ssmpress.graph import nodes as graph_nodes
from ssmpress.graph.packed_graph import PackedGraph, Place
from ssmpress.states import StateTensor


@dataclass(frozen=True, kw_only=True)
class ToyMlp:
    """y = fc2(x1 silu(x2)) with [x1, x2] = fc1(x)."""

    d_mlp: int

    kind: ClassVar[str] = "toy_mlp"
    title: ClassVar[str] = "toy MLP"
    limits: ClassVar[Mapping[str, int]] = {"d_mlp": 1 << 10}
    never_pruned: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        check_sizes(self)

    def tensors(self) -> Mapping[str, TensorFacts]:
        return {
            "fc1.weight": TensorFacts((("d_mlp", "d_mlp"), ("d_model",))),
            "fc2.weight": TensorFacts((("d_model",), ("d_mlp",))),
        }

    def projections(self) -> Mapping[str, ProjectionFacts]:
        return {"fc1": ProjectionFacts(input="norm2"), "fc2": ProjectionFacts(input="gated")}

    def states(self) -> tuple[StateTensor, ...]:
        return ()

    @property
    def channels(self) -> int:
        return self.d_mlp

    @property
    def state_axis(self) -> StateAxis | None:
        return None

    def live(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        halves = weights["fc1.weight"].split(self.d_mlp)
        closed = (halves[0] == 0).all(1) | (halves[1] == 0).all(1)
        live = torch.nonzero(~(closed | (weights["fc2.weight"] == 0).all(0)))[:, 0]
        live = live if len(live) else torch.zeros(1, dtype=torch.int64)
        return {} if len(live) == self.d_mlp else {"d_mlp": live}

    def narrowed(self, kept: Mapping[str, Tensor]) -> tuple[BlockConfig, Mapping[str, float]]:
        return resized(self, kept)

    def module(self, d_model: int) -> nn.Module:
        return _Mlp(self.d_mlp, d_model)


class _Mlp(nn.Module):
    def __init__(self, d_mlp: int, d_model: int) -> None:
        super().__init__()
        self.fc1 = Projection(d_model, 2 * d_mlp, bias=False)
        self.fc2 = Projection(d_mlp, d_model, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x1, x2 = self.fc1(x).chunk(2, dim=-1)
        return (self.fc2(x1 * F.silu(x2)),)


def mlp_nodes(
    graph: PackedGraph, block: ToyMlp, at: Place, x: ir.Value, past: Sequence[ir.Value]
) -> list[ir.Value]:
    both = graph.linear(at.weight("fc1.weight"), x, at.node("fc1"))
    x1, x2 = graph.split(at.node("mlp"), both, {"x1": block.d_mlp, "x2": block.d_mlp})
    sigmoid = graph.node("Sigmoid", at.node("mlp/sigmoid"), [x2])
    silu = graph.node("Mul", at.node("mlp/silu"), [x2, sigmoid])
    gated = graph.node("Mul", at.node("mlp/gated"), [x1, silu])
    return [graph.linear(at.weight("fc2.weight"), gated, at.node("fc2"))]


@dataclass(frozen=True, kw_only=True)
class ToyAttention:
    """One causal head of d_head, without positions."""

    d_head: int

    kind: ClassVar[str] = "toy_attention"
    title: ClassVar[str] = "toy attention"
    limits: ClassVar[Mapping[str, int]] = {"d_head": 1 << 10}
    never_pruned: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        check_sizes(self)

    def tensors(self) -> Mapping[str, TensorFacts]:
        wide = TensorFacts((("d_head",), ("d_model",)))
        back = TensorFacts((("d_model",), ("d_head",)))
        names = {f"{name}.weight": wide for name in ("q_proj", "k_proj", "v_proj")}
        return names | {"out_proj.weight": back}

    def projections(self) -> Mapping[str, ProjectionFacts]:
        same = {name: ProjectionFacts(input="norm") for name in ("q_proj", "k_proj", "v_proj")}
        return same | {"out_proj": ProjectionFacts(input="mixed")}

    def states(self) -> tuple[StateTensor, ...]:
        return tuple(StateTensor(f"{n}_state", (0, self.d_head), grows=0) for n in ("key", "value"))

    @property
    def channels(self) -> int:
        return 0

    @property
    def state_axis(self) -> StateAxis | None:
        return None

    def live(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {}

    def narrowed(self, kept: Mapping[str, Tensor]) -> tuple[BlockConfig, Mapping[str, float]]:
        return resized(self, kept)

    def module(self, d_model: int) -> nn.Module:
        return _Attention(self.d_head, d_model)


class _Attention(nn.Module):
    def __init__(self, d_head: int, d_model: int) -> None:
        super().__init__()
        self.q_proj = Projection(d_model, d_head, bias=False)
        self.k_proj = Projection(d_model, d_head, bias=False)
        self.v_proj = Projection(d_model, d_head, bias=False)
        self.out_proj = Projection(d_head, d_model, bias=False)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = keys.shape[1]
        keys = torch.cat([keys, self.k_proj(x)], dim=1)  # (b, s, d)
        values = torch.cat([values, self.v_proj(x)], dim=1)
        scores = self.q_proj(x) @ keys.mT  # (b, l, s)
        later = torch.ones_like(scores, dtype=torch.bool).triu(before + 1)
        mixed = scores.masked_fill(later, -1e9).softmax(-1) @ values
        return self.out_proj(mixed), keys, values


def attention_nodes(
    graph: PackedGraph, block: ToyAttention, at: Place, x: ir.Value, past: Sequence[ir.Value]
) -> list[ir.Value]:
    q, k, v = (
        graph.linear(at.weight(f"{name}_proj.weight"), x, at.node(f"{name}_proj"))
        for name in ("q", "k", "v")
    )

    def named(name: str, new: ir.Value, old: ir.Value) -> ir.Value:
        output = at.present(f"{name}_state")
        return graph.several("Concat", at.node(name), [old, new], [output], axis=1)[0]

    keys, values = named("key", k, past[0]), named("value", v, past[1])
    turned = graph.node("Transpose", at.node("keys_turned"), [keys], perm=[0, 2, 1])
    scores = graph.node("MatMul", at.node("scores"), [q, turned])
    shape = graph.node("Shape", at.node("scores_shape"), [scores])
    ones = graph.node("ConstantOfShape", at.node("nothing"), [shape])
    zero = graph.node("Equal", at.node("everywhere"), [ones, ones])
    marks = graph.node("Cast", at.node("marks"), [zero], to=ir.DataType.FLOAT.value)
    before = graph.node("Shape", at.node("before"), [past[0]], start=1, end=2)
    one = graph.constant("axis_one", np.array(1))
    first = graph.node("Add", at.node("first_later"), [before, one])
    scalar = graph.node("Squeeze", at.node("diagonal"), [first])
    later = graph.node("Trilu", at.node("later"), [marks, scalar], upper=1)
    much = graph.node(
        "Mul", at.node("hidden"), [later, graph.constant("axis_much", np.float32([-1e9]))]
    )
    shown = graph.node("Add", at.node("shown"), [scores, much])
    weights = graph.node("Softmax", at.node("weights"), [shown], axis=-1)
    mixed = graph.node("MatMul", at.node("mixed"), [weights, values])
    return [graph.linear(at.weight("out_proj.weight"), mixed, at.node("out_proj")), keys, values]


NODES: dict[str, Any] = {
    ToyMlp.kind: SimpleNamespace(nodes=mlp_nodes, STATES={}),
    ToyAttention.kind: SimpleNamespace(
        nodes=attention_nodes, STATES={"key_state": "keys so far", "value_state": "values so far"}
    ),
}


TABLES: Mapping[str, tuple[dict[str, Any], Mapping[str, Any]]] = {
    "blocks/config.py": (model_config.BLOCKS, {b.kind: b for b in (ToyMlp, ToyAttention)}),
    "graph/nodes/__init__.py": (graph_nodes.BLOCK_NODES, NODES),
}
"""File of the package -> its table, and the lines that the two blocks add."""


def register(patch: pytest.MonkeyPatch) -> None:
    """The line of each block in each of the two tables."""
    for table, lines in TABLES.values():
        for kind, line in lines.items():
            patch.setitem(table, kind, line)
