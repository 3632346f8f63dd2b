"""mamba-ssm's own layout: config.json with d_model, n_layer, ssm_cfg ..., and pytorch_model.bin.

A key of ours, `task`, makes a classifier or forecaster of it. Tensor names are the canonical ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ssmpress.blocks.config import NORM_EPS, LayerConfig, ModelConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD
from ssmpress.checkpoint.dialects.json_reader import JsonReader
from ssmpress.tasks import task_of

NAME = "mamba-ssm"
WEIGHTS = "pytorch_model.bin"
KEYS: Mapping[str, str] = {"d_inner": "expand", "proj_bias": "bias"}

_ONLY = "ssmpress handles pure Mamba-1 models; use one."
_SSM_KEYS = {
    "layer",
    "d_state",
    "d_conv",
    "expand",
    "dt_rank",
    "conv_bias",
    "bias",
} | {
    # only used to draw initial weights or to choose a kernel
    *("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path")
}


def speaks(values: Mapping[str, Any]) -> bool:
    """It says d_model."""
    other = "hidden_size" in values or values.get("model_type", "mamba") != "mamba"
    return "d_model" in values and not other


def parse(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Read the object of a config.json.

    Raises:
        BadInputError: it is no pure Mamba-1, or a key has a wrong type or value.
    """
    reader = JsonReader(values, where)
    if values.get("d_intermediate", 0) != 0:
        raise reader.fail("d_intermediate", "0 (no MLP between the mixers)", _ONLY)
    if values.get("attn_layer_idx") not in (None, []):
        raise reader.fail("attn_layer_idx", "[] (no attention layers)", _ONLY)
    if not reader.boolean("rms_norm", True):
        raise reader.fail("rms_norm", "true (LayerNorm is not supported)", _ONLY)
    limits = ModelConfig.limits
    d_model = reader.integer("d_model", limit=limits["d_model"])
    task = task_of(values)
    layer = LayerConfig(mixer=_mixer(reader.object("ssm_cfg"), d_model))
    return ModelConfig(
        task=task,
        d_model=d_model,
        layers=(layer,) * reader.integer("n_layer", limit=limits["n_layer"]),
        vocab_size=_padded_vocabulary(reader) if task.reads_tokens else 0,
        tie_embeddings=reader.boolean("tie_embeddings", True),
    )


def _mixer(ssm: JsonReader, d_model: int) -> Mamba1Config:
    if ssm.values.get("layer", "Mamba1") != "Mamba1":
        raise ssm.fail("layer", "'Mamba1'", _ONLY)
    if unknown := sorted(set(ssm.values) - _SSM_KEYS):
        raise ssm.fail(unknown[0], "a setting of Mamba-1 or nothing", _ONLY)
    limits = Mamba1Config.limits
    return Mamba1Config(
        d_state=ssm.integer("d_state", 16, limits["d_state"]),
        d_conv=ssm.integer("d_conv", 4, limits["d_conv"]),
        d_inner=ssm.expanded(d_model, limits["d_inner"]),
        dt_rank=ssm.rank("dt_rank", d_model, limits["dt_rank"]),
        conv_bias=ssm.boolean("conv_bias", True),
        proj_bias=ssm.boolean("bias", False),
    )


def _padded_vocabulary(reader: JsonReader) -> int:
    limit = ModelConfig.limits["vocab_size"]
    rows = reader.integer("vocab_size", limit=limit)
    multiple = reader.integer("pad_vocab_size_multiple", 8, limit)
    return math.ceil(rows / multiple) * multiple


def problem(config: ModelConfig) -> str:
    """Another norm_eps than mamba-ssm's, layers that differ, or blocks that it has not."""
    if config.norm_eps != NORM_EPS:
        return (
            f"norm_eps {config.norm_eps}: mamba-ssm's layout has no key for it and its models use "
            f"{NORM_EPS}. Write the Hugging Face layout instead."
        )
    mixer = config.layers[0].mixer
    equal = len(set(config.layers)) == 1 and config.layers[0].mlp is None
    if not equal or not isinstance(mixer, Mamba1Config) or mixer.dbc_norm_eps is not None:
        return "layers: mamba-ssm's layout has equal Mamba-1 layers only, without norms inside."
    return ""


def config_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `parse` reads back and mamba-ssm loads."""
    mixer = config.layers[0].mixer
    assert isinstance(mixer, Mamba1Config)
    expand: float = mixer.d_inner / config.d_model
    while int(expand * config.d_model) < mixer.d_inner:  # the quotient was rounded down
        expand = math.nextafter(expand, math.inf)
    task = {"task": config.task.to_dict()}
    return ({} if config.is_language_model else task) | {
        "d_model": config.d_model,
        "d_intermediate": 0,
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {
            "layer": "Mamba1",
            "d_state": mixer.d_state,
            "d_conv": mixer.d_conv,
            "expand": int(expand) if expand == int(expand) else expand,
            "dt_rank": mixer.dt_rank,
            "conv_bias": mixer.conv_bias,
            "bias": mixer.proj_bias,
        },
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8 if config.vocab_size % 8 == 0 else 1,
        "tie_embeddings": config.tie_embeddings,
    }


def canonical(name: str) -> str:
    """The name itself."""
    return name


def spelled(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The canonical names. A tied head is there too: mamba-ssm's load_state_dict is strict; its
    storage is the embedding's."""
    head = {LM_HEAD: tensors[EMBEDDING]} if config.tie_embeddings else {}
    return {**tensors, **head}
