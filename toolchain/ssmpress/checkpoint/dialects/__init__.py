"""The ways to spell a checkpoint, a file each: config.json, names of tensors, weight file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmpress.blocks.config import ModelConfig
from ssmpress.checkpoint.dialects import hugging_face, mamba_ssm
from ssmpress.checkpoint.dialects.dialect import Dialect
from ssmpress.errors import BadInputError, UsageError

DIALECTS: tuple[Dialect, ...] = (mamba_ssm, hugging_face)
STATE_DICT = "state-dict"
"""Stands for a dialect's name where there is no config.json."""


def named(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        UsageError: there is none.
    """
    for dialect in DIALECTS:
        if name == dialect.NAME:
            return dialect
    names = " or ".join(dialect.NAME for dialect in DIALECTS)
    raise UsageError(f"layout: expected {names}; got {name!r}.")


def parse_config(values: Mapping[str, Any], path: Path) -> tuple[ModelConfig, str]:
    """Read the object of a config.json.

    Args:
        values: the parsed object.
        path: its file, for messages.

    Returns:
        The configuration, and the name of its dialect.

    Raises:
        BadInputError: it is no model that can be run, or a key has a wrong type or value.
    """
    for dialect in DIALECTS:
        if dialect.speaks(values):
            return dialect.parse(values, str(path)), dialect.NAME
    raise BadInputError(
        f"{path}: expected mamba-ssm's keys (d_model, n_layer, vocab_size) or Hugging Face's "
        f"(hidden_size, num_hidden_layers, state_size); got {', '.join(sorted(values)[:5]) or '{}'}"
        ". Take the config.json that came with the weights."
    )


def config_json(config: ModelConfig, name: str) -> dict[str, Any]:
    """The config.json of a model in the dialect of that name.

    Raises:
        BadInputError: the dialect has no way to say it. UsageError: there is no such dialect.
    """
    dialect = named(name)
    if problem := dialect.problem(config):
        raise BadInputError(problem)
    return dialect.config_json(config)


def that_can_say(config: ModelConfig) -> tuple[str, ...]:
    """Names of the dialects that a checkpoint of this model can be written in."""
    return tuple(dialect.NAME for dialect in DIALECTS if not dialect.problem(config))


def check_writable(config: ModelConfig) -> None:
    """Whether a checkpoint of this model can be written in some dialect.

    Raises:
        BadInputError: in none; says what each of them lacks.
    """
    if not that_can_say(config):
        problems = "; ".join(dialect.problem(config).rstrip(".") for dialect in DIALECTS)
        raise BadInputError(f"--save-checkpoint: no layout can hold this model: {problems}.")


def canonical(name: str) -> str:
    """The canonical name of a tensor, in whatever dialect it is spelled."""
    for dialect in DIALECTS:
        name = dialect.canonical(name)
    return name


def json_key(field: str, name: str, config: ModelConfig) -> str:
    """What the config.json of a dialect calls a field of this configuration or of its blocks."""
    if field in ("patch", "outputs"):
        return "task"
    return field if name == STATE_DICT else named(name).keys(config).get(field, field)
