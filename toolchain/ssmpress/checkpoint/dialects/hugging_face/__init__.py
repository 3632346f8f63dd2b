"""Hugging Face's layout: config.json with model_type, hidden_size ..., and model.safetensors.

Each family of models is a file of this folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssmpress.blocks.config import ModelConfig
from ssmpress.checkpoint.dialects.hugging_face import (
    falcon_h1,
    hybrid,
    jamba,
    mamba,
    mamba2,
    names,
    nemotron_h,
)
from ssmpress.checkpoint.dialects.hugging_face.family import Family
from ssmpress.checkpoint.dialects.json_reader import JsonReader

NAME = "huggingface"
WEIGHTS = "model.safetensors"
FAMILIES: tuple[Family, ...] = (mamba, mamba2, hybrid, nemotron_h, falcon_h1, jamba)
_KEYS: Mapping[str, str] = {
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "tie_embeddings": "tie_word_embeddings",
}
"""Of all families."""
_ALONE: Mapping[str, Family] = {"mamba1": mamba, "mamba2": mamba2}
"""Block -> the family that has no other."""
_OTHER_LAYOUT = "Write the mamba-ssm layout instead."


def speaks(values: Mapping[str, Any]) -> bool:
    """It says hidden_size, or the model_type of another model than Mamba-1."""
    return "hidden_size" in values or values.get("model_type", "mamba") != "mamba"


def parse(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Read the object of a config.json.

    Raises:
        BadInputError: no such model can be run, or a key has a wrong type or value.
    """
    reader = JsonReader(values, where)
    kind = values.get("model_type", "mamba")
    family = next((family for family in FAMILIES if kind in family.TYPES), None)
    if family is None:
        known = " or ".join(repr(kind) for family in FAMILIES for kind in family.TYPES)
        raise reader.fail("model_type", known, "Use a checkpoint of such a model.")
    if "task" in values:
        raise reader.fail("task", "no such key in Hugging Face's layout", _OTHER_LAYOUT)
    if values.get("hidden_act", "silu") not in ("silu", "swish"):
        raise reader.fail("hidden_act", "'silu'", "No other activation is supported.")
    return family.parse(reader)


def problem(config: ModelConfig) -> str:
    """Another task, or no family that can say it."""
    if not config.is_language_model:
        return (
            f"task {config.task.kind}: Hugging Face's layout has language models only. "
            + _OTHER_LAYOUT
        )
    if config.norm != "rms":
        return f"norm {config.norm}: Hugging Face's layout has RMS norms only. {_OTHER_LAYOUT}"
    return _family(config).problem(config)


def _family(config: ModelConfig) -> Family:
    """The family that can say it, or the one that comes nearest."""
    able = (family for family in FAMILIES if not family.problem(config))
    return next(able, _nearest(config))


def _nearest(config: ModelConfig) -> Family:
    kinds = {part.block.kind for layer in config.layers for part in layer.parts()}
    if len(kinds) == 1 and kinds <= _ALONE.keys():
        return _ALONE[kinds.pop()]
    if any(layer.beside for layer in config.layers):
        return falcon_h1
    if "mamba1" in kinds:
        return jamba
    return nemotron_h if "squared_relu_mlp" in kinds else hybrid


def keys(config: ModelConfig) -> Mapping[str, str]:
    """Those of all families and of its own."""
    return {**_KEYS, **_family(config).KEYS}


def config_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `parse` reads back and transformers loads."""
    return _family(config).config_json(config) | {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "vocab_size": config.vocab_size,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
    }


def canonical(name: str) -> str:
    """The embedding of the models that call their layers `backbone` has another name."""
    return names.rename(name, mamba.RENAMES)


def arranged(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The same, asked of the checkpoint's family."""
    return _family(config).arranged(tensors)


def spelled(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The same, asked of the checkpoint's family."""
    return _family(config).spelled(tensors, config)
