"""`nemotron_h` without experts: a block in each layer, Mamba-2, attention or an MLP.

Which one is said by `layers_block_type`, or by `hybrid_override_pattern` in older files, a letter
per layer. Attention has no positions (NoPE). Of the limits of dt only `time_step_limit` counts, as
in NVIDIA's own code: transformers raises the steps of a prefill, not those of decoding, to
time_step_min too, which is only meant for the first weights (its pull request 48989).

Source: arXiv 2504.03624.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.config import NORM_EPS, LayerConfig, ModelConfig
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.squared_relu_mlp import SquaredReluMlpConfig
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD, layer_name
from ssmpress.checkpoint.dialects.hugging_face import attention, names
from ssmpress.checkpoint.dialects.hugging_face.mamba2 import mixer_problem
from ssmpress.checkpoint.dialects.hugging_face.mamba2_mixer import plain_mixer
from ssmpress.checkpoint.dialects.json_reader import JsonReader, limits_json
from ssmpress.checkpoint.dialects.mixers import mixers_of

TYPES: tuple[str, ...] = ("nemotron_h",)
KEYS: Mapping[str, str] = {
    **attention.KEYS,
    "heads": "mamba_num_heads",
    "head_dim": "mamba_head_dim",
    "d_inner": "mamba_num_heads",
    "d_skip": "mamba_num_heads",
    "d_groups": "n_groups",
    "d_state": "ssm_state_size",
    "d_conv": "conv_kernel",
    "conv_bias": "use_conv_bias",
    "proj_bias": "use_bias",
    "d_intermediate": "intermediate_size",
}
_LETTERS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
_KINDS = {
    "linear_attention": Mamba2Config,
    "mamba": Mamba2Config,
    "full_attention": AttentionConfig,
    "attention": AttentionConfig,
    "mlp": SquaredReluMlpConfig,
}
"""A layer's kind, in newer and in older files -> its block."""
_NO_EXPERTS = "Mixtures of experts are not supported; use a dense model."
_LEAST_STEP = 1e-12
"""What is written as time_step_min: nothing that transformers would raise a step to."""
_RENAMES = {
    "model.embeddings": "backbone.embedding",
    "model.layers": "backbone.layers",
    "model.norm_f": "backbone.norm_f",
    "backbone.embeddings": "backbone.embedding",
    "mixer.o_proj": "mixer.out_proj",
    "mixer.up_proj": "mixer.fc1",
    "mixer.down_proj": "mixer.fc2",
}
_SPELLED = {
    "backbone.embedding": "backbone.embeddings",
    "mixer.fc1": "mixer.up_proj",
    "mixer.fc2": "mixer.down_proj",
}


def parse(reader: JsonReader) -> ModelConfig:
    """Read the object of a config.json.

    Raises:
        BadInputError: a key has a wrong type or value, or says what no block here can do.
    """
    limits = ModelConfig.limits
    eps = reader.number("layer_norm_epsilon", NORM_EPS)
    blocks = (_mamba(reader, eps), _attention(reader), _mlp(reader))
    layers = {type(block): LayerConfig(mixer=block) for block in blocks}
    attention.check_window(reader)
    reader.chosen("num_nextn_predict_layers", 0)
    return ModelConfig(
        d_model=reader.integer("hidden_size", limit=limits["d_model"]),
        layers=tuple(layers[_KINDS[kind]] for kind in _layer_kinds(reader)),
        vocab_size=reader.integer("vocab_size", limit=limits["vocab_size"]),
        tie_embeddings=reader.boolean("tie_word_embeddings", False),
        norm_eps=eps,
    )


def _layer_kinds(reader: JsonReader) -> list[str]:
    """The kind of each layer; transformers takes the list where a file has the pattern too."""
    key, kinds = "hybrid_override_pattern", reader.values.get("hybrid_override_pattern")
    if isinstance(kinds, str):
        kinds = [_LETTERS.get(letter, letter) for letter in kinds]
    for name in ("layer_types", "layers_block_type"):
        if reader.values.get(name) is not None:
            key, kinds = name, reader.values[name]
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise reader.fail(key, "the kinds of all layers")
    if "moe" in kinds:
        raise reader.fail(key, "no layers of experts", _NO_EXPERTS)
    if not kinds or not set(kinds) <= set(_KINDS):
        raise reader.fail(key, f"for each layer one of {', '.join(map(repr, _KINDS))}")
    count = reader.integer("num_hidden_layers", len(kinds), ModelConfig.limits["n_layer"])
    if count != len(kinds):
        raise reader.fail("num_hidden_layers", f"{len(kinds)}, the layers of {key}")
    return kinds


def _mamba(reader: JsonReader, eps: float) -> Mamba2Config:
    reader.chosen("mamba_hidden_act", "silu", "swish")
    reader.chosen("mamba_proj_bias", False)  # use_bias is what counts
    return plain_mixer(reader, eps, "mamba_num_heads", "mamba_head_dim", "ssm_state_size")


def _attention(reader: JsonReader) -> AttentionConfig:
    reader.chosen("attention_bias", False)
    heads, shared = attention.heads(reader)
    width = attention.head_dim(reader, 128, "attention_head_dim")
    return AttentionConfig(heads=heads, kv_heads=shared, head_dim=width, scale=width**-0.5)


def _mlp(reader: JsonReader) -> SquaredReluMlpConfig:
    reader.chosen("mlp_hidden_act", "relu2")
    limit = SquaredReluMlpConfig.limits["d_intermediate"]
    return SquaredReluMlpConfig(
        d_intermediate=reader.integer("intermediate_size", 21504, limit),
        proj_bias=reader.boolean("mlp_bias", False),
    )


def problem(config: ModelConfig) -> str:
    """Layers of several blocks or of several sizes, or what its config.json has no word for."""
    if any(layer != LayerConfig(mixer=layer.mixer) for layer in config.layers):
        return "layers: a Nemotron-H has one block in each layer."
    mamba, attends, mlps = _blocks(config)
    known = len(mamba) + len(attends) + len(mlps)
    if len({layer.mixer for layer in config.layers}) != known or len(mamba) != 1:
        return "layers: a Nemotron-H has Mamba-2 of one size, attention and squared-ReLU MLPs."
    if len(mlps) > 1:
        return "layers: a Nemotron-H has MLPs of one size."
    if (config.embedding_scale, config.logits_scale) != (1, 1):
        return "embedding_scale, logits_scale: a Nemotron-H has none."
    if why := attention.plain_problem(attends, "a Nemotron-H"):
        return why
    if mamba[0].norm_eps != config.norm_eps:
        return f"norm_eps {mamba[0].norm_eps}: a Nemotron-H has one for all norms."
    return mixer_problem(mamba[0])


def _blocks(
    config: ModelConfig,
) -> tuple[list[Mamba2Config], list[AttentionConfig], list[SquaredReluMlpConfig]]:
    """Each block once, by kind."""
    mamba, attends = mixers_of(config, Mamba2Config), mixers_of(config, AttentionConfig)
    return mamba, attends, mixers_of(config, SquaredReluMlpConfig)


def config_json(config: ModelConfig) -> dict[str, Any]:
    """What `parse` reads back; the layers' kinds in the newer and the older spelling."""
    (mamba,), attends, mlps = _blocks(config)
    newest = {block: kind for kind, block in reversed(_KINDS.items())}
    kinds = [newest[type(layer.mixer)] for layer in config.layers]
    letters = {kind: letter for letter, kind in _LETTERS.items()}
    values: dict[str, Any] = {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "layers_block_type": kinds,
        "hybrid_override_pattern": "".join(letters[kind] for kind in kinds),
        "mamba_num_heads": mamba.heads,
        "mamba_head_dim": mamba.head_dim,
        "ssm_state_size": mamba.d_state,
        "n_groups": mamba.n_groups,
        "conv_kernel": mamba.d_conv,
        "use_conv_bias": mamba.conv_bias,
        "use_bias": mamba.proj_bias,
        "layer_norm_epsilon": config.norm_eps,
        "time_step_min": max(mamba.dt_min, _LEAST_STEP),
    } | limits_json("time_step_limit", mamba.dt_min, mamba.dt_max)
    for block in attends:
        values |= attention.heads_json(block)
    for mlp in mlps:
        values |= {"intermediate_size": mlp.d_intermediate, "mlp_bias": mlp.proj_bias}
    return values


def arranged(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other names, and queries, keys and values joined to one matrix."""
    joins = {"mixer.in_proj": attention.joined_parts("mixer")}
    return names.joined(names.renamed(tensors, _RENAMES), joins)


def spelled(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """The inverse of `arranged`. A tied head is there too: transformers does not tie it."""
    parts: dict[str, dict[str, int]] = {}
    for number, layer in enumerate(config.layers):
        if isinstance(block := layer.mixer, AttentionConfig):
            parts[layer_name(number, "mixer.in_proj")] = attention.in_parts(block, "mixer")
            parts[layer_name(number, "mixer.out_proj")] = {"mixer.o_proj": config.d_model}
    head = {LM_HEAD: tensors[EMBEDDING].clone()} if config.tie_embeddings else {}
    return names.renamed(names.separated(tensors, parts), _SPELLED) | head
