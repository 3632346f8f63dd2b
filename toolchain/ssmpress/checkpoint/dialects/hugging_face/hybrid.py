"""`granitemoehybrid` without experts and `bamba`: Mamba-2 and attention, each with a gated MLP.

Granite multiplies the embedding, the branches and the scores of attention, and divides the logits;
Bamba does not. Their layer kinds are spelled `mamba` and `attention` in older files,
`linear_attention` and `full_attention` in newer ones, and in Bamba's by numbers of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.checkpoint.dialects.hugging_face import names
from ssmpress.checkpoint.dialects.hugging_face.attention import (
    NO_HEADS,
    check_window,
    head_dim,
    rope_theta,
)
from ssmpress.checkpoint.dialects.hugging_face.mamba2 import mixer_problem
from ssmpress.checkpoint.dialects.hugging_face.mamba2_mixer import hybrids_mixer
from ssmpress.checkpoint.dialects.json_reader import JsonReader, limits_json
from ssmpress.checkpoint.dialects.mixers import mixers_of

GRANITE, BAMBA = "granitemoehybrid", "bamba"
TYPES: tuple[str, ...] = (GRANITE, BAMBA)
KEYS: Mapping[str, str] = {
    "heads": "mamba_n_heads",
    "head_dim": "mamba_d_head",
    "d_inner": "mamba_n_heads",
    "d_skip": "mamba_n_heads",
    "d_groups": "mamba_n_groups",
    "d_state": "mamba_d_state",
    "d_conv": "mamba_d_conv",
    "conv_bias": "mamba_conv_bias",
    "d_queries": "num_attention_heads",
    "d_keys": "num_key_value_heads",
    "qkv_bias": "attention_bias",
    "out_bias": "attention_bias",
    "proj_bias": "mamba_proj_bias",
}
_KINDS = {
    "mamba": True,
    "linear_attention": True,
    "attention": False,
    "full_attention": False,
}
"""Whether a layer's kind is Mamba-2."""
_RENAMES = {
    "model.embed_tokens": "backbone.embedding",
    "model.layers": "backbone.layers",
    "model.norm": "backbone.norm_f",
    "model.final_layernorm": "backbone.norm_f",
    "input_layernorm": "norm",
    "post_attention_layernorm": "norm2",
    "pre_ff_layernorm": "norm2",
    "mamba": "mixer",
    "self_attn": "mixer",
    "o_proj": "out_proj",
    "shared_mlp.input_linear": "mlp.fc1",
    "shared_mlp.output_linear": "mlp.fc2",
    "feed_forward.gate_proj": "mlp.gate_proj",
    "feed_forward.up_proj": "mlp.up_proj",
    "feed_forward.down_proj": "mlp.fc2",
}
_JOINS = {
    "mixer.in_proj": ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"),
    "mlp.fc1": ("mlp.gate_proj", "mlp.up_proj"),
}


def parse(reader: JsonReader) -> ModelConfig:
    """Read the object of a config.json.

    Raises:
        BadInputError: a key has a wrong type or value, or says what no block here can do.
    """
    granite = reader.values.get("model_type") == GRANITE
    limits = ModelConfig.limits
    if reader.values.get("num_local_experts", 8 if granite else 0) not in (0, None):
        raise reader.fail(
            "num_local_experts", "0", "Mixtures of experts are not supported; use a dense model."
        )
    check_window(reader)
    d_model = reader.integer("hidden_size", limit=limits["d_model"])
    mixers = (_attention(reader, d_model, granite), _mamba(reader, d_model))
    width = reader.integer(
        "shared_intermediate_size" if granite else "intermediate_size",
        limit=GatedMlpConfig.limits["d_intermediate"],
    )
    bias = False if granite else reader.boolean("mlp_bias", False)
    mlp = GatedMlpConfig(d_intermediate=width, gate_first=True, proj_bias=bias)
    residual = reader.number("residual_multiplier", 1.0) if granite else 1.0
    kinds = [LayerConfig(mixer=mixer, mlp=mlp, residual_scale=residual) for mixer in mixers]
    return ModelConfig(
        d_model=d_model,
        layers=tuple(kinds[is_mamba] for is_mamba in _layer_kinds(reader)),
        vocab_size=reader.integer("vocab_size", limit=limits["vocab_size"]),
        tie_embeddings=reader.boolean("tie_word_embeddings", False),
        norm_eps=reader.number("rms_norm_eps", 1e-6 if granite else 1e-5),
        embedding_scale=reader.number("embedding_multiplier", 1.0) if granite else 1.0,
        logits_scale=1 / reader.number("logits_scaling", 1.0) if granite else 1.0,
    )


def _layer_kinds(reader: JsonReader) -> list[bool]:
    """Whether each layer is Mamba-2, not attention."""
    count = reader.integer("num_hidden_layers", limit=ModelConfig.limits["n_layer"])
    for key in ("layer_types", "layers_block_type"):
        kinds = reader.values.get(key)
        if kinds is None:
            continue
        known = isinstance(kinds, list) and all(isinstance(k, str) for k in kinds)
        if not known or len(kinds) != count or not set(kinds) <= set(_KINDS):
            raise reader.fail(key, f"{count} of {', '.join(map(repr, _KINDS))}")
        return [_KINDS[kind] for kind in kinds]
    numbers = reader.values.get("attn_layer_indices") or []
    if not isinstance(numbers, list) or not all(n in range(count) for n in numbers):
        raise reader.fail("attn_layer_indices", f"numbers of layers, from 0 to {count - 1}")
    return [number not in numbers for number in range(count)]


def _mamba(reader: JsonReader, d_model: int) -> Mamba2Config:
    heads = reader.integer("mamba_n_heads", 128, Mamba2Config.limits["heads"])
    d_inner = reader.integer("mamba_expand", 2, 1 << 10) * d_model
    return hybrids_mixer(
        reader,
        heads,
        d_inner,
        "mamba_expand",
        proj_bias=reader.boolean("mamba_proj_bias", False),
        norm_eps=reader.number("rms_norm_eps", 1e-6),
    )


def _attention(reader: JsonReader, d_model: int, granite: bool) -> AttentionConfig:
    sizes = AttentionConfig.limits
    heads = reader.integer("num_attention_heads", 32, sizes["heads"])
    theta = rope_theta(reader)
    width = head_dim(reader, d_model // heads)
    shared = heads
    if reader.values.get("num_key_value_heads", 8) is not None:
        shared = reader.integer("num_key_value_heads", heads if granite else 8, sizes["kv_heads"])
    reader.chosen("position_embedding_type", "rope", "nope")
    turned = not granite or reader.values.get("position_embedding_type") == "rope"
    bias = reader.boolean("attention_bias", False)
    return AttentionConfig(
        heads=heads,
        kv_heads=shared,
        head_dim=width,
        scale=reader.number("attention_multiplier", 1.0) if granite else width**-0.5,
        rotary_dim=0 if not turned else width if granite else int(0.5 * width),
        rope_theta=theta,
        qkv_bias=bias,
        out_bias=bias,
    )


def problem(config: ModelConfig) -> str:
    """Layers of other kinds or sizes than one of each, or what both have no word for."""
    mixers = {layer.mixer for layer in config.layers}
    blocks = mixers_of(config, Mamba2Config)
    attention = mixers_of(config, AttentionConfig)
    mlp, scale = config.layers[0].mlp, config.layers[0].residual_scale
    alike = all(
        layer == LayerConfig(mixer=layer.mixer, mlp=mlp, residual_scale=scale)
        for layer in config.layers
    )
    if len(blocks) != 1 or len(attention) > 1 or len(mixers) != len(blocks) + len(attention):
        return "layers: a hybrid has Mamba-2 layers of one size, and attention of one size."
    if not alike or not isinstance(mlp, GatedMlpConfig) or not mlp.gate_first:
        return "layers: a hybrid has the same gated MLP, gate first, in every layer."
    if mlp.gate_scale != 1:
        return "gate_scale: neither Granite nor Bamba has one."
    mixer = blocks[0]
    if mixer.d_inner % config.d_model or mixer.norm_eps != config.norm_eps:
        return "layers: a hybrid has one norm_eps, and a multiple of d_model as d_inner."
    if attention and attention[0].qkv_bias != attention[0].out_bias:
        return "attention: a hybrid has biases in all of its projections, or in none."
    if not any(_says(config, kind) for kind in TYPES):
        return "attention: neither Granite nor Bamba has these scales and this rope."
    return mixer_problem(mixer)


def _says(config: ModelConfig, kind: str) -> bool:
    """Whether Granite, or Bamba, has words for the scales, the rope and the MLP's biases."""
    attention = mixers_of(config, AttentionConfig)
    mlp = config.layers[0].mlp
    biased = isinstance(mlp, GatedMlpConfig) and mlp.proj_bias
    if kind == GRANITE:
        return not biased and all(a.rotary_dim in (0, a.head_dim) for a in attention)
    scales = (config.embedding_scale, config.logits_scale, config.layers[0].residual_scale)
    return set(scales) == {1.0} and all(
        a.scale == a.head_dim**-0.5 and a.rotary_dim == int(0.5 * a.head_dim) for a in attention
    )


def config_json(config: ModelConfig) -> dict[str, Any]:
    """What `parse` reads back."""
    (mixer,) = mixers_of(config, Mamba2Config)
    attention = mixers_of(config, AttentionConfig)
    mlp = config.layers[0].mlp
    assert isinstance(mlp, GatedMlpConfig)
    granite = _says(config, GRANITE)
    values = {
        "architectures": ["GraniteMoeHybridForCausalLM" if granite else "BambaForCausalLM"],
        "model_type": GRANITE if granite else BAMBA,
        "mamba_n_heads": mixer.heads,
        "mamba_d_head": mixer.head_dim,
        "mamba_d_state": mixer.d_state,
        "mamba_n_groups": mixer.n_groups,
        "mamba_d_conv": mixer.d_conv,
        "mamba_expand": mixer.d_inner // config.d_model,
        "mamba_conv_bias": mixer.conv_bias,
        "mamba_proj_bias": mixer.proj_bias,
        "rms_norm_eps": config.norm_eps,
        "intermediate_size": mlp.d_intermediate,
    } | limits_json("time_step_limit", mixer.dt_min, mixer.dt_max)
    values |= _attention_json(attention[0], granite) if attention else NO_HEADS
    kinds = [isinstance(layer.mixer, Mamba2Config) for layer in config.layers]
    if not granite:
        attended = [number for number, is_mamba in enumerate(kinds) if not is_mamba]
        return values | {"attn_layer_indices": attended, "mlp_bias": mlp.proj_bias}
    return values | {
        "shared_intermediate_size": mlp.d_intermediate,
        "layer_types": ["linear_attention" if kind else "full_attention" for kind in kinds],
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "embedding_multiplier": config.embedding_scale,
        "residual_multiplier": config.layers[0].residual_scale,
        "logits_scaling": 1 / config.logits_scale,
    }


def _attention_json(block: AttentionConfig, granite: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "num_attention_heads": block.heads,
        "num_key_value_heads": block.kv_heads,
        "head_dim": block.head_dim,
        "attention_bias": block.qkv_bias,
        "rope_parameters": {"rope_type": "default", "rope_theta": block.rope_theta},
    }
    if granite:
        values["attention_multiplier"] = block.scale
        values["position_embedding_type"] = "rope" if block.rotary_dim else "nope"
    return values


def arranged(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other names, and queries, keys and values, gate and up joined to one matrix each."""
    return names.joined(names.renamed(tensors, _RENAMES), _JOINS)


def spelled(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The inverse of `arranged`."""
    granite = _says(config, GRANITE)
    mlp = config.layers[0].mlp
    assert isinstance(mlp, GatedMlpConfig)
    outside = {
        "backbone.embedding.": "model.embed_tokens.",
        "backbone.norm_f.": "model.norm." if granite else "model.final_layernorm.",
    }
    inside = {
        "norm": "input_layernorm",
        "norm2": "post_attention_layernorm" if granite else "pre_ff_layernorm",
        "mlp.fc1": "shared_mlp.input_linear" if granite else "mlp.fc1",
        "mlp.fc2": "shared_mlp.output_linear" if granite else "feed_forward.down_proj",
    }
    result: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        for ours, theirs in outside.items():
            name = name.replace(ours, theirs)
        if not name.startswith("backbone.layers."):
            result[name] = tensor
            continue
        number, _, own = name.removeprefix("backbone.layers.").partition(".")
        module, _, kind = own.rpartition(".")
        layer = config.layers[int(number)]
        if module == "mlp.fc1" and not granite:
            parts = torch.split(tensor, [mlp.d_intermediate] * 2)
            spelt = {
                f"feed_forward.{n}_proj": p.clone()
                for n, p in zip(("gate", "up"), parts, strict=True)
            }
        elif own.startswith("mixer.") and isinstance(block := layer.mixer, AttentionConfig):
            spelt = _attention_tensors(module, tensor, block)
        else:
            plain = inside.get(module, module)
            spelt = {
                "mamba" + plain.removeprefix("mixer") if own.startswith("mixer") else plain: tensor
            }
        result |= {f"model.layers.{number}.{m}.{kind}": t for m, t in spelt.items()}
    return result


def _attention_tensors(
    module: str, tensor: torch.Tensor, block: AttentionConfig
) -> dict[str, torch.Tensor]:
    if module == "mixer.out_proj":
        return {"self_attn.o_proj": tensor}
    parts = torch.split(tensor, [block.d_queries, block.d_keys, block.d_keys])
    return {f"self_attn.{n}_proj": p.clone() for n, p in zip("qkv", parts, strict=True)}
