"""Attention as the hybrids' config.json spells its heads, and its four projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmpress.blocks.attention import THETA_LIMIT, AttentionConfig
from ssmpress.checkpoint.dialects.json_reader import JsonReader

KEYS: Mapping[str, str] = {"d_queries": "num_attention_heads", "d_keys": "num_key_value_heads"}


def check_window(reader: JsonReader) -> None:
    """Whether every token sees all before it.

    Raises:
        BadInputError: there is a sliding window.
    """
    if reader.values.get("sliding_window") is not None:
        raise reader.fail("sliding_window", "null", "Attention here sees all tokens.")


def rope_theta(reader: JsonReader) -> float:
    """The base of rope's wavelengths, in newer files in an object of rope's own.

    Raises:
        BadInputError: rope is scaled in some way.
    """
    reader.chosen("rope_scaling")
    rope = reader.object("rope_parameters")
    rope.chosen("rope_type", "default")
    rope.chosen("type", "default")
    older = reader.number("rope_theta", 10000.0, THETA_LIMIT)
    return rope.number("rope_theta", older, THETA_LIMIT)


def rope_json(block: AttentionConfig) -> dict[str, Any]:
    """What `rope_theta` reads back."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": block.rope_theta}}


def heads(reader: JsonReader, default_kv: int = 8) -> tuple[int, int]:
    """Heads of the queries, and of keys and values: as many where it says null.

    Raises:
        BadInputError: a key has a wrong type or value.
    """
    limits = AttentionConfig.limits
    count = reader.integer("num_attention_heads", 32, limits["heads"])
    if reader.values.get("num_key_value_heads", default_kv) is None:
        return count, count
    return count, reader.integer("num_key_value_heads", default_kv, limits["kv_heads"])


def head_dim(reader: JsonReader, default: int, *keys: str) -> int:
    """Channels of a head: `head_dim` or the first of `keys` that is there and not null.

    Raises:
        BadInputError: a key has a wrong type or value, or there are more heads than channels.
    """
    for key in ("head_dim", *keys):
        if reader.values.get(key) is not None:
            return reader.integer(key, limit=AttentionConfig.limits["head_dim"])
    if default < 1:
        raise reader.fail("num_attention_heads", "no more heads than hidden_size has channels")
    return default


def plain_problem(blocks: Sequence[AttentionConfig], owner: str) -> str:
    """Why these are not one attention without positions and biases; empty if they are.

    Args:
        blocks: different ones. owner: what has no other, such as `a Jamba`.
    """
    if len(blocks) > 1:
        return f"layers: {owner} has attention of one size."
    for block in blocks:
        turned = block.rotary_dim or block.qkv_bias or block.out_bias
        if turned or block.scale != block.head_dim**-0.5:
            return f"attention: {owner} has no rope, no biases, and head_dim^-0.5 as scale."
    return ""


def heads_json(block: AttentionConfig) -> dict[str, Any]:
    """What `heads` and `head_dim` read back."""
    return {
        "num_attention_heads": block.heads,
        "num_key_value_heads": block.kv_heads,
        "head_dim": block.head_dim,
    }


NO_HEADS: dict[str, Any] = {"num_attention_heads": 1, "num_key_value_heads": 1}
"""What a model without attention says, whose config.json is read all the same."""


def in_parts(block: AttentionConfig, module: str) -> dict[str, int]:
    """What in_proj consists of: name of each projection in `module` -> its rows."""
    rows = {"q_proj": block.d_queries, "k_proj": block.d_keys, "v_proj": block.d_keys}
    return {f"{module}.{name}": count for name, count in rows.items()}


def joined_parts(module: str) -> tuple[str, ...]:
    """The names that `in_parts` gives."""
    return tuple(f"{module}.{name}_proj" for name in "qkv")
