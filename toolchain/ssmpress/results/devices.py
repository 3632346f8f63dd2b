"""What is known of a bundle on each device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssmpress.results.measured import Measurement


@dataclass(frozen=True)
class Parity:
    """Distance between the ONNX outputs and those of the masked PyTorch model.

    max_abs, max_rel: the largest over all tensors; infinite when one is missing or not finite.
    first_bad: the first tensor beyond the tolerance, in layer order; None when all agree.
    reason: one sentence about `first_bad`; empty when all agree.
    """

    max_abs: float
    max_rel: float
    tolerance: float
    tensors: int
    first_bad: str | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Every expected tensor was there and within the tolerance."""
        return self.first_bad is None


@dataclass(frozen=True)
class Sample:
    """The metric over a sample of the evaluation, on the host and on the device.

    tokens: predictions. window: tokens of a window or of the longest text, or time steps that a
    forecaster reads. difference: |device / host - 1|; of accuracies the part of the texts that are
    right on one side only. tolerance: of it.
    """

    tokens: int
    window: int
    host: float
    device: float
    difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the difference is within the tolerance; never if either is not finite."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Instructions:
    """Executed instructions per decoded token, text or forecast, one thread: one per repeat.

    total: all. matrix_products, scan: inside the op library; scan has the convolution too. rest:
    ONNX Runtime and the C library. Differences of two runs' counts, so loading is not in them.
    """

    total: tuple[float, ...]
    matrix_products: tuple[float, ...]
    scan: tuple[float, ...]
    rest: tuple[float, ...]


@dataclass(frozen=True)
class LowerBound:
    """The least time a board's memory allows for one step: bytes beyond its last cache,
    over its highest bandwidth. Milliseconds by variant; None where all fits into the cache."""

    board: str
    bandwidth_gb_s: float
    cache_bytes: int
    decode_ms: dict[str, float | None]


@dataclass(frozen=True)
class DeviceResult:
    """One device. name: as given to --device, or `host`. kind: host, emulated or real.

    environment: processor, versions. before, after: temperature, frequency and governor around
    the measured rounds. measurements: by variant, empty where no time was measured;
    not_measured: why. instructions: by variant, empty where none were counted; not_counted: why.
    counted_length: tokens of what was counted: 1, or those of a classifier's text; time steps that
    a forecaster reads.
    """

    name: str
    kind: str
    machine: str
    environment: dict[str, Any]
    parity: Parity | None = None
    sample: Sample | None = None
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    not_measured: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    instructions: Mapping[str, Instructions] = field(default_factory=dict)
    not_counted: str = ""
    counted_length: int = 1


@dataclass(frozen=True)
class TargetResult:
    """What the bundle is for, and what vouches for it.

    validated: host, emulated or real, the strongest there is; None: the bundle ran nowhere.
    reason: one sentence. bounds: for boards of this machine.
    """

    machine: str
    validated: str | None
    reason: str
    bounds: Sequence[LowerBound] = ()


def judged_device(devices: Sequence[DeviceResult]) -> DeviceResult | None:
    """The device whose latency and memory a gate judges: the first that was measured."""
    return next((device for device in devices if device.measurements), None)


def judged_measurements(devices: Sequence[DeviceResult]) -> dict[str, Measurement]:
    """The measurements of the judged device, by variant; empty without one."""
    device = judged_device(devices)
    return dict(device.measurements) if device else {}
