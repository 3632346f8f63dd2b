"""Causal attention of hybrids, with grouped heads: in plain PyTorch, and its facts.

    y_t = softmax over s <= t of (scale q_t k_s) v_s, for each head, through out_proj

Keys and values of all tokens are its state. q and k are turned by their position (rope, arXiv
2104.09864) or not. Sources: Vaswani et al., arXiv 1706.03762; grouped heads: arXiv 2305.13245. Its
nodes: graph/nodes/attention.py.

    b, l, s     batch, tokens, tokens until now
    h, v        heads, and heads of keys and values, each read by h / v heads
    p           head_dim, channels of a head
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.blocks.facts import (
    BlockConfig,
    ProjectionFacts,
    StateAxis,
    TensorFacts,
    check_eps,
    check_flags,
    check_sizes,
    config_error,
    equally_many,
)
from ssmpress.blocks.projection import Projection
from ssmpress.states import StateTensor

THETA_LIMIT = 1e15
"""Falcon-H1 has 1e11."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The sizes of an attention mixer, checked when built, and what else is to be known of it.

    Args:
        heads: of the queries. kv_heads: of keys and values; it divides `heads`.
        head_dim: channels of a head.
        scale: what the products of queries and keys are multiplied with.
        rotary_dim: channels of a head that rope turns, the first ones; 0 is no rope.
        rope_theta: base of rope's wavelengths.
        qkv_bias, out_bias: in_proj and out_proj have a bias.

    Raises:
        BadInputError: a size is not an integer from 1 to its limit or does not divide what it has
            to, a flag is not a bool, or scale or rope_theta not a positive number.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rotary_dim: int = 0
    rope_theta: float = 10000.0
    qkv_bias: bool = False
    out_bias: bool = False

    kind: ClassVar[str] = "attention"
    title: ClassVar[str] = "attention"
    limits: ClassVar[Mapping[str, int]] = {
        "heads": 1 << 11,
        "kv_heads": 1 << 11,
        "head_dim": 1 << 12,
    }
    never_pruned: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        check_sizes(self)
        check_flags(self, "qkv_bias", "out_bias")
        check_eps("scale", self.scale)
        check_eps("rope_theta", self.rope_theta, THETA_LIMIT)
        if self.heads % self.kv_heads:
            raise config_error("kv_heads", f"a divisor of the {self.heads} heads", self.kv_heads)
        turned = self.rotary_dim
        if type(turned) is not int or not 0 <= turned <= self.head_dim or turned % 2:
            raise config_error("rotary_dim", f"an even number up to {self.head_dim}", turned)

    @property
    def d_queries(self) -> int:
        """Channels of all queries."""
        return self.heads * self.head_dim

    @property
    def d_keys(self) -> int:
        """Channels of all keys, and of all values."""
        return self.kv_heads * self.head_dim

    def tensors(self) -> Mapping[str, TensorFacts]:
        """Names and axes: mamba-ssm's."""
        return _TENSORS

    def projections(self) -> Mapping[str, ProjectionFacts]:
        """Two: queries, keys and values come out of one."""
        return _PROJECTIONS

    def states(self) -> tuple[StateTensor, ...]:
        """Keys, turned so that a product with them needs no transposed copy, and values."""
        return (
            StateTensor("key_state", (self.kv_heads, self.head_dim, 0), grows=2),
            StateTensor("value_state", (self.kv_heads, 0, self.head_dim), grows=1),
        )

    @property
    def channels(self) -> int:
        """Those of the queries, which die head by head."""
        return self.d_queries

    @property
    def state_axis(self) -> StateAxis | None:
        """Keys and values of tokens are no part of the weights."""
        return None

    def live(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The heads that out_proj reads and that have values to give.

        Keys and values go where all heads that read them are dead. Of those that stay, each is
        read by as many heads: a head more dead in one than in all others is kept.
        """
        unread = (weights["out_proj.weight"] == 0).all(0).reshape(self.heads, -1).all(1)
        empty = (weights["in_proj.weight"] == 0).all(1)
        if "in_proj.bias" in weights:
            empty &= weights["in_proj.bias"] == 0
        silent = empty[self.d_queries + self.d_keys :].reshape(self.kv_heads, -1).all(1)
        dead = unread.reshape(self.kv_heads, -1) | silent[:, None]
        shared = torch.nonzero(~dead.all(1))[:, 0]
        shared = shared if len(shared) else torch.zeros(1, dtype=torch.int64)
        heads = (dead.shape[1] * shared[:, None] + equally_many(dead[shared])).flatten()
        if len(heads) == self.heads:
            return {}
        channels = torch.arange(self.head_dim)
        kept = {"d_queries": heads, "d_keys": shared}
        return {
            name: (self.head_dim * numbers[:, None] + channels).flatten()
            for name, numbers in kept.items()
        }

    def narrowed(self, kept: Mapping[str, Tensor]) -> tuple[BlockConfig, Mapping[str, float]]:
        """With fewer heads, each as wide as before."""
        heads, shared = (len(kept[name]) // self.head_dim for name in ("d_queries", "d_keys"))
        return replace(self, heads=heads, kv_heads=shared), {}

    def module(self, d_model: int) -> nn.Module:
        """The mixer in PyTorch."""
        return Attention(self, d_model)


_QKV = ("d_queries", "d_keys", "d_keys")
_TENSORS = {
    "in_proj.weight": TensorFacts((_QKV, ("d_model",))),
    "in_proj.bias": TensorFacts((_QKV,), "qkv_bias"),
    "out_proj.weight": TensorFacts((("d_model",), ("d_queries",))),
    "out_proj.bias": TensorFacts((("d_model",),), "out_bias"),
}
_PROJECTIONS = {
    "in_proj": ProjectionFacts(input="norm"),
    "out_proj": ProjectionFacts(input="mixed"),
}


def wavelengths(config: AttentionConfig) -> Tensor:
    """Radians per token of each turned pair, float32 (rotary_dim / 2,)."""
    pairs = torch.arange(0, config.rotary_dim, 2, dtype=torch.int64).float()
    result: Tensor = 1.0 / config.rope_theta ** (pairs / config.rotary_dim)
    return result


def rope(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the first channels by their position; channel i and i + r / 2 are a pair.

    Args:
        x: float (b, h, l, p). angles: float32 (l, r / 2), r <= p.
    """
    half = angles.shape[-1]
    cos, sin = angles.cos(), angles.sin()
    a, b, rest = torch.split(x, [half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


class Attention(nn.Module):
    """The mixer; see above."""

    def __init__(self, config: AttentionConfig, d_model: int) -> None:
        super().__init__()
        self.config = config
        rows = config.d_queries + 2 * config.d_keys
        self.in_proj = Projection(d_model, rows, bias=config.qkv_bias)
        self.out_proj = Projection(config.d_queries, d_model, bias=config.out_bias)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, l, d_model), the mixer's two states -> y (b, l, d_model), the states after it."""
        c, length, before = self.config, x.shape[1], keys.shape[-1]
        q, k, v = self._heads(x, before)
        keys = torch.cat([keys.to(k.dtype), k.mT], dim=-1)  # (b, v, p, s)
        values = torch.cat([values.to(v.dtype), v], dim=-2)  # (b, v, s, p)
        later = torch.ones(length, before + length, dtype=torch.bool, device=x.device)
        mixed = F.scaled_dot_product_attention(
            q, keys.mT, values, ~later.triu(before + 1), scale=c.scale, enable_gqa=True
        )
        y: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return y, keys, values

    def from_start(self, x: Tensor) -> Tensor:
        """y of `forward` without any tokens before x: PyTorch's fast kernels take no mask."""
        q, k, v = self._heads(x, 0)
        mixed = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=self.config.scale, enable_gqa=True
        )
        y: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return y

    def _heads(self, x: Tensor, before: int) -> tuple[Tensor, Tensor, Tensor]:
        """q (b, h, l, p), k and v (b, v, l, p) of x (b, l, d_model), after `before` tokens."""
        c = self.config
        b, length, _ = x.shape
        q, k, v = (
            part.reshape(b, length, -1, c.head_dim).transpose(1, 2)
            for part in self.in_proj(x).split([c.d_queries, c.d_keys, c.d_keys], dim=-1)
        )
        if c.rotary_dim:
            places = torch.arange(before, before + length, device=x.device).float()
            angles = places[:, None] * wavelengths(c).to(x.device)
            q, k = rope(q, angles), rope(k, angles)
        return q, k, v
