"""Does a device compute what this host computes? The same bundle, the same sample, both results.

The host's result is itself checked against PyTorch (`validate.py`); a device's is held against it:
what the model computes of a sample of the evaluation, and the metric over the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmpress.errors import ParityError
from ssmpress.measure import metrics
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.results.devices import Parity, Sample
from ssmpress.runtime.loading import open_session
from ssmpress.tasks import Task
from ssmpress.tasks.task import Reference

Evaluate = Callable[[Path], Mapping[str, Any]]
"""What `ssmrun eval` answers on the device for a file of this host."""


@dataclass(frozen=True)
class Expected:
    """What this host computes, and how far a device may be off. tolerance: relative to the largest
    value of each output."""

    task: Task
    reference: Reference
    tolerance: float


def make_expected(
    model: Path, library: Path, evaluation: Any, folder: Path, *, threads: int, tolerance: float
) -> Expected:
    """Run the bundle's model on this host.

    Args:
        library: the op library for this host. evaluation: of the model's task; a part is taken.
        folder: for a file of the sample.
    """
    session = open_session(model, threads=threads, library=library)
    task = session.interface.task
    return Expected(task, task.reference(session, evaluation, folder), tolerance)


@dataclass(frozen=True)
class _Device:
    """A worker that has loaded the bundle's model, and `ssmrun eval` beside it."""

    worker: WorkerProcess
    run_eval: Evaluate

    def ask(self, request: dict[str, Any]) -> Mapping[str, Any]:
        return self.worker.ask(request)

    def evaluate(self, file: Path) -> Mapping[str, Any]:
        return self.run_eval(file)


def check(
    worker: WorkerProcess, expected: Expected, name: str, run_eval: Evaluate
) -> tuple[Parity, Sample]:
    """Compare a device with this host.

    Args:
        worker: has loaded the bundle's model. name: of the device.

    Raises:
        ParityError: an output or the metric differs.
        DeviceError: the worker failed or answered something else.
    """
    device, task, reference = _Device(worker, run_eval), expected.task, expected.reference
    outputs = task.by_device(device, reference)
    parity = metrics.parity(reference.outputs, outputs, tolerance=expected.tolerance)
    if not parity.ok:
        raise ParityError(
            f"{name} computes something else than this host: {parity.reason} This is a defect of "
            "ssmpress; please report it with the processor's name."
        )
    sample = task.metric_there(device, outputs, reference)
    if not sample.ok:
        raise ParityError(
            f"{name}: expected {task.metric.article} within {sample.tolerance:.2%} of this host's "
            f"{sample.host:.6g} over {sample.tokens} predictions; got {sample.device:.6g}. This is "
            "a defect of ssmpress; please report it with the processor's name."
        )
    return parity, sample
