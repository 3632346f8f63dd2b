"""`falcon_h1`: Mamba-2 and attention side by side in every layer, then a gated MLP.

Many outputs are multiplied with a number (muP). Those before the projections without biases are
read as numbers after them, which is the same:

    attention_in_multiplier a, key_multiplier k    scores times a^2 k, values times a
    ssm_in_multiplier s, ssm_multipliers m         outputs of in_proj times s m

Source: arXiv 2507.22448.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.checkpoint.dialects.hugging_face import attention, layers
from ssmpress.checkpoint.dialects.hugging_face.mamba2_mixer import hybrids_mixer
from ssmpress.checkpoint.dialects.json_reader import JsonReader, limits_json

TYPES: tuple[str, ...] = ("falcon_h1",)
KEYS: Mapping[str, str] = {
    **attention.KEYS,
    "heads": "mamba_n_heads",
    "head_dim": "mamba_d_head",
    "d_inner": "mamba_d_ssm",
    "d_skip": "mamba_n_heads",
    "d_groups": "mamba_n_groups",
    "d_state": "mamba_d_state",
    "d_conv": "mamba_d_conv",
    "conv_bias": "mamba_conv_bias",
    "gated_norm": "mamba_rms_norm",
    "d_intermediate": "intermediate_size",
    "proj_bias": "mlp_bias",
}
_NO_BIASES = ("attention_bias", "mamba_proj_bias", "projectors_bias")


def parse(reader: JsonReader) -> ModelConfig:
    """Read the object of a config.json.

    Raises:
        BadInputError: a key has a wrong type or value, or says what no block here can do.
    """
    limits = ModelConfig.limits
    for key in _NO_BIASES:
        reader.chosen(key, False)
    attention.check_window(reader)
    d_model = reader.integer("hidden_size", limit=limits["d_model"])
    eps = reader.number("rms_norm_eps", 1e-5)
    gate, down = reader.numbers("mlp_multipliers", 2)
    before = reader.number("attention_in_multiplier", 1.0)
    layer = LayerConfig(
        mixer=_mamba(reader, d_model, eps),
        mixer_scale=reader.number("ssm_out_multiplier", 1.0),
        beside=_attention(reader, d_model, before),
        beside_scale=before * reader.number("attention_out_multiplier", 1.0),
        mlp=GatedMlpConfig(
            d_intermediate=reader.integer(
                "intermediate_size", 14336, GatedMlpConfig.limits["d_intermediate"]
            ),
            gate_first=True,
            proj_bias=reader.boolean("mlp_bias", False),
            gate_scale=gate,
        ),
        mlp_scale=down,
    )
    return ModelConfig(
        d_model=d_model,
        layers=(layer,) * reader.integer("num_hidden_layers", limit=limits["n_layer"]),
        vocab_size=reader.integer("vocab_size", limit=limits["vocab_size"]),
        tie_embeddings=reader.boolean("tie_word_embeddings", False),
        norm_eps=eps,
        embedding_scale=reader.number("embedding_multiplier", 1.0),
        logits_scale=reader.number("lm_head_multiplier", 1.0),
    )


def _mamba(reader: JsonReader, d_model: int, eps: float) -> Mamba2Config:
    sizes = Mamba2Config.limits
    heads = reader.integer("mamba_n_heads", 128, sizes["heads"])
    limit = sizes["heads"] * sizes["head_dim"]
    if reader.values.get("mamba_d_ssm", 1024) is None:
        d_inner = reader.integer("mamba_expand", 2, 1 << 10) * d_model
    else:
        d_inner = reader.integer("mamba_d_ssm", 1024, limit)
    before = reader.number("ssm_in_multiplier", 1.0)
    scales = tuple(before * scale for scale in reader.numbers("ssm_multipliers", 5))
    return hybrids_mixer(
        reader,
        heads,
        d_inner,
        "mamba_d_ssm",
        gated_norm=reader.boolean("mamba_rms_norm", False),
        gate_first=not reader.boolean("mamba_norm_before_gate", True),
        norm_eps=eps,
        in_scales=() if set(scales) == {1.0} else scales,
    )


def _attention(reader: JsonReader, d_model: int, before: float) -> AttentionConfig:
    heads, shared = attention.heads(reader)
    width = attention.head_dim(reader, d_model // heads)
    return AttentionConfig(
        heads=heads,
        kv_heads=shared,
        head_dim=width,
        scale=width**-0.5 * (reader.number("key_multiplier", 1.0) * before**2),
        rotary_dim=width,
        rope_theta=attention.rope_theta(reader),
    )


def problem(config: ModelConfig) -> str:
    """Layers that differ, or that are not Mamba-2 beside attention with a gated MLP."""
    layer = config.layers[0]
    mixer, beside, mlp = layer.mixer, layer.beside, layer.mlp
    if len(set(config.layers)) != 1 or layer.residual_scale != 1:
        return "layers: a Falcon-H1 has equal layers, without residual_scale."
    if not isinstance(mixer, Mamba2Config) or not isinstance(beside, AttentionConfig):
        return "layers: a Falcon-H1 has Mamba-2 and attention side by side in every layer."
    if not isinstance(mlp, GatedMlpConfig) or not mlp.gate_first:
        return "layers: a Falcon-H1 has a gated MLP, gate first, in every layer."
    if beside.rotary_dim != beside.head_dim:
        return "attention: a Falcon-H1 turns whole heads by rope."
    if mixer.proj_bias or beside.qkv_bias or beside.out_bias:
        return "proj_bias, qkv_bias, out_bias: a Falcon-H1 with them is not read here."
    if mixer.d_per_channel or mixer.norm_groups != mixer.n_groups:
        return "layers: a Falcon-H1 has one D per head, and a norm of every group or none."
    if mixer.norm_eps != config.norm_eps:
        return f"norm_eps {mixer.norm_eps}: a Falcon-H1 has one for all norms."
    return ""


def config_json(config: ModelConfig) -> dict[str, Any]:
    """What `parse` reads back."""
    layer = config.layers[0]
    mixer, beside, mlp = layer.mixer, layer.beside, layer.mlp
    assert isinstance(mixer, Mamba2Config) and isinstance(beside, AttentionConfig)
    assert isinstance(mlp, GatedMlpConfig)
    return {
        "architectures": ["FalconH1ForCausalLM"],
        "model_type": "falcon_h1",
        "mamba_d_ssm": mixer.d_inner,
        "mamba_n_heads": mixer.heads,
        "mamba_d_head": mixer.head_dim,
        "mamba_d_state": mixer.d_state,
        "mamba_n_groups": mixer.n_groups,
        "mamba_d_conv": mixer.d_conv,
        "mamba_conv_bias": mixer.conv_bias,
        "mamba_proj_bias": False,
        "mamba_rms_norm": mixer.gated_norm,
        "mamba_norm_before_gate": not mixer.gate_first,
        "projectors_bias": False,
        "attention_bias": False,
        "mlp_bias": mlp.proj_bias,
        "intermediate_size": mlp.d_intermediate,
        "rms_norm_eps": config.norm_eps,
        "ssm_multipliers": list(mixer.in_scales or (1.0,) * 5),
        "ssm_in_multiplier": 1.0,
        "ssm_out_multiplier": layer.mixer_scale,
        "key_multiplier": beside.scale / beside.head_dim**-0.5,
        "attention_in_multiplier": 1.0,
        "attention_out_multiplier": layer.beside_scale,
        "mlp_multipliers": [mlp.gate_scale, layer.mlp_scale],
        "embedding_multiplier": config.embedding_scale,
        "lm_head_multiplier": config.logits_scale,
        **attention.heads_json(beside),
        **attention.rope_json(beside),
        **limits_json("time_step_limit", mixer.dt_min, mixer.dt_max),
    }


def arranged(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other names, and queries, keys and values, gate and up joined to one matrix each."""
    return layers.arranged(tensors, "beside", {})


def spelled(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The inverse of `arranged`."""
    return layers.spelled(tensors, config, {})
