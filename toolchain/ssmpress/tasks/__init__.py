"""What a model is for: one file a task, behind one Protocol. No torch but inside the functions that
train and predict with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.errors import BadInputError
from ssmpress.tasks.block import block_error, read_block, shortened
from ssmpress.tasks.classification import Classification
from ssmpress.tasks.forecasting import Forecasting
from ssmpress.tasks.language_model import LanguageModel
from ssmpress.tasks.network import NetworkTask
from ssmpress.tasks.task import SampleTask

__all__ = [
    "KINDS",
    "BlockTask",
    "Classification",
    "Forecasting",
    "LanguageModel",
    "NetworkTask",
    "Task",
    "bundle_kinds",
    "bundle_task_of",
    "read_task",
    "task_of",
]

BlockTask = LanguageModel | SampleTask
"""Of a model that is made of blocks."""

Task = BlockTask | NetworkTask

KINDS: dict[str, type[LanguageModel] | type[SampleTask]] = {
    LanguageModel.kind: LanguageModel,
    Classification.kind: Classification,
    Forecasting.kind: Forecasting,
}
"""Every task of a checkpoint by the name that its block gives it."""


def bundle_kinds() -> dict[str, type[LanguageModel] | type[SampleTask] | type[NetworkTask]]:
    """Every task of a bundle by the name that its block gives it."""
    return {**KINDS, NetworkTask.kind: NetworkTask}


def read_task(block: Any) -> BlockTask:
    """The task of a checkpoint's block.

    Args:
        block: an object of JSON.

    Raises:
        BadInputError: it is no object, a field is unknown, missing, or out of range.
    """
    return read_block(KINDS[_kind(block, KINDS)], block)


def task_of(config: Mapping[str, Any]) -> BlockTask:
    """The task of a checkpoint's configuration; one without a block is a language model's.

    Args:
        config: with or without `task`.

    Raises:
        BadInputError: see read_task.
    """
    return read_task(config["task"]) if "task" in config else LanguageModel()


def bundle_task_of(config: Mapping[str, Any]) -> Task:
    """The task of a bundle's configuration, which may be that of a user's network.

    Args:
        config: with or without `task`.

    Raises:
        BadInputError: see read_task.
    """
    if "task" not in config:
        return LanguageModel()
    block, kinds = config["task"], bundle_kinds()
    return read_block(kinds[_kind(block, kinds)], block)


def _kind(block: Any, kinds: Mapping[str, Any]) -> str:
    """The kind that a block says, one of these."""
    if not isinstance(block, Mapping):
        raise BadInputError(f"task: expected an object; got {shortened(block)}.")
    kind = block.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise block_error("kind", " or ".join(kinds), kind)
    return kind
