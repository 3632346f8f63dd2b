"""`jamba` without experts: Mamba-1 with norms of delta, B and C, or attention, then a gated MLP.

Attention has no positions (NoPE), and stands in every `attn_layer_period`th layer. The norms have
weights, unlike FalconMamba's.

Source: arXiv 2403.19887.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.checkpoint.dialects.hugging_face import attention, layers
from ssmpress.checkpoint.dialects.json_reader import JsonReader
from ssmpress.checkpoint.dialects.mixers import mixers_of

TYPES: tuple[str, ...] = ("jamba",)
KEYS: Mapping[str, str] = {
    **attention.KEYS,
    "d_inner": "mamba_expand",
    "d_state": "mamba_d_state",
    "d_conv": "mamba_d_conv",
    "dt_rank": "mamba_dt_rank",
    "conv_bias": "mamba_conv_bias",
    "proj_bias": "mamba_proj_bias",
    "d_intermediate": "intermediate_size",
}
_INSIDE = {"dt_layernorm": "dt_norm", "b_layernorm": "B_norm", "c_layernorm": "C_norm"}


def parse(reader: JsonReader) -> ModelConfig:
    """Read the object of a config.json.

    Raises:
        BadInputError: a key has a wrong type or value, or says what no block here can do.
    """
    limits = ModelConfig.limits
    if reader.values.get("num_experts", 16) != 1:
        raise reader.fail(
            "num_experts", "1", "Mixtures of experts are not supported; use a dense model."
        )
    reader.chosen("mamba_inner_layernorms", True)
    attention.check_window(reader)
    d_model = reader.integer("hidden_size", limit=limits["d_model"])
    eps = reader.number("rms_norm_eps", 1e-6)
    mlp = GatedMlpConfig(
        d_intermediate=reader.integer(
            "intermediate_size", 14336, GatedMlpConfig.limits["d_intermediate"]
        ),
        gate_first=True,
    )
    mamba = LayerConfig(mixer=_mamba(reader, d_model, eps), mlp=mlp)
    attends = LayerConfig(mixer=_attention(reader, d_model), mlp=mlp)
    count = reader.integer("num_hidden_layers", limit=limits["n_layer"])
    period = reader.integer("attn_layer_period", 8)
    offset = reader.values.get("attn_layer_offset", 4)
    if type(offset) is not int or not 0 <= offset < period:
        raise reader.fail("attn_layer_offset", f"an integer from 0 to {period - 1}")
    return ModelConfig(
        d_model=d_model,
        layers=tuple(attends if n % period == offset else mamba for n in range(count)),
        vocab_size=reader.integer("vocab_size", limit=limits["vocab_size"]),
        tie_embeddings=reader.boolean("tie_word_embeddings", False),
        norm_eps=eps,
    )


def _mamba(reader: JsonReader, d_model: int, eps: float) -> Mamba1Config:
    sizes = Mamba1Config.limits
    return Mamba1Config(
        d_inner=reader.integer("mamba_expand", 2, sizes["d_inner"]) * d_model,
        d_state=reader.integer("mamba_d_state", 16, sizes["d_state"]),
        d_conv=reader.integer("mamba_d_conv", 4, sizes["d_conv"]),
        dt_rank=reader.rank("mamba_dt_rank", d_model, sizes["dt_rank"]),
        conv_bias=reader.boolean("mamba_conv_bias", True),
        proj_bias=reader.boolean("mamba_proj_bias", False),
        dbc_norm_eps=eps,
        dbc_norm_weights=True,
    )


def _attention(reader: JsonReader, d_model: int) -> AttentionConfig:
    heads, shared = attention.heads(reader)
    width = attention.head_dim(reader, d_model // heads)
    return AttentionConfig(heads=heads, kv_heads=shared, head_dim=width, scale=width**-0.5)


def problem(config: ModelConfig) -> str:
    """Layers of other kinds or sizes, or what its config.json has no word for."""
    mlp = config.layers[0].mlp
    alike = all(layer == LayerConfig(mixer=layer.mixer, mlp=mlp) for layer in config.layers)
    plain = isinstance(mlp, GatedMlpConfig) and mlp == GatedMlpConfig(
        d_intermediate=mlp.d_intermediate, gate_first=True
    )
    if not alike or not plain:
        return "layers: a Jamba has the same gated MLP, gate first, without biases, in every layer."
    mamba, attends = mixers_of(config, Mamba1Config), mixers_of(config, AttentionConfig)
    known = len(mamba) + len(attends)
    if len({layer.mixer for layer in config.layers}) != known or len(mamba) != 1:
        return "layers: a Jamba has Mamba-1 layers of one size, and attention."
    if not mamba[0].dbc_norm_weights or mamba[0].dbc_norm_eps != config.norm_eps:
        return "layers: a Jamba has norms of delta, B and C with weights, and one norm_eps."
    if mamba[0].d_inner % config.d_model:
        return f"d_inner {mamba[0].d_inner}: a Jamba has a multiple of d_model {config.d_model}."
    if (config.embedding_scale, config.logits_scale) != (1, 1):
        return "embedding_scale, logits_scale: a Jamba has none."
    if why := attention.plain_problem(attends, "a Jamba"):
        return why
    if _places(config) is None:
        return "layers: a Jamba has attention in layers of equal distance."
    return ""


def _places(config: ModelConfig) -> tuple[int, int] | None:
    """Period and offset of the layers with attention; None if there are none for them."""
    count = config.n_layer
    numbers = [n for n in range(count) if isinstance(config.layers[n].mixer, AttentionConfig)]
    first = numbers[0] if numbers else count
    period = numbers[1] - first if len(numbers) > 1 else count + 1
    fits = first < period and numbers == list(range(first, count, period))
    return (period, first) if fits else None


def config_json(config: ModelConfig) -> dict[str, Any]:
    """What `parse` reads back."""
    (mixer,), attends = mixers_of(config, Mamba1Config), mixers_of(config, AttentionConfig)
    mlp, places = config.layers[0].mlp, _places(config)
    assert isinstance(mlp, GatedMlpConfig) and places
    values: dict[str, Any] = {
        "architectures": ["JambaForCausalLM"],
        "model_type": "jamba",
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "attn_layer_period": places[0],
        "attn_layer_offset": places[1],
        "mamba_d_state": mixer.d_state,
        "mamba_d_conv": mixer.d_conv,
        "mamba_expand": mixer.d_inner // config.d_model,
        "mamba_dt_rank": mixer.dt_rank,
        "mamba_conv_bias": mixer.conv_bias,
        "mamba_proj_bias": mixer.proj_bias,
        "intermediate_size": mlp.d_intermediate,
        "rms_norm_eps": config.norm_eps,
    }
    return values | (attention.heads_json(attends[0]) if attends else attention.NO_HEADS)


def arranged(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other names, and queries, keys and values, gate and up joined to one matrix each."""
    return layers.arranged(tensors, "mixer", _INSIDE)


def spelled(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The inverse of `arranged`."""
    return layers.spelled(tensors, config, {ours: theirs for theirs, ours in _INSIDE.items()})
