"""What a configuration's model has: its tensors, which of them are matrices, and its states.

Everything that holds a tensor of a model asks here what it is: name and shape, layer, use. Names
are mamba-ssm's; what is inside a block is the block's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.facts import Axis, BlockConfig
from ssmpress.states import StateTensor

EMBEDDING, LM_HEAD = "backbone.embedding.weight", "lm_head.weight"
PATCH_EMBEDDING, HEAD = "backbone.patch_embedding", "head"  # .weight and .bias
LAST_NORM = "backbone.norm_f"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a model: what the sizes of its axes are called, and who has them.

    flag: the field without which the tensor does not exist; None is always there.
    block: that the tensor is in; None outside of all.
    """

    axes: tuple[Axis, ...]
    flag: str | None
    config: ModelConfig
    block: BlockConfig | None = None

    def size(self, name: str) -> int:
        """The value of one of the names in `axes`."""
        owner = self.block if hasattr(self.block, name) else self.config
        value: int = 1 if name == "1" else getattr(owner, name)
        return value

    @property
    def shape(self) -> tuple[int, ...]:
        """Each axis is the sum of its sizes."""
        return tuple(sum(map(self.size, axis)) for axis in self.axes)


def tensor_specs(config: ModelConfig, *, absent: bool = False) -> dict[str, TensorSpec]:
    """Canonical tensor name -> what it is: every tensor the model has, and no other.

    Args:
        absent: those too that the model would have if a flag were set otherwise.
    """
    return {
        name: spec
        for name, spec in _all_tensors(config)
        if absent or spec.flag is None or _exists(spec)
    }


def _exists(spec: TensorSpec) -> bool:
    assert spec.flag is not None
    if spec.flag == "tie_embeddings":  # a tied head is the embedding
        return not spec.config.tie_embeddings
    if spec.flag == "rms_norm":  # only LayerNorm has biases
        return spec.config.norm == "layer"
    return bool(getattr(spec.block, spec.flag))


def _all_tensors(config: ModelConfig) -> Iterator[tuple[str, TensorSpec]]:
    def own(*axes: Axis, flag: str | None = None) -> TensorSpec:
        return TensorSpec(axes, flag, config)

    if config.has_vocabulary:
        yield EMBEDDING, own(("vocab_size",), ("d_model",))
    else:
        yield f"{PATCH_EMBEDDING}.weight", own(("d_model",), ("patch",))
        yield f"{PATCH_EMBEDDING}.bias", own(("d_model",))
    for number, layer in enumerate(config.layers):
        for part in layer.parts():
            yield layer_name(number, f"{part.norm}.weight"), own(("d_model",))
            yield layer_name(number, f"{part.norm}.bias"), own(("d_model",), flag="rms_norm")
            for name, facts in part.block.tensors().items():
                spec = TensorSpec(facts.axes, facts.flag, config, part.block)
                yield layer_name(number, f"{part.name}.{name}"), spec
    yield f"{LAST_NORM}.weight", own(("d_model",))
    yield f"{LAST_NORM}.bias", own(("d_model",), flag="rms_norm")
    if config.outputs:
        yield f"{HEAD}.weight", own(("outputs",), ("d_model",))
        yield f"{HEAD}.bias", own(("outputs",))
    else:
        yield LM_HEAD, own(("vocab_size",), ("d_model",), flag="tie_embeddings")


def layer_name(number: int, name: str) -> str:
    """The canonical name of what is called `name` in a layer, such as `mixer.A_log`."""
    return f"backbone.layers.{number}.{name}"


def number_of_layer(name: str) -> int | None:
    """The layer that a canonical name is in; None outside the layers."""
    match = re.match(r"backbone\.layers\.(\d{1,9})\.", name)
    return int(match[1]) if match else None


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical tensor name -> shape: every tensor the model has, and no other.

    The names are mamba-ssm's. `lm_head.weight` is there only if the embeddings are not tied.
    """
    return {name: spec.shape for name, spec in tensor_specs(config).items()}


# ---- matrices ----


class Role(StrEnum):
    """What a matrix is for."""

    PROJECTION = "projection"
    EMBEDDING = "embedding"
    LM_HEAD = "lm_head"
    TASK = "task"
    """The ends of a classifier or forecaster, next to the numbers that go in and come out."""


@dataclass(frozen=True)
class MatrixSpec:
    """A tensor that x is multiplied with, or whose rows are read: what packing packs.

    component: what people call it, such as `in_proj` or `embedding`; in a layer each once, so that
        of two mixers the second has `beside.in_proj`.
    layer: its number, None outside. input: projections of a layer with the same word multiply the
        same x; empty outside. transposed: the tensor holds it as (columns, rows). reads_input: x is
        what the caller gives, whose columns may be of any size.
    """

    role: Role
    component: str
    layer: int | None = None
    input: str = ""
    transposed: bool = False
    reads_input: bool = False

    @property
    def prunable(self) -> bool:
        """Whether it may be pruned, if somebody asks."""
        return self.role is not Role.TASK


def matrix_specs(config: ModelConfig) -> dict[str, MatrixSpec]:
    """Canonical name -> what it is, of every matrix the model has, in the checkpoint's order."""
    specs = {
        EMBEDDING: MatrixSpec(Role.EMBEDDING, "embedding"),
        f"{PATCH_EMBEDDING}.weight": MatrixSpec(Role.TASK, "patch_embedding"),
    }
    for number, layer in enumerate(config.layers):
        for part in layer.parts():
            for component, facts in part.block.projections().items():
                name = layer_name(number, f"{part.name}.{component}.weight")
                last = component.rpartition(".")[2]
                called = f"{part.name}.{last}" if part.name == "beside" else last
                specs[name] = MatrixSpec(
                    Role.PROJECTION, called, number, f"{part.name}.{facts.input}"
                )
    specs[f"{HEAD}.weight"] = MatrixSpec(Role.TASK, "head")
    specs[LM_HEAD] = MatrixSpec(Role.LM_HEAD, "lm_head")
    return {name: specs[name] for name in tensor_specs(config) if name in specs}


@dataclass(frozen=True)
class Weights:
    """What a model's tensors are, as prune/ asks of a model: see `prune.model.Weights`."""

    matrices: Mapping[str, MatrixSpec]
    shapes: Mapping[str, tuple[int, ...]]
    never_pruned: Mapping[str, str]


def weights_of(config: ModelConfig) -> Weights:
    """What the tensors of a configuration's model are."""
    blocks = (part.block for layer in config.layers for part in layer.parts())
    never = {name: reason for block in blocks for name, reason in block.never_pruned.items()}
    return Weights(matrix_specs(config), tensor_shapes(config), never)


def head_name(config: ModelConfig) -> str | None:
    """The matrix that scores the next token; None where the task has a head of its own."""
    if config.outputs:
        return None
    return EMBEDDING if config.tie_embeddings else LM_HEAD


# ---- states ----


def layer_states(layer: LayerConfig, number: int) -> tuple[StateTensor, ...]:
    """What a layer carries to the next token, by the names that a bundle has for it."""
    return tuple(
        replace(state, name=f"{state.name}.{number}")
        for part in layer.parts()
        for state in part.block.states()
    )


def state_tensors(config: ModelConfig) -> tuple[StateTensor, ...]:
    """What the model carries to the next token, in the order of layers."""
    return tuple(
        state for number, layer in enumerate(config.layers) for state in layer_states(layer, number)
    )
