"""Everything a run found out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ssmpress.results.devices import DeviceResult, Parity, TargetResult
from ssmpress.results.measured import Measurement
from ssmpress.results.quality import Quality
from ssmpress.results.sizes import LayerState, Matrix, Size


class Ended(StrEnum):
    """What ended a recovery: its number of steps was done, the quality asked was reached on
    held-out calibration data, that no longer improved, or the time was up."""

    STEPS = "steps"
    QUALITY = "quality"
    NO_IMPROVEMENT = "no-improvement"
    CEILING = "ceiling"


@dataclass(frozen=True)
class TextUse:
    """The text of one purpose. files: paths as given, empty for the default text.

    default_text: no file was given and the text every machine has was used. tokens: used.
    """

    files: tuple[str, ...]
    default_text: bool
    tokens: int


@dataclass(frozen=True)
class Results:
    """Everything a run found out. The report is a function of this and the recipe.

    model: the model's configuration and how it was read. measurements: by variant name; empty
    where latency cannot be measured (emulation). seen: part of the evaluation data, 0 .. 1, that
    the calibration has too. recovery: steps, seconds, device, losses. target:
    what vouches for the bundle. devices: one for each --device. measurements are those of the
    first device that was measured, or of this host.
    timings_s: seconds per stage. model_weights, model_zeros: over all parameters, tied ones once.
    removed_channels: of each layer, those that no longer reached the output; empty where they are
    not looked for. states: of each layer; empty where they are not known.
    """

    model: dict[str, Any]
    quality: Quality
    matrices: tuple[Matrix, ...]
    model_weights: int
    model_zeros: int
    removed_channels: tuple[int, ...]
    size: Size
    measurements: dict[str, Measurement]
    parity: Parity
    environment: dict[str, Any]
    calibration: TextUse
    evaluation: TextUse
    seen: float = 0.0
    recovery: dict[str, Any] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    target: TargetResult | None = None
    devices: tuple[DeviceResult, ...] = ()
    states: tuple[LayerState, ...] = ()
