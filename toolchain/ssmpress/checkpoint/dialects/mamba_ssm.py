"""mamba-ssm's own layout: config.json with d_model, n_layer, ssm_cfg ..., and pytorch_model.bin.

A key of ours, `task`, makes a classifier or forecaster of it. Tensor names are the canonical ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.config import NORM_EPS, LayerConfig, ModelConfig
from ssmpress.blocks.facts import BlockConfig
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD
from ssmpress.checkpoint.dialects.json_reader import JsonReader, limits_json
from ssmpress.checkpoint.dialects.mixers import mixers_of
from ssmpress.tasks import task_of

NAME = "mamba-ssm"
WEIGHTS = "pytorch_model.bin"
_KEYS: Mapping[str, str] = {
    "heads": "headdim",
    "head_dim": "headdim",
    "d_inner": "expand",
    "d_skip": "D_has_hdim",
    "d_groups": "ngroups",
    "n_groups": "ngroups",
    "proj_bias": "bias",
    "gated_norm": "rmsnorm",
    "d_queries": "num_heads",
    "d_keys": "num_heads_kv",
    "qkv_bias": "qkv_proj_bias",
    "out_bias": "out_proj_bias",
}

_LEARNT = {"dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init"}
"""Only used to draw initial weights."""
_RUN = {"use_fast_path", "use_mem_eff_path", "chunk_size"}
"""Only used to choose a kernel."""
_SSM_KEYS = {
    "Mamba1": {"d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias"},
    "Mamba2": {
        *("d_state", "d_conv", "expand", "headdim", "d_ssm", "ngroups", "D_has_hdim", "rmsnorm"),
        *("norm_before_gate", "dt_limit", "conv_bias", "bias"),
    },
}
"""Layer -> settings that say what it computes."""
_ATTENTION_KEYS = {
    *("num_heads", "num_heads_kv", "head_dim", "qkv_proj_bias", "out_proj_bias", "softmax_scale"),
    *("causal", "d_conv", "mlp_dim", "rotary_emb_dim", "rotary_emb_base", "rotary_emb_interleaved"),
}
_MLP_MULTIPLE = 128
"""mamba-ssm rounds d_intermediate up to a multiple of it."""


def speaks(values: Mapping[str, Any]) -> bool:
    """It says d_model."""
    other = "hidden_size" in values or values.get("model_type", "mamba") != "mamba"
    return "d_model" in values and not other


def parse(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Read the object of a config.json.

    Raises:
        BadInputError: it says what no block here can do, or a key has a wrong type or value.
    """
    reader = JsonReader(values, where)
    limits = ModelConfig.limits
    d_model = reader.integer("d_model", limit=limits["d_model"])
    task = task_of(values)
    return ModelConfig(
        task=task,
        d_model=d_model,
        layers=_layers(reader, d_model),
        vocab_size=_padded_vocabulary(reader) if task.reads_tokens else 0,
        tie_embeddings=reader.boolean("tie_embeddings", True),
        norm="rms" if reader.boolean("rms_norm", True) else "layer",
    )


def _layers(reader: JsonReader, d_model: int) -> tuple[LayerConfig, ...]:
    """Mamba in all layers but those of attn_layer_idx; an MLP in each if d_intermediate says so."""
    count = reader.integer("n_layer", limit=ModelConfig.limits["n_layer"])
    attended = reader.values.get("attn_layer_idx") or []
    whole = isinstance(attended, list) and all(type(number) is int for number in attended)
    if not whole or not set(attended) <= set(range(count)):
        raise reader.fail("attn_layer_idx", f"numbers of layers, from 0 to {count - 1}")
    mlp = None
    if reader.values.get("d_intermediate", 0) != 0:
        width = reader.integer("d_intermediate", limit=GatedMlpConfig.limits["d_intermediate"])
        mlp = GatedMlpConfig(d_intermediate=-(-width // _MLP_MULTIPLE) * _MLP_MULTIPLE)
    mamba = LayerConfig(mixer=_mixer(reader.object("ssm_cfg"), d_model), mlp=mlp)
    if not attended:
        return (mamba,) * count
    attention = LayerConfig(mixer=_attention(reader.object("attn_cfg"), d_model), mlp=mlp)
    return tuple(attention if number in attended else mamba for number in range(count))


def _mixer(ssm: JsonReader, d_model: int) -> BlockConfig:
    layer = ssm.values.get("layer", "Mamba1")
    if layer not in _SSM_KEYS:
        raise ssm.fail("layer", " or ".join(map(repr, _SSM_KEYS)))
    if unknown := sorted(set(ssm.values) - _SSM_KEYS[layer] - _LEARNT - _RUN - {"layer"}):
        raise ssm.fail(unknown[0], f"a setting of {layer} or nothing")
    if layer == "Mamba2":
        return _mamba2(ssm, d_model)
    limits = Mamba1Config.limits
    return Mamba1Config(
        d_state=ssm.integer("d_state", 16, limits["d_state"]),
        d_conv=ssm.integer("d_conv", 4, limits["d_conv"]),
        d_inner=ssm.expanded(d_model, limits["d_inner"]),
        dt_rank=ssm.rank("dt_rank", d_model, limits["dt_rank"]),
        conv_bias=ssm.boolean("conv_bias", True),
        proj_bias=ssm.boolean("bias", False),
    )


def _mamba2(ssm: JsonReader, d_model: int) -> Mamba2Config:
    sizes = Mamba2Config.limits
    d_inner = ssm.expanded(d_model, sizes["heads"] * sizes["head_dim"])
    if ssm.values.get("d_ssm") not in (None, d_inner):
        raise ssm.fail("d_ssm", f"null or {d_inner} (no MLP inside the mixer)")
    width = ssm.integer("headdim", 64, sizes["head_dim"])
    if d_inner % width:
        raise ssm.fail("headdim", f"a divisor of the {d_inner} channels that expand gives")
    groups = ssm.integer("ngroups", 1, sizes["n_groups"])
    low, high = ssm.limits("dt_limit")
    return Mamba2Config(
        heads=d_inner // width,
        head_dim=width,
        d_state=ssm.integer("d_state", 128, sizes["d_state"]),
        n_groups=groups,
        norm_groups=groups,
        d_conv=ssm.integer("d_conv", 4, sizes["d_conv"]),
        conv_bias=ssm.boolean("conv_bias", True),
        proj_bias=ssm.boolean("bias", False),
        d_per_channel=ssm.boolean("D_has_hdim", False),
        gated_norm=ssm.boolean("rmsnorm", True),
        gate_first=not ssm.boolean("norm_before_gate", False),
        dt_min=low,
        dt_max=high,
    )


def _attention(attn: JsonReader, d_model: int) -> AttentionConfig:
    if unknown := sorted(set(attn.values) - _ATTENTION_KEYS):
        raise attn.fail(unknown[0], "a setting of mamba-ssm's MHA or nothing")
    attn.chosen("d_conv", 0)
    attn.chosen("mlp_dim", 0)
    attn.chosen("rotary_emb_interleaved", False)
    if not attn.boolean("causal", False):
        raise attn.fail("causal", "true", "A language model's attention sees no later tokens.")
    sizes = AttentionConfig.limits
    heads = attn.integer("num_heads", limit=sizes["heads"])
    width, shared = d_model // heads, heads
    if attn.values.get("head_dim") is not None:
        width = attn.integer("head_dim", limit=sizes["head_dim"])
    if width < 1:
        raise attn.fail("num_heads", "no more heads than d_model has channels")
    if attn.values.get("num_heads_kv") is not None:
        shared = attn.integer("num_heads_kv", limit=sizes["kv_heads"])
    scale = width**-0.5
    if attn.values.get("softmax_scale") is not None:
        scale = attn.number("softmax_scale", 1.0)
    turned = attn.values.get("rotary_emb_dim", 0)
    return AttentionConfig(
        heads=heads,
        kv_heads=shared,
        head_dim=width,
        scale=scale,
        rotary_dim=attn.integer("rotary_emb_dim", limit=width) if turned else 0,
        rope_theta=attn.number("rotary_emb_base", 10000.0),
        qkv_bias=attn.boolean("qkv_proj_bias", True),
        out_bias=attn.boolean("out_proj_bias", True),
    )


def _padded_vocabulary(reader: JsonReader) -> int:
    limit = ModelConfig.limits["vocab_size"]
    rows = reader.integer("vocab_size", limit=limit)
    multiple = reader.integer("pad_vocab_size_multiple", 8, limit)
    return math.ceil(rows / multiple) * multiple


def keys(config: ModelConfig) -> Mapping[str, str]:
    """The same for every model: fields of one name have one key, whatever block they are of."""
    return _KEYS


def problem(config: ModelConfig) -> str:
    """Another norm_eps than mamba-ssm's, layers of several sizes, or blocks that it has not."""
    if config.norm_eps != NORM_EPS:
        return (
            f"norm_eps {config.norm_eps}: mamba-ssm's layout has no key for it and its models use "
            f"{NORM_EPS}. Write the Hugging Face layout instead."
        )
    if (config.embedding_scale, config.logits_scale) != (1, 1):
        return "embedding_scale, logits_scale: mamba-ssm's layout has none."
    mamba, attention = _mixers(config)
    mixers = {layer.mixer for layer in config.layers}
    if len(mamba) != 1 or len(attention) > 1 or len(mixers) != len(mamba) + len(attention):
        return "layers: mamba-ssm's layout has Mamba layers of one size, and attention of one size."
    if isinstance(mamba[0], Mamba1Config) and mamba[0].dbc_norm_eps is not None:
        return "layers: mamba-ssm's Mamba-1 has no norms inside."
    if isinstance(mamba[0], Mamba2Config) and (
        mamba[0].norm_groups != mamba[0].n_groups or mamba[0].norm_eps != NORM_EPS
    ):
        return f"layers: mamba-ssm's Mamba-2 has a norm of every group, with {NORM_EPS}."
    if isinstance(mamba[0], Mamba2Config) and mamba[0].in_scales:
        return "in_scales: mamba-ssm's Mamba-2 has none."
    mlp = config.layers[0].mlp
    plain = mlp is None or mlp == GatedMlpConfig(d_intermediate=_mlp_width(config))
    if (
        any(layer != LayerConfig(mixer=layer.mixer, mlp=mlp) for layer in config.layers)
        or not plain
    ):
        return "layers: mamba-ssm's layout has one MLP, gate last and without biases, or none."
    if _mlp_width(config) % _MLP_MULTIPLE:
        return f"d_intermediate: mamba-ssm's layout has multiples of {_MLP_MULTIPLE}."
    return ""


def _mlp_width(config: ModelConfig) -> int:
    """Of the MLP in every layer, 0 without one."""
    mlp = config.layers[0].mlp
    return mlp.d_intermediate if isinstance(mlp, GatedMlpConfig) else 0


def _mixers(
    config: ModelConfig,
) -> tuple[list[Mamba1Config | Mamba2Config], list[AttentionConfig]]:
    """Each mixer once: Mamba's, and attention's."""
    return mixers_of(config, Mamba1Config, Mamba2Config), mixers_of(config, AttentionConfig)


def config_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `parse` reads back and mamba-ssm loads."""
    (mixer,), attention = _mixers(config)
    one = isinstance(mixer, Mamba1Config)
    task = {"task": config.task.to_dict()}
    kinds = [isinstance(layer.mixer, AttentionConfig) for layer in config.layers]
    return ({} if config.is_language_model else task) | {
        "d_model": config.d_model,
        "d_intermediate": _mlp_width(config),
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {"layer": "Mamba1" if one else "Mamba2", "expand": _expand(mixer, config)}
        | {"d_state": mixer.d_state, "d_conv": mixer.d_conv}
        | {"conv_bias": mixer.conv_bias, "bias": mixer.proj_bias}
        | ({"dt_rank": mixer.dt_rank} if isinstance(mixer, Mamba1Config) else _mamba2_json(mixer)),
        "attn_layer_idx": [number for number, attends in enumerate(kinds) if attends],
        "attn_cfg": _attention_json(attention[0]) if attention else {},
        "rms_norm": config.norm == "rms",
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8 if config.vocab_size % 8 == 0 else 1,
        "tie_embeddings": config.tie_embeddings,
    }


def _expand(mixer: Mamba1Config | Mamba2Config, config: ModelConfig) -> int | float:
    """What times d_model, rounded down, is the mixer's width."""
    expand: float = mixer.d_inner / config.d_model
    while int(expand * config.d_model) < mixer.d_inner:  # the quotient was rounded down
        expand = math.nextafter(expand, math.inf)
    return int(expand) if expand == int(expand) else expand


def _mamba2_json(mixer: Mamba2Config) -> dict[str, Any]:
    return {
        "headdim": mixer.head_dim,
        "ngroups": mixer.n_groups,
        "D_has_hdim": mixer.d_per_channel,
        "rmsnorm": mixer.gated_norm,
        "norm_before_gate": not mixer.gate_first,
    } | limits_json("dt_limit", mixer.dt_min, mixer.dt_max)


def _attention_json(block: AttentionConfig) -> dict[str, Any]:
    return {
        "causal": True,
        "num_heads": block.heads,
        "num_heads_kv": block.kv_heads,
        "head_dim": block.head_dim,
        "softmax_scale": block.scale,
        "rotary_emb_dim": block.rotary_dim,
        "rotary_emb_base": block.rope_theta,
        "qkv_proj_bias": block.qkv_bias,
        "out_proj_bias": block.out_bias,
    }


def canonical(name: str) -> str:
    """The name itself."""
    return name


def arranged(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The tensors as they are: these are the canonical names."""
    return dict(tensors)


def spelled(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The canonical names. A tied head is there too: mamba-ssm's load_state_dict is strict; its
    storage is the embedding's."""
    head = {LM_HEAD: tensors[EMBEDDING]} if config.tie_embeddings else {}
    return {**tensors, **head}
