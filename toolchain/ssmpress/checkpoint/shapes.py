"""Names and shapes of a checkpoint's tensors: compared with a configuration, or telling one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.facts import config_error
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.tensors import (
    EMBEDDING,
    LAST_NORM,
    LM_HEAD,
    TensorSpec,
    layer_name,
    number_of_layer,
    tensor_specs,
)
from ssmpress.checkpoint.dialects import STATE_DICT, json_key
from ssmpress.checkpoint.found import what_is_there
from ssmpress.checkpoint.names import printable
from ssmpress.errors import BadInputError

_NORM_BIAS = re.compile(r"\bnorm(_f)?\.bias$")
_Shapes = Mapping[str, tuple[int, ...]]


def infer_config(shapes: _Shapes, where: str) -> ModelConfig:
    """The configuration that a state dict's shapes tell; norm_eps they do not, it is NORM_EPS.

    Args:
        shapes: canonical names -> shapes.
        where: the file, for messages.

    Raises:
        BadInputError: the tensors that tell are missing, or are neither Mamba-1's nor Mamba-2's.
    """
    mixer = layer_name(0, "mixer.")
    block = Mamba2Config if len(shapes.get(mixer + "A_log", ())) == 1 else Mamba1Config
    ranks = {mixer + name: rank for name, rank in block.telling.items()}
    for name, rank in {EMBEDDING: 2, **ranks}.items():
        if len(shapes.get(name, ())) != rank:
            raise BadInputError(
                f"{where}: expected the state dict of a Mamba-1 or Mamba-2 language model with "
                f"{name} of {rank} axes; got {shapes.get(name, 'no such tensor')}. "
                f"{what_is_there(shapes)}"
            )
    own = {
        name.removeprefix(mixer): shape for name, shape in shapes.items() if name.startswith(mixer)
    }
    last = max(number for number in map(number_of_layer, shapes) if number is not None)
    if last >= (limit := ModelConfig.limits["n_layer"]):
        raise config_error("n_layer", f"an integer from 1 to {limit}", 1 + last)
    layer = LayerConfig(mixer=block.from_shapes(own))
    return ModelConfig(
        d_model=shapes[EMBEDDING][1],
        vocab_size=shapes[EMBEDDING][0],
        layers=(layer,) * (1 + last),
        tie_embeddings=LM_HEAD not in shapes,
        norm="layer" if f"{LAST_NORM}.bias" in shapes else "rms",
    )


def stored_vocabulary(
    config: ModelConfig, stated: Any, shapes: _Shapes, notes: list[str]
) -> ModelConfig:
    """The configuration with as many tokens as the embedding has rows, if config.json has fewer.

    mamba-ssm pads the vocabulary to a multiple that config.json need not say, and libraries that
    add tokens pad it to another one. What the file holds is what was trained.

    Args:
        stated: vocab_size of config.json, unpadded.
    """
    rows, *_ = shapes.get(EMBEDDING) or (0,)
    if rows == config.vocab_size or not config.has_vocabulary or not rows >= stated:
        return config
    notes.append(
        f"vocabulary of {rows:,}, the rows of {EMBEDDING}, although config.json leads to "
        f"{config.vocab_size:,} (vocab_size {stated:,}, padded)"
    )
    return replace(config, vocab_size=rows)


def check_shapes(shapes: _Shapes, config: ModelConfig, layout: str, where: str) -> None:
    """Compare names and shapes with the configuration; one error says the first difference.

    Args:
        layout: name of the dialect that config.json is in, or STATE_DICT.

    Raises:
        BadInputError: a tensor is missing, unknown, or of another shape.
    """
    guessed: ModelConfig | None = None
    with suppress(BadInputError):  # it only makes messages better
        guessed = infer_config(shapes, where)
    if guessed and guessed.n_layer != config.n_layer:
        key = json_key("n_layer", layout, config)
        raise BadInputError(
            f"{where}: expected {config.n_layer} layers; got weights of {guessed.n_layer}. "
            f"Check {key} in config.json."
        )
    # A head that only repeats the embedding is there or not.
    tied = LM_HEAD not in shapes and config.tie_embeddings
    expected = tensor_specs(replace(config, tie_embeddings=tied))
    possible = tensor_specs(config, absent=True)
    guesses = tensor_specs(guessed, absent=True) if guessed else {}
    wrong = [name for name, spec in expected.items() if shapes.get(name) != spec.shape]
    unknown = [name for name in shapes if name not in expected]
    missing = [name for name in expected if name not in shapes]
    if len(unknown) > 1 and len(missing) > 1 and not any(name in possible for name in unknown):
        raise BadInputError(
            f"{where}: expected the names of a {config.title} language model, such as "
            f"{missing[0]}; got {len(unknown)} tensors of other names, such as "
            f"{printable(unknown[0])}. {what_is_there(shapes)}"
        )
    if different := wrong + unknown:
        first, rest = different[0], len(different) - 1
        problem = (
            _shape_problem(first, shapes.get(first), expected[first], guesses.get(first), layout)
            if wrong
            else _extra_problem(first, possible.get(first), layout, config.title)
        )
        absent = len(missing) == len(different)
        others = f"{rest} more tensors {'are missing' if absent else 'differ'}"
        more = f" ({others}.)" if rest else ""
        raise BadInputError(f"{where}: {problem}{more}")


def _shape_problem(
    name: str,
    got: tuple[int, ...] | None,
    spec: TensorSpec,
    guess: TensorSpec | None,
    layout: str,
) -> str:
    used = list(dict.fromkeys(size for axis in spec.axes for size in axis if size != "1"))
    sizes = ", ".join(f"{size} {spec.size(size)}" for size in used)
    text = f"{name}: expected {spec.shape} for {sizes}; got {got or 'no such tensor'}. "
    if layout == STATE_DICT:
        return text + "The other tensors say so; the file is incomplete or another model."
    if got is None:
        key = json_key(spec.flag, layout, spec.config) if spec.flag else None
        return text + (f"Check {key} in config.json." if key else "The weights are incomplete.")
    if len(got) == len(spec.shape):
        pairs = zip(spec.axes, spec.shape, got, strict=True)
        wrong = [axis for axis, expected, actual in pairs if expected != actual]
        used = list(dict.fromkeys(size for axis in wrong for size in axis if size != "1"))
    if guess:
        used = [size for size in used if guess.size(size) != spec.size(size)] or used
    keys = " and ".join(json_key(size, layout, spec.config) for size in dict.fromkeys(used))
    return text + f"Check {keys} in config.json."


def _extra_problem(name: str, possible: TensorSpec | None, layout: str, title: str) -> str:
    said = layout != STATE_DICT and not (layout == "huggingface" and _NORM_BIAS.search(name))
    if possible and possible.flag and said:
        key = json_key(possible.flag, layout, possible.config)
        return f"{printable(name)}: expected no such tensor; got one. Check {key} in config.json."
    if _NORM_BIAS.search(name):
        return (
            f"{printable(name)}: expected RMS norms, which have no bias, as the other norms are; "
            "got a LayerNorm's, and without it the model would be another one. The file is "
            "incomplete, or of a model that mixes both."
        )
    return (
        f"{printable(name)}: expected only the tensors of a {title} model; got this one too. No "
        "tensor is left out: the rest would be another model. If the model has such layers, put "
        "its config.json beside the weights."
    )
