"""What a Mamba-1 checkpoint consists of: ModelConfig, config.json in both layouts, tensor shapes.

Two layouts hold the same model. mamba-ssm writes d_model, n_layer, ssm_cfg ...; Hugging Face
writes hidden_size, num_hidden_layers, state_size ... Everything after this module sees a
ModelConfig and mamba-ssm's tensor names. No torch here: shapes are tuples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ssmpress.errors import BadInputError
from ssmpress.tasks import Task, task_of
from ssmpress.tasks.language_model import LanguageModel

LIMITS = {
    "d_model": 1 << 16,
    "n_layer": 1 << 10,
    "vocab_size": 1 << 22,
    "d_state": 1 << 10,
    "d_conv": 1 << 6,
    "d_inner": 1 << 18,
    "dt_rank": 1 << 16,
}
"""Largest value of each size, ten times what any published model has: checked before anything
is allocated, so that a damaged config.json gives a sentence and not an exhausted memory."""

EMBEDDING, LM_HEAD = "backbone.embedding.weight", "lm_head.weight"
PATCH_EMBEDDING, HEAD = "backbone.patch_embedding", "head"  # .weight and .bias
NORM_EPS = 1e-5  # mamba-ssm has no key for it and always uses this

_Axis = tuple[str, ...]  # fields whose sum is the size of one axis; "1" is one
_LAYER: dict[str, tuple[_Axis, ...]] = {
    "norm.weight": (("d_model",),),
    "mixer.A_log": (("d_inner",), ("d_state",)),
    "mixer.D": (("d_inner",),),
    "mixer.in_proj.weight": (("d_inner", "d_inner"), ("d_model",)),
    "mixer.in_proj.bias": (("d_inner", "d_inner"),),
    "mixer.conv1d.weight": (("d_inner",), ("1",), ("d_conv",)),
    "mixer.conv1d.bias": (("d_inner",),),
    "mixer.x_proj.weight": (("dt_rank", "d_state", "d_state"), ("d_inner",)),
    "mixer.dt_proj.weight": (("d_inner",), ("dt_rank",)),
    "mixer.dt_proj.bias": (("d_inner",),),
    "mixer.out_proj.weight": (("d_model",), ("d_inner",)),
    "mixer.out_proj.bias": (("d_model",),),
}
_OPTIONAL = {
    "mixer.in_proj.bias": "proj_bias",
    "mixer.out_proj.bias": "proj_bias",
    "mixer.conv1d.bias": "conv_bias",
}
_JSON_KEYS = {
    "mamba-ssm": {"d_inner": "expand", "proj_bias": "bias"},
    "huggingface": {
        "d_model": "hidden_size",
        "n_layer": "num_hidden_layers",
        "d_state": "state_size",
        "d_conv": "conv_kernel",
        "d_inner": "expand",
        "dt_rank": "time_step_rank",
        "conv_bias": "use_conv_bias",
        "proj_bias": "use_bias",
        "tie_embeddings": "tie_word_embeddings",
    },
}
_OTHER_LAYOUT = "Write the mamba-ssm layout instead."
_SSM_KEYS = {"layer", "d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias"} | {
    # only used to draw initial weights or to choose a kernel
    *("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path")
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sizes of a Mamba-1 model and its task; checked when built.

    Args:
        d_model: width of the residual stream.
        n_layer: number of blocks.
        vocab_size: rows of the embedding, padding included; 0 in a forecaster, which has none.
        d_state: state per channel. d_conv: convolution taps. d_inner: channels of the mixer.
        dt_rank: rank of the delta projection.
        conv_bias: the convolution has a bias. proj_bias: in_proj and out_proj have one.
        tie_embeddings: lm_head is the embedding; False where there is no lm_head.
        norm_eps: of every RMS norm.
        task: what the model predicts.
        channels: of each layer's mixer once dead ones are gone; none means d_inner everywhere.
            No checkpoint has it.

    Raises:
        BadInputError: a size is not an integer from 1 to LIMITS, a flag not a bool, or norm_eps
            not a finite positive number.
    """

    d_model: int
    n_layer: int
    vocab_size: int
    d_state: int = 16
    d_conv: int = 4
    d_inner: int
    dt_rank: int
    conv_bias: bool = True
    proj_bias: bool = False
    tie_embeddings: bool = True
    norm_eps: float = NORM_EPS
    task: Task = field(default_factory=LanguageModel)
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        reader = _Reader(asdict(self), "model configuration")
        for name, limit in LIMITS.items():
            if name != "vocab_size" or self.has_vocabulary:
                reader.integer(name, limit=limit)
        for name in ("conv_bias", "proj_bias", "tie_embeddings"):
            reader.boolean(name, False)
        if self.task.outputs:  # its head has a shape of its own
            object.__setattr__(self, "tie_embeddings", False)
        reader.number("norm_eps", NORM_EPS)

    @property
    def is_language_model(self) -> bool:
        """The model is what a checkpoint without a `task` block is for."""
        return self.task == LanguageModel()

    @property
    def has_vocabulary(self) -> bool:
        """The model reads tokens; a forecaster reads numbers."""
        return self.task.reads_tokens

    @property
    def patch(self) -> int:
        """Time steps per token of a forecaster."""
        return self.task.patch

    @property
    def outputs(self) -> int:
        """Rows of the head of a classifier or forecaster."""
        return self.task.outputs

    def channels_of(self, layer: int) -> int:
        """Channels of that layer's mixer."""
        return self.channels[layer] if self.channels else self.d_inner

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON; without `task` in a language model, and without
        `channels` where there are none."""
        values = asdict(self) | {"task": self.task.to_dict()}
        if not self.channels:
            del values["channels"]
        if self.is_language_model:
            del values["task"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of to_dict, for what a checkpoint holds: without `channels`.

        Raises:
            BadInputError: a field is unknown, missing or out of range.
        """
        names = {item.name for item in fields(cls)} - {"channels"}
        if unknown := sorted(set(values) - names):
            raise BadInputError(
                f"model configuration: expected only {', '.join(sorted(names))}; "
                f"got {unknown[0]!r}. Write it with the same version of ssmpress."
            )
        task = task_of(values)
        for name in ("d_model", "n_layer", "d_inner", "dt_rank"):
            _Reader(values, "model configuration").integer(name)
        return cls(**{"vocab_size": 0, **values, "task": task})


class _Reader:
    """Typed access to a JSON object, with errors that name the key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def fail(self, key: str, expected: str, advice: str = "") -> BadInputError:
        value = self.values.get(key, "nothing")
        got = repr(value) if key in self.values else value
        got = got if len(got) <= 60 else got[:57] + "..."
        return BadInputError(
            f"{self.where}: {ascii(key[:60])[1:-1]}: expected {expected}; got {got}. "
            + (advice or "Correct it, or take the file that came with the weights.")
        )

    def integer(self, key: str, default: int | None = None, limit: int = 1 << 31) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise self.fail(key, f"an integer from 1 to {limit}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise self.fail(key, "a positive number")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def rank(self, key: str, d_model: int) -> int:
        if self.values.get(key, "auto") == "auto":
            return math.ceil(d_model / 16)
        return self.integer(key, limit=LIMITS["dt_rank"])


def parse_config(values: Mapping[str, Any], path: Path) -> tuple[ModelConfig, str]:
    """Read the object of a config.json.

    Args:
        values: the parsed object.
        path: its file, for messages.

    Returns:
        The configuration, and the layout: "mamba-ssm" or "huggingface".

    Raises:
        BadInputError: it is no Mamba-1 language model, or a key has a wrong type or value.
    """
    reader = _Reader(values, str(path))
    if "model_type" in values and values["model_type"] != "mamba":
        raise reader.fail("model_type", "'mamba' (Mamba-1)", "Use a Mamba-1 checkpoint.")
    if "hidden_size" in values:
        return _parse_huggingface(reader), "huggingface"
    if "d_model" in values:
        return _parse_mamba_ssm(reader), "mamba-ssm"
    raise BadInputError(
        f"{path}: expected mamba-ssm's keys (d_model, n_layer, vocab_size) or Hugging Face's "
        f"(hidden_size, num_hidden_layers, state_size); got {', '.join(sorted(values)[:5]) or '{}'}"
        ". Take the config.json that came with the weights."
    )


def _parse_mamba_ssm(reader: _Reader) -> ModelConfig:
    values = reader.values
    only = "ssmpress handles pure Mamba-1 models; use one."
    if values.get("d_intermediate", 0) != 0:
        raise reader.fail("d_intermediate", "0 (no MLP between the mixers)", only)
    if values.get("attn_layer_idx") not in (None, []):
        raise reader.fail("attn_layer_idx", "[] (no attention layers)", only)
    if not reader.boolean("rms_norm", True):
        raise reader.fail("rms_norm", "true (LayerNorm is not supported)", only)
    ssm = values.get("ssm_cfg") or {}
    if not isinstance(ssm, dict):
        raise reader.fail("ssm_cfg", "an object")
    inner = _Reader(ssm, f"{reader.where}: ssm_cfg")
    if ssm.get("layer", "Mamba1") != "Mamba1":
        raise inner.fail("layer", "'Mamba1'", only)
    if unknown := sorted(set(ssm) - _SSM_KEYS):
        raise inner.fail(unknown[0], "a setting of Mamba-1 or nothing", only)
    d_model = reader.integer("d_model", limit=LIMITS["d_model"])
    task = task_of(values)
    return ModelConfig(
        task=task,
        d_model=d_model,
        n_layer=reader.integer("n_layer", limit=LIMITS["n_layer"]),
        vocab_size=_padded_vocabulary(reader) if task.reads_tokens else 0,
        d_state=inner.integer("d_state", 16, LIMITS["d_state"]),
        d_conv=inner.integer("d_conv", 4, LIMITS["d_conv"]),
        d_inner=_d_inner(inner, d_model),
        dt_rank=inner.rank("dt_rank", d_model),
        conv_bias=inner.boolean("conv_bias", True),
        proj_bias=inner.boolean("bias", False),
        tie_embeddings=reader.boolean("tie_embeddings", True),
    )


def _padded_vocabulary(reader: _Reader) -> int:
    rows = reader.integer("vocab_size", limit=LIMITS["vocab_size"])
    multiple = reader.integer("pad_vocab_size_multiple", 8, LIMITS["vocab_size"])
    return math.ceil(rows / multiple) * multiple


def _parse_huggingface(reader: _Reader) -> ModelConfig:
    values = reader.values
    if "task" in values:
        raise reader.fail("task", "no such key in Hugging Face's layout", _OTHER_LAYOUT)
    if values.get("hidden_act", "silu") not in ("silu", "swish"):
        raise reader.fail("hidden_act", "'silu'", "ssmpress handles Mamba-1's activation only.")
    d_model = reader.integer("hidden_size", limit=LIMITS["d_model"])
    d_inner = _d_inner(reader, d_model)
    if "intermediate_size" in values:
        stated = reader.integer("intermediate_size", limit=LIMITS["d_inner"])
        if "expand" in values and stated != d_inner:
            expected = f"{d_inner} = expand * hidden_size"
            raise reader.fail("intermediate_size", expected)
        d_inner = stated
    return ModelConfig(
        d_model=d_model,
        n_layer=reader.integer("num_hidden_layers", limit=LIMITS["n_layer"]),
        vocab_size=reader.integer("vocab_size", limit=LIMITS["vocab_size"]),
        d_state=reader.integer("state_size", 16, LIMITS["d_state"]),
        d_conv=reader.integer("conv_kernel", 4, LIMITS["d_conv"]),
        d_inner=d_inner,
        dt_rank=reader.rank("time_step_rank", d_model),
        conv_bias=reader.boolean("use_conv_bias", True),
        proj_bias=reader.boolean("use_bias", False),
        tie_embeddings=reader.boolean("tie_word_embeddings", True),
        norm_eps=reader.number("layer_norm_epsilon", NORM_EPS),
    )


def _d_inner(reader: _Reader, d_model: int) -> int:
    """int(expand * d_model), as both libraries compute it."""
    d_inner = int(reader.number("expand", 2) * d_model)
    if not 1 <= d_inner <= LIMITS["d_inner"]:
        expected = f"expand * {d_model} from 1 to {LIMITS['d_inner']}"
        raise reader.fail("expand", expected)
    return d_inner


def config_json(config: ModelConfig, layout: str) -> dict[str, Any]:
    """The config.json that parse_config reads back, and the layout's own library loads.

    Args:
        config: the model.
        layout: "mamba-ssm" or "huggingface".

    Raises:
        BadInputError: the layout has no way to say it (norm_eps in mamba-ssm's, a d_inner that is
            no multiple of d_model in Hugging Face's).
    """
    if layout == "mamba-ssm":
        return _mamba_ssm_json(config)
    if not config.is_language_model:
        raise BadInputError(
            f"task {config.task.kind}: Hugging Face's layout has language models only. "
            + _OTHER_LAYOUT
        )
    if config.d_inner % config.d_model:
        raise BadInputError(
            f"d_inner {config.d_inner}: Hugging Face's layout needs a multiple of d_model "
            f"{config.d_model}. Write the mamba-ssm layout instead."
        )
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "vocab_size": config.vocab_size,
        "state_size": config.d_state,
        "conv_kernel": config.d_conv,
        "expand": config.d_inner // config.d_model,
        "intermediate_size": config.d_inner,
        "time_step_rank": config.dt_rank,
        "use_conv_bias": config.conv_bias,
        "use_bias": config.proj_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": True,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
    }


def _mamba_ssm_json(config: ModelConfig) -> dict[str, Any]:
    if config.norm_eps != NORM_EPS:
        raise BadInputError(
            f"norm_eps {config.norm_eps}: mamba-ssm's layout has no key for it and its models use "
            f"{NORM_EPS}. Write the Hugging Face layout instead."
        )
    expand: float = config.d_inner / config.d_model
    while int(expand * config.d_model) < config.d_inner:  # the quotient was rounded down
        expand = math.nextafter(expand, math.inf)
    task = {"task": config.task.to_dict()}
    return ({} if config.is_language_model else task) | {
        "d_model": config.d_model,
        "d_intermediate": 0,
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {
            "layer": "Mamba1",
            "d_state": config.d_state,
            "d_conv": config.d_conv,
            "expand": int(expand) if expand == int(expand) else expand,
            "dt_rank": config.dt_rank,
            "conv_bias": config.conv_bias,
            "bias": config.proj_bias,
        },
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8 if config.vocab_size % 8 == 0 else 1,
        "tie_embeddings": config.tie_embeddings,
    }


def json_key(field: str, layout: str) -> str:
    """How config.json of a layout calls a field of ModelConfig."""
    if field in ("patch", "outputs"):
        return "task"
    return _JSON_KEYS.get(layout, {}).get(field, field)


def tensor_axes(config: ModelConfig) -> dict[str, tuple[_Axis, ...]]:
    """Canonical tensor name -> for each axis the fields of ModelConfig whose sum is its size."""
    vocabulary: tuple[_Axis, ...] = (("vocab_size",), ("d_model",))
    axes: dict[str, tuple[_Axis, ...]] = {EMBEDDING: vocabulary}
    if not config.has_vocabulary:
        axes = {
            f"{PATCH_EMBEDDING}.weight": (("d_model",), ("patch",)),
            f"{PATCH_EMBEDDING}.bias": (("d_model",),),
        }
    for layer in range(config.n_layer):
        for name, layer_axes in _LAYER.items():
            if name not in _OPTIONAL or getattr(config, _OPTIONAL[name]):
                axes[f"backbone.layers.{layer}.{name}"] = layer_axes
    axes["backbone.norm_f.weight"] = (("d_model",),)
    if config.outputs:
        axes[f"{HEAD}.weight"] = (("outputs",), ("d_model",))
        axes[f"{HEAD}.bias"] = (("outputs",),)
    elif not config.tie_embeddings:
        axes[LM_HEAD] = vocabulary
    return axes


def axis_size(config: ModelConfig, axis: _Axis) -> int:
    """The size of one axis of tensor_axes."""
    return sum(1 if field == "1" else getattr(config, field) for field in axis)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical tensor name -> shape: every tensor the model has, and no other.

    The names are mamba-ssm's. `lm_head.weight` is there only if the embeddings are not tied.
    """
    return {
        name: tuple(axis_size(config, axis) for axis in axes)
        for name, axes in tensor_axes(config).items()
    }


def optional_field(name: str) -> str | None:
    """The flag of ModelConfig that decides whether a tensor exists, e.g. conv_bias."""
    if name == LM_HEAD:
        return "tie_embeddings"
    return _OPTIONAL.get(re.sub(r"^backbone\.layers\.\d+\.", "", name))


def infer_config(shapes: Mapping[str, tuple[int, ...]], where: str) -> ModelConfig:
    """The configuration that a state dict's shapes tell; norm_eps they do not, it is NORM_EPS.

    Args:
        shapes: canonical names -> shapes.
        where: the file, for messages.

    Raises:
        BadInputError: the tensors that tell are missing, or are not Mamba-1's.
    """
    first = "backbone.layers.0.mixer."
    if len(shapes.get(first + "A_log", ())) == 1:
        raise BadInputError(
            f"{where}: {first}A_log: expected 2 axes (Mamba-1); got 1, as in Mamba-2. "
            "ssmpress handles Mamba-1 only; use such a checkpoint."
        )
    found = []
    for name, rank in {EMBEDDING: 2, "A_log": 2, "conv1d.weight": 3, "dt_proj.weight": 2}.items():
        name = name if name == EMBEDDING else first + name
        if len(shapes.get(name, ())) != rank:
            raise BadInputError(
                f"{where}: expected the state dict of a Mamba-1 language model with "
                f"{name} of {rank} axes; got {shapes.get(name, 'no such tensor')}. "
                "Save model.state_dict() of a MambaLMHeadModel or MambaForCausalLM."
            )
        found.append(shapes[name])
    embedding, a_log, conv, dt_proj = found
    numbers = [re.match(r"backbone\.layers\.(\d{1,9})\.", name) for name in shapes]
    return ModelConfig(
        d_model=embedding[1],
        n_layer=1 + max(int(number[1]) for number in numbers if number),
        vocab_size=embedding[0],
        d_state=a_log[1],
        d_conv=conv[2],
        d_inner=a_log[0],
        dt_rank=dt_proj[1],
        conv_bias=first + "conv1d.bias" in shapes,
        proj_bias=first + "in_proj.bias" in shapes,
        tie_embeddings=LM_HEAD not in shapes,
    )
