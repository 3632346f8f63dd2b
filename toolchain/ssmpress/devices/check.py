"""Does a device compute what this host computes? The same bundle, the same tokens, both results.

The host's result is itself checked against PyTorch (`validate.py`); a device's is held against it:
logits and states after a prefill and single tokens, and the perplexity of a sample of the
evaluation text. Classifiers and forecasters: `task_check.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.devices.task_check import (
    Evaluate,
    TaskReference,
    compare_metric,
    compare_predictions,
    predict,
)
from ssmpress.errors import ParityError
from ssmpress.measure import metrics as evaluate
from ssmpress.measure import replies
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.results import Parity, Sample
from ssmpress.runtime.session import open_session

PREFILL_TOKENS = 96
DECODE_TOKENS = 8
SAMPLE_WINDOWS = 16
SAMPLE_WINDOW = 64
PERPLEXITY_TOLERANCE, PERPLEXITY_LIMIT = 1e-3, 1e-2
"""Relative. Kernels of another instruction set add in another order; where an activation then
rounds to the other of two int8 values, the logits move. That averages out over a text, but a deep
model's sample of 1,000 tokens may be off by 1.5e-3 and more: so four standard errors of the
windows' differences are allowed, up to the limit."""


@dataclass(frozen=True)
class Reference:
    """The host's result. tokens: (n,), the first `prefill` of them in one call.

    outputs: logits (n, vocab) and states by name. windows: (count, w). window_nll: nats of each.
    tolerance: relative, of logits and states.
    """

    tokens: NDArray[np.int64]
    prefill: int
    outputs: dict[str, NDArray[np.float32]]
    windows: NDArray[np.int64]
    window_nll: tuple[float, ...]
    tolerance: float

    @property
    def metric(self) -> str:
        """With its article."""
        return "a perplexity"


AnyReference = Reference | TaskReference


def make_reference(
    model: Path, library: Path, windows: NDArray[np.integer[Any]], *, threads: int, tolerance: float
) -> Reference:
    """Run the bundle's model on this host.

    Args:
        library: the op library for this host. windows: evaluation tokens (count, w), w >= 2.
    """
    session = open_session(model, threads=threads, library=library)
    tokens = windows[0, : PREFILL_TOKENS + DECODE_TOKENS].astype(np.int64)
    prefill = max(1, len(tokens) - DECODE_TOKENS)
    logits, state = session.predict(tokens[None, :prefill])
    rows = [logits[0]]
    for token in tokens[prefill:]:
        row, state = session.step(np.array([token]), state)
        rows.append(row)
    sample = _sample_windows(windows)
    found = evaluate.perplexity(session.predict, sample)
    outputs = {**state.arrays(), "logits": np.concatenate(rows)}
    return Reference(tokens, prefill, outputs, sample, found.window_nll, tolerance)


def check(
    worker: WorkerProcess, reference: AnyReference, name: str, run_eval: Evaluate
) -> tuple[Parity, Sample]:
    """Compare a worker that has loaded the bundle's model.

    Args:
        name: of the device. run_eval: of a classifier or forecaster, for its metric there.

    Raises:
        ParityError: logits, a state, a prediction or the metric differ.
        DeviceError: the worker failed or answered something else.
    """
    if isinstance(reference, TaskReference):
        predictions = predict(worker, reference)
        parity = _demand_parity(compare_predictions(predictions, reference), name)
        sample = compare_metric(predictions, run_eval(reference.file), reference)
    else:
        parity = _demand_parity(_parity(worker, reference), name)
        sample = _sample(worker, reference)
    if not sample.ok:
        metric = reference.metric
        raise ParityError(
            f"{name}: expected {metric} within {sample.tolerance:.2%} of this host's "
            f"{sample.host:.6g} over {sample.tokens} predictions; got {sample.device:.6g}. This is "
            "a defect of ssmpress; please report it with the processor's name."
        )
    return parity, sample


def _demand_parity(parity: Parity, name: str) -> Parity:
    if not parity.ok:
        raise ParityError(
            f"{name} computes something else than this host: {parity.reason} This is a defect of "
            "ssmpress; please report it with the processor's name."
        )
    return parity


def _sample_windows(windows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The first tokens, in shorter windows: their number says how far chance may go."""
    width = min(SAMPLE_WINDOW, windows.shape[1])
    whole = windows[:, : windows.shape[1] // width * width]
    return whole.reshape(-1, width)[:SAMPLE_WINDOWS].astype(np.int64)


def _parity(worker: WorkerProcess, reference: Reference) -> Parity:
    reply = worker.ask(
        {"do": "logits", "tokens": reference.tokens.tolist(), "prefill": reference.prefill,
         "states": True}
    )  # fmt: skip
    states = reply.get("states")
    actual = {"logits": replies.array(reply, "logits", reference.outputs["logits"].shape)}
    for name, expected in reference.outputs.items():
        if name != "logits" and isinstance(states, dict) and name in states:
            actual[name] = replies.array(states[name], "data", expected.shape)
    return evaluate.parity(reference.outputs, actual, tolerance=reference.tolerance)


def _sample(worker: WorkerProcess, reference: Reference) -> Sample:
    reply = worker.ask({"do": "nll", "windows": reference.windows.tolist()})
    count, width = reference.windows.shape
    tokens = count * (width - 1)
    found = replies.numbers(reply, "window_nll", count)
    host, device = (_perplexity(nll, tokens) for nll in (reference.window_nll, found))
    return Sample(
        tokens=tokens, window=width, host=host, device=device, difference=abs(device / host - 1),
        tolerance=_tolerance(reference.window_nll, found, width),
    )  # fmt: skip


def _tolerance(host: Sequence[float], device: Sequence[float], width: int) -> float:
    """Of the perplexity: relative, so that of the mean negative log likelihood."""
    differences = (np.array(device) - np.array(host)) / (width - 1)
    if len(differences) < 2:
        return PERPLEXITY_TOLERANCE
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return max(PERPLEXITY_TOLERANCE, min(PERPLEXITY_LIMIT, 4 * error))


def _perplexity(window_nll: Sequence[float], tokens: int) -> float:
    try:
        return math.exp(math.fsum(window_nll) / tokens)
    except OverflowError:
        return math.inf
