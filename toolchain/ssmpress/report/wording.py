"""What a report's numbers are called, by the model's task: its keys are the same for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssmpress.results import TASK_BATCH, Report


@dataclass(frozen=True)
class Words:
    """model: with its article. one: what a `decode` sample computes; single: its name in a table.
    steps: what goes in, counted. many: what a `prefill` computes; throughput: its name in a table.
    samples: what quality is the mean over. step: what weights are read once for, with its article.
    counted: what instructions are counted per, of `length` tokens. evaluated: what the interval
    of the quality is resampled from; more: how to give more of it.
    pipeline: Hugging Face's name of the task.
    """

    model: str
    one: str
    single: str
    steps: str
    many: str
    throughput: str
    samples: str
    pipeline: str
    step: str
    counted: str
    evaluated: str
    more: str


_BATCH = f"batch of {TASK_BATCH}"
_WORDS = {
    "language-model": Words(
        "A Mamba language model", "token", "decode", "tokens", "prefill", "prefill tokens/s",
        "windows", "text-generation", "a decode step", "decoded token",
        "windows of evaluation text",
        "Evaluate more text: a longer --evaluation, or more --evaluation-tokens.",
    ),
    "classification": Words(
        "A Mamba classifier", "text", "one text", "tokens", _BATCH, f"{_BATCH} tokens/s",
        "texts", "text-classification", "a text", "text of {length} tokens",
        "labelled texts", "Evaluate more labelled texts: a longer --evaluation.",
    ),
    "forecast": Words(
        "A Mamba forecaster", "forecast", "one forecast", "time steps", _BATCH, f"{_BATCH} steps/s",
        "windows", "time-series-forecasting", "a forecast", "forecast",
        "windows of the series that do not overlap",
        "Evaluate more time steps: a longer series as --evaluation.",
    ),
}  # fmt: skip

METRICS = {
    "word_perplexity": "word perplexity",
    "bits_per_byte": "bits per byte",
    "mae": "MAE",
}
"""Names of the metrics in `quality.also`."""


def words(report: Report) -> Words:
    """The words of a report's task; one without a task is of a language model."""
    value: Any = report
    for key in ("model", "config", "task", "kind"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return _WORDS.get(value if isinstance(value, str) else "", _WORDS["language-model"])


def counted(report: Report, device: Mapping[str, Any]) -> str:
    """What a device's instructions were counted per, such as `decoded token`."""
    return words(report).counted.format(length=device.get("counted_length", 1))


def higher_is_better(metric: Any) -> bool:
    """Of a quality metric: accuracies rise, perplexities and errors fall."""
    return bool(metric == "accuracy")
