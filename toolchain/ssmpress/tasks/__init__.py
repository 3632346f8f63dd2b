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
from ssmpress.tasks.task import SampleTask

__all__ = [
    "KINDS",
    "Classification",
    "Forecasting",
    "LanguageModel",
    "Task",
    "read_task",
    "task_of",
]

Task = LanguageModel | SampleTask

KINDS: dict[str, type[LanguageModel] | type[SampleTask]] = {
    LanguageModel.kind: LanguageModel,
    Classification.kind: Classification,
    Forecasting.kind: Forecasting,
}
"""Every task by the name that its block gives it."""


def read_task(block: Any) -> Task:
    """The task of a block.

    Args:
        block: an object of JSON.

    Raises:
        BadInputError: it is no object, a field is unknown, missing, or out of range.
    """
    if not isinstance(block, Mapping):
        raise BadInputError(f"task: expected an object; got {shortened(block)}.")
    kind = block.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise block_error("kind", " or ".join(KINDS), kind)
    return read_block(KINDS[kind], block)


def task_of(config: Mapping[str, Any]) -> Task:
    """The task of a configuration; one without a block is a language model's.

    Args:
        config: of a checkpoint, a bundle or a report, with or without `task`.

    Raises:
        BadInputError: see read_task.
    """
    return read_task(config["task"]) if "task" in config else LanguageModel()
