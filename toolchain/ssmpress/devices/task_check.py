"""Does a device predict what this host predicts? A classifier's or forecaster's bundle, on a sample
of the evaluation: each prediction against this host's, and the metric by `ssmrun eval` there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.data.labelled import LabelledTexts, from_lists
from ssmpress.data.series import SeriesWindows
from ssmpress.files import write_text
from ssmpress.measure import metrics as evaluate
from ssmpress.measure import replies
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.results import Parity, Sample, TaskQuality
from ssmpress.runtime.session import Session, open_session
from ssmpress.tasks import Classification, Forecasting

SAMPLES = 32
SAMPLE_TOKENS = 256
"""Texts are cut to so many: an emulator runs some 1e8 instructions a second."""
SAMPLE_NUMBERS = 200_000
"""Numbers that a forecaster reads in all, at most: they travel as text."""
ERROR_TOLERANCE = 1e-3
"""Of the mean squared error, relative: as of the perplexity (`device_check.py`)."""

Evaluate = Callable[[Path], Mapping[str, Any]]
"""What `ssmrun eval` answers on the device for a file of this host."""


@dataclass(frozen=True)
class TaskReference:
    """The host's result on a sample.

    samples: texts, or consecutive windows of the series. predictions: float32, logits (n, classes)
    or forecasts (n, horizon, variates). quality: of them. file: the sample as `ssmrun eval` reads
    it. length: tokens of the median text of the sample, or time steps that a window reads.
    tolerance: of the predictions, relative to the largest.
    """

    task: Classification | Forecasting
    samples: LabelledTexts | SeriesWindows
    predictions: NDArray[np.float32]
    quality: TaskQuality
    file: Path
    length: int
    tolerance: float

    @property
    def metric(self) -> str:
        """With its article."""
        return "an accuracy" if isinstance(self.task, Classification) else "an MSE"


def make_task_reference(
    model: Path, library: Path, samples: LabelledTexts | SeriesWindows, folder: Path, *,
    threads: int, tolerance: float,
) -> TaskReference:  # fmt: skip
    """Run the bundle's model on this host.

    Args:
        library: the op library for this host. samples: the evaluation; a part of it is taken.
        folder: for the file of the sample.
    """
    session = open_session(model, threads=threads, library=library)
    task = session.interface.task
    taken: LabelledTexts | SeriesWindows
    if isinstance(samples, SeriesWindows):
        assert isinstance(task, Forecasting)
        taken = _some_windows(samples)
        file = folder / "sample.csv"
        write_text(file, _csv(taken, task))
        inputs, _, _ = taken.arrays(np.arange(taken.count))
        predictions = session.forecast(inputs)
        quality = evaluate.forecast_error(session.forecast, taken)
    else:
        assert isinstance(task, Classification)
        taken = _some_texts(samples)
        file = folder / "sample.jsonl"
        write_text(file, _jsonl(taken, task))
        predictions = _logits(session, taken)
        quality = evaluate.accuracy(session.classify, taken)
    length = int(np.median(taken.lengths))
    return TaskReference(task, taken, predictions, quality, file, length, tolerance)


def _some_windows(samples: SeriesWindows) -> SeriesWindows:
    """The first ones, so that the device's runner cuts them from a file as this host does."""
    numbers = samples.lookback * samples.values.shape[1]
    count = max(1, min(SAMPLES, samples.count, SAMPLE_NUMBERS // numbers))
    steps = samples.lookback + samples.horizon + count - 1
    return SeriesWindows(samples.values[:steps], samples.lookback, samples.horizon)


def _some_texts(samples: LabelledTexts) -> LabelledTexts:
    """From the whole file: labelled texts are often in the order of their classes."""
    chosen = np.unique(np.linspace(0, samples.count - 1, SAMPLES).round().astype(int)).tolist()
    labels = [int(samples.labels[number]) for number in chosen]
    return from_lists([samples.text(number) for number in chosen], labels, SAMPLE_TOKENS)


def _csv(windows: SeriesWindows, task: Forecasting) -> str:
    """The values in their own units, in double precision: z-scored again they are the same."""
    values = windows.values.astype(np.float64) * np.array(task.std) + np.array(task.mean)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(task.variates)
    writer.writerows(values.tolist())
    return text.getvalue()


def _jsonl(texts: LabelledTexts, task: Classification) -> str:
    rows = (
        {"tokens": texts.text(number).tolist(), "label": task.classes[texts.labels[number]]}
        for number in range(texts.count)
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def _logits(session: Session, texts: LabelledTexts) -> NDArray[np.float32]:
    """(n, classes), each text by itself."""
    rows = [session.classify(texts.text(number)[None]) for number in range(texts.count)]
    return np.concatenate(rows)


def predict(worker: WorkerProcess, reference: TaskReference) -> NDArray[np.float32]:
    """The sample's predictions by a worker that has loaded the bundle's model.

    Raises:
        DeviceError: the worker failed or answered something else.
    """
    samples, shape = reference.samples, reference.predictions.shape
    if isinstance(samples, SeriesWindows):
        inputs, _, _ = samples.arrays(np.arange(samples.count))
        reply = worker.ask({"do": "forecast", "series": inputs.ravel().tolist()})
        return replies.array(reply, "forecast", shape)
    texts = [samples.text(number).tolist() for number in range(samples.count)]
    return replies.array(worker.ask({"do": "classify", "texts": texts}), "logits", shape)


def compare_predictions(predictions: NDArray[np.float32], reference: TaskReference) -> Parity:
    """The device's predictions, held against this host's: by the largest of the whole sample, since
    a text that no class suits has logits near 0."""
    expected, actual = {"predictions": reference.predictions}, {"predictions": predictions}
    return evaluate.parity(expected, actual, tolerance=reference.tolerance)


def compare_metric(
    predictions: NDArray[np.float32], said: Mapping[str, Any], reference: TaskReference
) -> Sample:
    """The metric over the sample; it may differ as far as the predictions, which were compared
    before, make it differ.

    Args:
        predictions: of the device. said: by `ssmrun eval` there, of the same sample.

    Raises:
        DeviceError: ssmrun said something else than a metric.
    """
    if isinstance(reference.samples, SeriesWindows):
        return _error(predictions, said, reference, reference.samples)
    return _accuracy(predictions, said, reference, reference.samples)


def _accuracy(
    predictions: NDArray[np.float32], said: Mapping[str, Any], reference: TaskReference,
    texts: LabelledTexts,
) -> Sample:  # fmt: skip
    """difference, tolerance: parts of the texts that are right on one side only."""
    here = np.array(reference.quality.scores, bool)
    there = np.array(replies.flags(said, "right", texts.count))
    moved = (predictions.argmax(axis=1) == texts.labels) != here
    return Sample(
        tokens=texts.count, window=reference.quality.length, host=reference.quality.value,
        device=float(there.mean()), difference=float((there != here).mean()),
        tolerance=float(moved.mean()),
    )  # fmt: skip


def _error(
    predictions: NDArray[np.float32], said: Mapping[str, Any], reference: TaskReference,
    windows: SeriesWindows,
) -> Sample:  # fmt: skip
    """difference, tolerance: of the mean squared error, relative."""
    quality = reference.quality
    _, targets, _ = windows.arrays(np.arange(windows.count))
    there = ((predictions.astype(np.float64) - targets) ** 2).mean(axis=(1, 2))
    least = max(quality.value, float(np.finfo(np.float32).tiny))
    moved = float(np.abs(there - np.array(quality.scores)).mean()) / least
    device = replies.number(said, "mse")
    return Sample(
        tokens=quality.predictions, window=quality.length, host=quality.value, device=device,
        difference=abs(device - quality.value) / least, tolerance=max(ERROR_TOLERANCE, moved),
    )  # fmt: skip
