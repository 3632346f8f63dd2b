"""What the tasks have in common that see their whole input at once and carry no state."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssmpress.callbacks import Note, silent
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.data.tokenizer_files import as_tokenizer_json
from ssmpress.errors import UsageError
from ssmpress.tasks.task import Data, Request, Samples, Times
from ssmpress.tasks.tools import Model, Outputs, Session
from ssmpress.tasks.words import TASK_BATCH

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PARITY_SAMPLES = 4
PREDICTIONS = 12
"""Predictions that are timed per round and variant: with 10 rounds enough for a 99th percentile."""

Inputs = dict[str, NDArray[Any]]
"""Arrays (b, ...) by the name of the graph's input."""
AnySamples = TypeVar("AnySamples", bound=Samples)


def read_samples(
    request: Request,
    kind: str,
    what: str,
    load: Callable[[tuple[Path, ...], Tokenizer | None], AnySamples],
    steps: Callable[[AnySamples], int],
    *,
    reads_tokens: bool,
    note: Note = silent,
) -> Data:
    """Samples to calibrate on and to evaluate; there is no default for either.

    Args:
        kind: of the task. what: a file has to be, for messages. load: reads some files.
        steps: tokens, or time steps, of all samples. note: called where a tokenizer is converted.

    Raises:
        UsageError: a file is missing, or an option is for language models.
    """
    settings = request.settings
    for option, paths in (
        ("--calibration", settings.calibration),
        ("--evaluation", settings.evaluation),
    ):
        if not paths:
            raise UsageError(f"{option}: expected {what}, since the model is a {kind}; got none.")
    if settings.evaluation_tokens is not None:
        raise UsageError("--evaluation-tokens is for language models; give a smaller --evaluation.")
    path = (settings.tokenizer or request.tokenizer) if reads_tokens else None
    path = None if path is None else as_tokenizer_json(path, note)
    tokenizer = None if path is None else load_tokenizer(path)
    calibration = load(settings.calibration, tokenizer)
    evaluation = load(settings.evaluation, tokenizer)
    shared = evaluation.part_in(calibration)
    return Data(path, calibration, evaluation, steps(calibration), steps(evaluation), shared)


def each_by_torch(model: Model, samples: Samples) -> Outputs:
    """Predictions of the first samples by the PyTorch model, each by itself."""
    import torch

    return {
        f"sample {number}": model.predict(torch.from_numpy(inputs)).numpy()
        for number, inputs in enumerate(_each(samples))
    }


def each_by_session(session: Session, port: str, output: str, samples: Samples) -> Outputs:
    """The same by a bundle's model. port, output: names in its graph."""
    return {
        f"sample {number}": session.run({port: inputs})[output]
        for number, inputs in enumerate(_each(samples))
    }


def _each(samples: Samples) -> list[NDArray[Any]]:
    numbers = range(min(PARITY_SAMPLES, samples.count))
    return [samples.arrays(np.array([number]))[0] for number in numbers]


def timed_round(session: Session, draw: Callable[[int], Inputs], singles: int) -> Times:
    """A batch of TASK_BATCH samples in place of a prefill, single ones of decode steps.

    Args:
        draw: as many random samples.
    """
    batch, samples = draw(TASK_BATCH), draw(singles)
    batch_ms = milliseconds(partial(session.run, batch))
    each = [
        {name: array[number : number + 1] for name, array in samples.items()}
        for number in range(singles)
    ]
    return batch_ms, [milliseconds(partial(session.run, one)) for one in each]


def milliseconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begin)
