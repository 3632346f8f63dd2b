"""The words of a report's task, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.results.report import Report
from ssmpress.tasks import LanguageModel, bundle_kinds
from ssmpress.tasks.network import NetworkTask
from ssmpress.tasks.task import SampleTask
from ssmpress.tasks.words import Words


def kind_of(report: Report) -> type[LanguageModel] | type[SampleTask] | type[NetworkTask]:
    """The class of a report's task; one without a task, or an unknown one, is a language model's.

    Not the task itself: a damaged report has words all the same.
    """
    value = lookup(report, "model", "config", "task", "kind")
    return bundle_kinds().get(value if isinstance(value, str) else "", LanguageModel)


def words(report: Report) -> Words:
    """The words of a report's task."""
    return kind_of(report).words


def command(report: Report) -> str:
    """What ssmrun is told in the card of a bundle: nothing with a text that it cannot read."""
    lacks = lookup(report, "model", "text", "ssmrun_lacks")
    return "bench {name}" if lacks else words(report).command


def lookup(report: Report, *keys: str) -> Any:
    """The value at a path of keys, None where one is missing."""
    value: Any = report
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def counted(report: Report, device: Mapping[str, Any]) -> str:
    """What a device's instructions were counted per, such as `decoded token`."""
    return words(report).counted.format(length=device.get("counted_length", 1))


def higher_is_better(report: Report) -> bool:
    """Whether more of a report's metric is better: of an accuracy; not of a perplexity or an error;
    of a user's own as the user says."""
    if kind_of(report) is NetworkTask:
        return lookup(report, "model", "config", "task", "higher_is_better") is True
    return bool(lookup(report, "quality", "metric") == "accuracy")
