"""What a report's numbers are called, by the model's task: its keys are the same for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssmpress.report.results import TASK_BATCH


@dataclass(frozen=True)
class Words:
    """model: with its article. one: what a `decode` sample computes; single: its name in a table.
    steps: what goes in, counted. many: what a `prefill` computes; throughput: its name in a table.
    samples: what quality is the mean over.
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


_BATCH = f"batch of {TASK_BATCH}"
_WORDS = {
    "language-model": Words(
        "A Mamba language model", "token", "decode", "tokens", "prefill", "prefill tokens/s",
        "windows", "text-generation",
    ),
    "classification": Words(
        "A Mamba classifier", "text", "one text", "tokens", _BATCH, f"{_BATCH} tokens/s",
        "texts", "text-classification",
    ),
    "forecast": Words(
        "A Mamba forecaster", "forecast", "one forecast", "time steps", _BATCH, f"{_BATCH} steps/s",
        "windows", "time-series-forecasting",
    ),
}  # fmt: skip

METRICS = {
    "word_perplexity": "word perplexity",
    "bits_per_byte": "bits per byte",
    "mae": "MAE",
}
"""Names of the metrics in `quality.also`."""


def words(report: Mapping[str, Any]) -> Words:
    """The words of a report's task; one without a task is of a language model."""
    value: Any = report
    for key in ("model", "config", "task", "kind"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return _WORDS.get(value if isinstance(value, str) else "", _WORDS["language-model"])


def higher_is_better(metric: Any) -> bool:
    """Of a quality metric: accuracies rise, perplexities and errors fall."""
    return bool(metric == "accuracy")
