"""Tensors of layers with `input_layernorm`, mixers, `pre_ff_layernorm` and `feed_forward`: Jamba's
and Falcon-H1's. Both name their mixers `mamba` and `self_attn`, whichever stand in a layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.tensors import layer_name
from ssmpress.checkpoint.dialects.hugging_face import attention, names

_RENAMES = {
    "model.embed_tokens": "backbone.embedding",
    "model.layers": "backbone.layers",
    "model.final_layernorm": "backbone.norm_f",
    "input_layernorm": "norm",
    "pre_ff_layernorm": "norm2",
    "mamba": "mixer",
    "o_proj": "out_proj",
    "feed_forward.down_proj": "mlp.fc2",
    "feed_forward.gate_proj": "mlp.gate_proj",
    "feed_forward.up_proj": "mlp.up_proj",
}
_SPELLED = {
    "backbone.embedding": "model.embed_tokens",
    "backbone.layers": "model.layers",
    "backbone.norm_f": "model.final_layernorm",
    "mixer": "mamba",
    "mlp.fc2": "feed_forward.down_proj",
}
_FC1 = ("gate_proj", "up_proj")


def arranged(
    tensors: Mapping[str, torch.Tensor], attention_part: str, inside: names.Renames
) -> dict[str, torch.Tensor]:
    """The tensors under canonical names, queries, keys and values, gate and up joined.

    Args:
        attention_part: of a layer that attention is: mixer or beside.
        inside: names within the mixers.
    """
    renames = _RENAMES | {"self_attn": attention_part} | dict(inside)
    joins = {
        f"{attention_part}.in_proj": attention.joined_parts(attention_part),
        "mlp.fc1": tuple(f"mlp.{name}" for name in _FC1),
    }
    return names.joined(names.renamed(tensors, renames), joins)


def spelled(
    tensors: Mapping[str, torch.Tensor], config: ModelConfig, inside: names.Renames
) -> dict[str, torch.Tensor]:
    """The inverse of `arranged`.

    Args:
        inside: names within the mixers, from canonical ones.
    """
    parts = {
        layer_name(number, module): theirs
        for number, layer in enumerate(config.layers)
        for module, theirs in _parts(layer, config.d_model).items()
    }
    return names.renamed(names.separated(tensors, parts), _SPELLED | dict(inside))


def _parts(layer: LayerConfig, d_model: int) -> dict[str, dict[str, int]]:
    """Canonical module of a layer -> their modules for it, and the rows of each."""
    parts = {"norm": {"input_layernorm": d_model}, "norm2": {"pre_ff_layernorm": d_model}}
    for part in layer.parts():
        if isinstance(part.block, AttentionConfig):
            parts[f"{part.name}.in_proj"] = attention.in_parts(part.block, "self_attn")
            parts[f"{part.name}.out_proj"] = {"self_attn.o_proj": d_model}
        if isinstance(part.block, GatedMlpConfig):
            width = part.block.d_intermediate
            parts["mlp.fc1"] = {f"feed_forward.{name}": width for name in _FC1}
    return parts
