"""What a model consists of: layers of blocks between an embedding and a head, and its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple

from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.facts import (
    BlockConfig,
    check_eps,
    check_flags,
    config_error,
)
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.norm import NORMS
from ssmpress.blocks.squared_relu_mlp import SquaredReluMlpConfig
from ssmpress.errors import BadInputError
from ssmpress.tasks import BlockTask, LanguageModel, task_of

_SCALES = ("embedding_scale", "logits_scale")
_LAYER_SCALES = ("residual_scale", "mixer_scale", "beside_scale", "mlp_scale")

NORM_EPS = 1e-5  # mamba-ssm has no key for it and always uses this

BLOCKS: dict[str, type[BlockConfig]] = {
    block.kind: block
    for block in (Mamba1Config, Mamba2Config, AttentionConfig, GatedMlpConfig, SquaredReluMlpConfig)
}
"""Every block by the name that a configuration gives it."""


class Part(NamedTuple):
    """A block in its layer: scale * module(norm(x)) is added to the residual stream.

    name, norm: of the two modules in the layer. Parts that follow each other with the same norm
    stand side by side: each reads what the norm returned before the first of them.
    """

    name: str
    norm: str
    block: BlockConfig
    scale: float


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """A layer: x + mixer(norm(x)), then, where it has an MLP, x + mlp(norm2(x)).

    Args:
        beside: a second mixer, where it has one: x + mixer(norm(x)) + beside(norm(x)).
        residual_scale: what all blocks' outputs are multiplied with before they are added.
        mixer_scale, beside_scale, mlp_scale: what that block's output is multiplied with besides.

    Raises:
        BadInputError: a scale is not a positive number, or both mixers have a state of one name.
    """

    mixer: BlockConfig
    beside: BlockConfig | None = None
    mlp: BlockConfig | None = None
    residual_scale: float = 1.0
    mixer_scale: float = 1.0
    beside_scale: float = 1.0
    mlp_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in _LAYER_SCALES:
            check_eps(name, getattr(self, name))
        states = [state.name for part in self.parts() for state in part.block.states()]
        if len(set(states)) != len(states):
            kind = self.beside.kind if self.beside else None
            raise config_error("beside", "a block with other states than the mixer's", kind)

    def parts(self) -> tuple[Part, ...]:
        """Its blocks in the order in which they run."""
        parts = (
            ("mixer", "norm", self.mixer, self.mixer_scale),
            ("beside", "norm", self.beside, self.beside_scale),
            ("mlp", "norm2", self.mlp, self.mlp_scale),
        )
        return tuple(
            Part(name, norm, block, self.residual_scale * scale)
            for name, norm, block, scale in parts
            if block is not None
        )

    def with_blocks(self, blocks: Mapping[str, BlockConfig]) -> LayerConfig:
        """The layer with other blocks in some of its parts, by the parts' names."""
        changes: Any = blocks
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sizes of a model and its task; checked when built.

    Args:
        d_model: width of the residual stream.
        vocab_size: rows of the embedding, padding included; 0 in a forecaster, which has none.
        layers: from the first to the last.
        tie_embeddings: lm_head is the embedding; False where there is no lm_head.
        norm_eps: of the norms before the blocks and of the last one.
        norm: their kind, rms or layer (LayerNorm, which has biases).
        task: what the model predicts.
        embedding_scale: what the rows of the embedding are multiplied with.
        logits_scale: what the head's outputs are multiplied with.

    Raises:
        BadInputError: a size is not an integer from 1 to its limit, a flag not a bool, norm_eps or
            a scale not a finite positive number, or there is no such norm.
    """

    d_model: int
    vocab_size: int
    layers: tuple[LayerConfig, ...]
    tie_embeddings: bool = True
    norm_eps: float = NORM_EPS
    norm: str = "rms"
    task: BlockTask = field(default_factory=LanguageModel)
    embedding_scale: float = 1.0
    logits_scale: float = 1.0

    limits: ClassVar[Mapping[str, int]] = {
        "d_model": 1 << 16,
        "n_layer": 1 << 10,
        "vocab_size": 1 << 22,
    }
    """Largest value of each size, ten times what any published model has: checked before anything
    is allocated, so that a damaged config.json gives a sentence and not an exhausted memory."""

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            value = getattr(self, name)
            needed = name != "vocab_size" or self.has_vocabulary
            if needed and (type(value) is not int or not 1 <= value <= limit):
                raise config_error(name, f"an integer from 1 to {limit}", value)
        check_flags(self, "tie_embeddings")
        for name in ("norm_eps", *_SCALES):
            check_eps(name, getattr(self, name))
        if self.norm not in NORMS:
            raise config_error("norm", " or ".join(NORMS), self.norm)
        if self.task.outputs:  # its head has a shape of its own
            object.__setattr__(self, "tie_embeddings", False)

    @property
    def n_layer(self) -> int:
        """How many layers there are."""
        return len(self.layers)

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

    @property
    def title(self) -> str:
        """Its blocks for people, each kind once: `Mamba-1`."""
        titles = (part.block.title for layer in self.layers for part in layer.parts())
        return " + ".join(dict.fromkeys(titles))

    def summary(self) -> str:
        """The model in words: blocks, task, and the sizes that they have."""
        vocabulary = f", vocabulary {self.vocab_size}" if self.vocab_size else ""
        norm = "" if self.norm == "rms" else ", LayerNorm"
        blocks = dict.fromkeys(part.block for layer in self.layers for part in layer.parts())
        several = len({block.kind for block in blocks}) > 1
        sizes = [
            f"{block.title} " * several
            + ", ".join(f"{name} {getattr(block, name)}" for name in block.limits)
            for block in blocks
        ]
        return (
            f"{self.title}{self.task.summary()}: d_model {self.d_model}, {self.n_layer} layers "
            f"({'; '.join(sizes)}){vocabulary}{norm}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON; without a language model's `task`, and without what
        most models have: `norm` rms, scales of 1."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        values["layers"] = [_layer_dict(layer) for layer in self.layers]
        values["task"] = self.task.to_dict()
        if self.is_language_model:
            del values["task"]
        if self.norm == "rms":
            del values["norm"]
        return {name: v for name, v in values.items() if name not in _SCALES or v != 1}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of to_dict.

        Raises:
            BadInputError: a field is unknown, missing or out of range.
        """
        names = [item.name for item in fields(cls)]
        _check_names(values, names, "")
        layers = values.get("layers")
        if not isinstance(layers, list):
            raise config_error("layers", "a list of layers", values.get("layers", "nothing"))
        return cls(
            **{"d_model": 0, "vocab_size": 0}
            | dict(values)
            | {"layers": tuple(map(_read_layer, layers)), "task": task_of(values)}
        )


def first_difference(config: ModelConfig, other: ModelConfig) -> tuple[str, Any, Any]:
    """The first size in which two configurations differ: its name and both values.

    Raises:
        ValueError: they are equal.
    """
    mine, others = _flat(config), _flat(other)
    for name in dict.fromkeys((*mine, *others)):
        if mine.get(name) != others.get(name):
            return name, mine.get(name), others.get(name)
    raise ValueError("the configurations are equal")


def _flat(config: ModelConfig) -> dict[str, Any]:
    values = config.to_dict()
    layers = values.pop("layers")
    flat = values | {"n_layer": len(layers)}
    for number, layer in enumerate(layers):
        for part, block in layer.items():
            values_of = block if isinstance(block, dict) else {"": block}
            flat |= {f"layers.{number}.{part}.{name}": v for name, v in values_of.items()}
    return flat


def _layer_dict(layer: LayerConfig) -> dict[str, Any]:
    scales = {name: getattr(layer, name) for name in _LAYER_SCALES}
    return {
        part.name: {"block": part.block.kind} | asdict(part.block)  # type: ignore[call-overload]
        for part in layer.parts()
    } | {name: scale for name, scale in scales.items() if scale != 1}


def _read_layer(values: Any) -> LayerConfig:
    if not isinstance(values, Mapping):
        raise config_error("layers", "layers of blocks by name", values)
    _check_names(values, [item.name for item in fields(LayerConfig)], "layers: ")
    read: Any = {
        name: value if name in _LAYER_SCALES else _read_block(value)
        for name, value in ({"mixer": None} | dict(values)).items()
    }
    return LayerConfig(**read)


def _read_block(values: Any) -> BlockConfig:
    kind = values.get("block") if isinstance(values, Mapping) else None
    if kind not in BLOCKS:
        raise config_error("layers: block", " or ".join(BLOCKS), kind)
    block: Any = BLOCKS[kind]
    sizes = {name: value for name, value in values.items() if name != "block"}
    _check_names(sizes, [item.name for item in fields(block)], f"layers: {kind}: ")
    result: BlockConfig = block(**sizes)
    return result


def _check_names(values: Mapping[str, Any], names: list[str], where: str) -> None:
    if unknown := sorted(set(values) - set(names)):
        raise BadInputError(
            f"model configuration: {where}expected only {', '.join(sorted(names))}; "
            f"got {unknown[0]!r}. Write it with the same version of ssmpress."
        )
