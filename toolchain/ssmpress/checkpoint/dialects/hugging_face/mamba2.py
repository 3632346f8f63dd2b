"""`mamba2`: Mamba-2 language models, Codestral's too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.blocks.config import NORM_EPS, LayerConfig, ModelConfig
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.checkpoint.dialects.hugging_face import mamba
from ssmpress.checkpoint.dialects.hugging_face.mamba2_mixer import plain_mixer
from ssmpress.checkpoint.dialects.json_reader import JsonReader, limits_json

TYPES: tuple[str, ...] = ("mamba2",)
KEYS: Mapping[str, str] = {
    "heads": "num_heads",
    "d_inner": "num_heads",
    "d_skip": "num_heads",
    "d_groups": "n_groups",
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "conv_bias": "use_conv_bias",
    "proj_bias": "use_bias",
}
# The tensors have the names that Mamba-1's have.
arranged, spelled = mamba.arranged, mamba.spelled


def parse(reader: JsonReader) -> ModelConfig:
    """Read the object of a config.json.

    Raises:
        BadInputError: a key has a wrong type or value.
    """
    limits = ModelConfig.limits
    eps = reader.number("layer_norm_epsilon", NORM_EPS)
    mixer = plain_mixer(reader, eps, "num_heads", "head_dim", "state_size")
    d_model = reader.integer("hidden_size", limit=limits["d_model"])
    if reader.expanded(d_model, 1 << 31) != mixer.d_inner:
        raise reader.fail(
            "expand", f"num_heads * head_dim / hidden_size, {mixer.d_inner / d_model}"
        )
    layers = reader.integer("num_hidden_layers", limit=limits["n_layer"])
    return ModelConfig(
        d_model=d_model,
        layers=(LayerConfig(mixer=mixer),) * layers,
        vocab_size=reader.integer("vocab_size", limit=limits["vocab_size"]),
        tie_embeddings=reader.boolean("tie_word_embeddings", False),
        norm_eps=eps,
    )


def problem(config: ModelConfig) -> str:
    """Other layers than equal ones of Mamba-2, or what its config.json has no word for."""
    mixer = config.layers[0].mixer
    plain = len(set(config.layers)) == 1 and config.layers[0] == LayerConfig(mixer=mixer)
    if not plain or not isinstance(mixer, Mamba2Config):
        return "layers: the layout of mamba2 has equal Mamba-2 layers only."
    if (config.embedding_scale, config.logits_scale) != (1, 1):
        return "embedding_scale, logits_scale: the layout of mamba2 has none."
    if mixer.d_inner % config.d_model:
        return f"d_inner {mixer.d_inner}: expected a multiple of d_model {config.d_model}."
    if config.norm_eps != mixer.norm_eps:
        return f"norm_eps {mixer.norm_eps}: the layout of mamba2 has one for all norms."
    return mixer_problem(mixer)


def mixer_problem(mixer: Mamba2Config) -> str:
    """What Hugging Face's Mamba-2 mixers have no word for; empty if nothing."""
    if mixer.d_per_channel:
        return "d_per_channel: Hugging Face's Mamba-2 has one D per head."
    if not mixer.gated_norm or not mixer.gate_first or mixer.norm_groups != mixer.n_groups:
        return "gated_norm: Hugging Face's Mamba-2 gates first, with a norm of every group."
    if mixer.in_scales:
        return "in_scales: Hugging Face's Mamba-2 has them in Falcon-H1 only."
    return ""


def config_json(config: ModelConfig) -> dict[str, Any]:
    """What `parse` reads back."""
    mixer = config.layers[0].mixer
    assert isinstance(mixer, Mamba2Config)
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "num_heads": mixer.heads,
        "head_dim": mixer.head_dim,
        "state_size": mixer.d_state,
        "n_groups": mixer.n_groups,
        "conv_kernel": mixer.d_conv,
        "expand": mixer.d_inner // config.d_model,
        "use_conv_bias": mixer.conv_bias,
        "use_bias": mixer.proj_bias,
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": True,
    } | limits_json("time_step_limit", mixer.dt_min, mixer.dt_max)
