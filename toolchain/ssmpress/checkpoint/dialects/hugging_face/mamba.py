"""`mamba`, and `falcon_mamba`, which has RMS norms without weights over delta, B and C in every
mixer; its tensors have the same names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssmpress.blocks.config import NORM_EPS, LayerConfig, ModelConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.checkpoint.dialects.hugging_face import names
from ssmpress.checkpoint.dialects.json_reader import JsonReader

KEYS: Mapping[str, str] = {
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "d_inner": "expand",
    "dt_rank": "time_step_rank",
    "conv_bias": "use_conv_bias",
    "proj_bias": "use_bias",
    "dbc_norm_eps": "mixer_rms_eps",
}
RENAMES = {"embeddings": "embedding"}
_FALCON = "falcon_mamba"
TYPES: tuple[str, ...] = ("mamba", _FALCON)
_MIXER_EPS = 1e-6  # transformers' own where config.json does not say mixer_rms_eps
_OTHER_LAYOUT = "Write the mamba-ssm layout instead."


def parse(reader: JsonReader) -> ModelConfig:
    """Read the object of a config.json.

    Raises:
        BadInputError: a key has a wrong type or value.
    """
    limits = ModelConfig.limits
    d_model = reader.integer("hidden_size", limit=limits["d_model"])
    layer = LayerConfig(mixer=_mixer(reader, d_model))
    return ModelConfig(
        d_model=d_model,
        layers=(layer,) * reader.integer("num_hidden_layers", limit=limits["n_layer"]),
        vocab_size=reader.integer("vocab_size", limit=limits["vocab_size"]),
        tie_embeddings=reader.boolean("tie_word_embeddings", True),
        norm_eps=reader.number("layer_norm_epsilon", NORM_EPS),
    )


def _mixer(reader: JsonReader, d_model: int) -> Mamba1Config:
    limits = Mamba1Config.limits
    falcon = reader.values.get("model_type") == _FALCON
    return Mamba1Config(
        d_state=reader.integer("state_size", 16, limits["d_state"]),
        d_conv=reader.integer("conv_kernel", 4, limits["d_conv"]),
        d_inner=_d_inner(reader, d_model, falcon),
        dt_rank=reader.rank("time_step_rank", d_model, limits["dt_rank"]),
        conv_bias=reader.boolean("use_conv_bias", True),
        proj_bias=reader.boolean("use_bias", False),
        dbc_norm_eps=reader.number("mixer_rms_eps", _MIXER_EPS) if falcon else None,
    )


def _d_inner(reader: JsonReader, d_model: int, falcon: bool) -> int:
    """The inner width: transformers takes intermediate_size, whatever expand says. In a
    Mamba two that disagree are damage; FalconMamba's expand is nothing that anybody reads."""
    limit = Mamba1Config.limits["d_inner"]
    if "intermediate_size" not in reader.values:
        return reader.expanded(d_model, limit)
    stated = reader.integer("intermediate_size", limit=limit)
    if "expand" in reader.values and not falcon:
        expected = reader.expanded(d_model, limit)
        if stated != expected:
            raise reader.fail("intermediate_size", f"{expected} = expand * hidden_size")
    return stated


def problem(config: ModelConfig) -> str:
    """Layers that differ, or a width that is no multiple."""
    mixer = config.layers[0].mixer
    plain = len(set(config.layers)) == 1 and config.layers[0] == LayerConfig(mixer=mixer)
    if not plain or not isinstance(mixer, Mamba1Config):
        return "layers: Hugging Face's layout of Mamba has equal Mamba-1 layers only."
    if mixer.dbc_norm_weights:
        return "dbc_norm_weights: Hugging Face's layout of Mamba has none."
    if mixer.d_inner % config.d_model:
        return (
            f"d_inner {mixer.d_inner}: Hugging Face's layout needs a multiple of d_model "
            f"{config.d_model}. {_OTHER_LAYOUT}"
        )
    return ""


def config_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `parse` reads back and transformers loads."""
    mixer = config.layers[0].mixer
    assert isinstance(mixer, Mamba1Config)
    falcon = mixer.dbc_norm_eps is not None
    own = {"mixer_rms_eps": mixer.dbc_norm_eps} if falcon else {}
    return own | {
        "architectures": ["FalconMambaForCausalLM" if falcon else "MambaForCausalLM"],
        "model_type": _FALCON if falcon else "mamba",
        "state_size": mixer.d_state,
        "conv_kernel": mixer.d_conv,
        "expand": mixer.d_inner // config.d_model,
        "intermediate_size": mixer.d_inner,
        "time_step_rank": mixer.dt_rank,
        "use_conv_bias": mixer.conv_bias,
        "use_bias": mixer.proj_bias,
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": True,
    }


def arranged(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The embedding has another name."""
    return names.renamed(tensors, RENAMES)


def spelled(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The inverse; a tied head is left out, as transformers does."""
    return names.renamed(tensors, {ours: theirs for theirs, ours in RENAMES.items()})
