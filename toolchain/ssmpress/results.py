"""What a run found out, as frozen dataclasses: the inputs of `schema.build_report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from ssmpress.errors import EXIT_PASS

Report = Mapping[str, Any]
"""A report as JSON types: docs/report.schema.json. `report.schema.build_report` makes one."""

VARIANTS = ("dense", "stock", "compressed")
"""dense: the unpruned checkpoint with the op library, the baseline of every gate. stock: the same
file in ONNX Runtime without the library. compressed: the bundle."""

HOST, EMULATED, REAL = "host", "emulated", "real"
EMULATED_TIME = (
    "not measured: an emulator's wall time says nothing about the processor it stands for"
)

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"


class Ended(StrEnum):
    """What ended a recovery: its number of steps was done, the quality asked was reached on
    held-out calibration data, that no longer improved, or the time was up."""

    STEPS = "steps"
    QUALITY = "quality"
    NO_IMPROVEMENT = "no-improvement"
    CEILING = "ceiling"


@dataclass(frozen=True)
class Interval:
    """A confidence interval: low <= high, confidence 0 .. 1."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class LanguageModelQuality:
    """Quality of one variant on the evaluation text.

    perplexity: exp(nll / tokens), >= 1. nll: sum of negative log likelihoods, nats.
    tokens: predictions made: windows x (window - 1). window: tokens per window.
    window_nll: nats, one sum per window, in the order of the text.
    """

    perplexity: float
    nll: float
    tokens: int
    window: int
    window_nll: tuple[float, ...]

    judged_on: ClassVar[str] = "text"
    scores_key: ClassVar[str] = "window_nll"

    @property
    def value(self) -> float:
        """The metric."""
        return self.perplexity

    @property
    def scores(self) -> tuple[float, ...]:
        """Of each sample: a window."""
        return self.window_nll

    @property
    def length(self) -> int:
        """Steps of the longest sample."""
        return self.window

    @property
    def predictions(self) -> int:
        """All that were made."""
        return self.tokens

    @property
    def extent(self) -> str:
        """How much was judged."""
        return f"{self.tokens:,} predictions in windows of {self.window}"


@dataclass(frozen=True)
class TaskQuality:
    """Quality of one variant of a classifier or forecaster on the evaluation samples.

    value: the mean of scores. scores: per sample, 1 or 0 (right or wrong), or the squared error of
    the z-scored forecast. length: tokens of the longest text, or time steps that a window reads.
    predictions: labels, or numbers forecast. also: further metrics by name. chosen: a classifier's
    answers, numbers of classes, -1 where a logit is not finite.
    """

    value: float
    scores: tuple[float, ...]
    length: int
    predictions: int
    also: dict[str, float] = field(default_factory=dict)
    chosen: tuple[int, ...] = ()

    judged_on: ClassVar[str] = "samples"
    scores_key: ClassVar[str] = ""

    @property
    def extent(self) -> str:
        """How much was judged."""
        return f"{len(self.scores):,}"


@dataclass(frozen=True)
class Guess:
    """The best that can be had of the same samples without a model.

    how: what it is, as a sentence names it. value: of the metric. advantage: how much better the
    dense model is, as a retention: > 1 is better. interval: of the advantage, over the samples;
    None where they are too few.
    """

    how: str
    value: float
    advantage: float
    interval: Interval | None = None


VariantQuality = LanguageModelQuality | TaskQuality
"""Both have value, scores, length and predictions; `scores_key` is where the report has the scores,
if it has them."""


@dataclass(frozen=True)
class Quality:
    """The same samples through the dense and the compressed model, both in ONNX Runtime.

    metric: perplexity, accuracy or MSE. also: further metrics, name -> dense and compressed.
    guess: what a model must be better than. classes: of a classifier its answers by class, as the
    report has them.
    """

    dense: VariantQuality
    compressed: VariantQuality
    retention: float
    retention_interval: Interval | None = None
    metric: str = "perplexity"
    also: dict[str, dict[str, float]] = field(default_factory=dict)
    guess: Guess | None = None
    classes: Mapping[str, Any] | None = None


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
class Matrix:
    """One weight matrix of the bundle.

    name: checkpoint key. layer: 0 .. n_layer - 1, None outside the layers. component: in_proj,
    x_proj, dt_proj, out_proj, embedding or lm_head. rows, columns: in the checkpoint; the bundle
    has fewer where channels were removed. zeros: weights that are exactly 0. empty_rows: rows
    of zeros. format: name of an `ops.Format`. stored_bytes: packed sections with padding. reason:
    why this format was chosen, one clause.
    """

    name: str
    layer: int | None
    component: str
    rows: int
    columns: int
    zeros: int
    empty_rows: int
    prunable: bool
    format: str
    stored_bytes: int
    reason: str

    @property
    def weights(self) -> int:
        """rows x columns."""
        return self.rows * self.columns

    @property
    def dense_bytes(self) -> int:
        """Bytes as dense float32."""
        return 4 * self.weights


@dataclass(frozen=True)
class Size:
    """Bytes. dense_fp32: all parameters as float32, tied ones once. input_checkpoint: the weight
    files that were read. model: model.onnx with its external data. bundle: every file of this
    model that a device needs (model, op library, tokenizer), without the report and the manifest.
    runtime: ONNX Runtime and ssmrun, the same for every bundle.
    """

    dense_fp32_bytes: int
    input_checkpoint_bytes: int
    model_bytes: int
    bundle_bytes: int
    runtime_bytes: int = 0


@dataclass(frozen=True)
class Percentiles:
    """Of raw samples, in milliseconds; tokens_per_s at the median."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    tokens_per_s: float


@dataclass(frozen=True)
class Round:
    """One turn of one variant: milliseconds of one prefill and of each decode step after it."""

    prefill_ms: float
    decode_ms: tuple[float, ...]
    warmup: bool


@dataclass(frozen=True)
class Measurement:
    """What was measured of one variant in its own process.

    rounds: in the order they ran, the warm-up first. prefill, decode: over the measured rounds.
    load_cold_ms, load_warm_ms: from opening the session to the first token's logits; cold after
        the files were dropped from the page cache, which the kernel may refuse to do.
    runtime_rss_bytes: resident right before the model is loaded. peak_rss_bytes: VmHWM at the end.
    """

    prompt_tokens: int
    threads: int
    rounds: tuple[Round, ...]
    prefill: Percentiles
    decode: Percentiles
    load_cold_ms: float
    load_warm_ms: float
    runtime_rss_bytes: int
    peak_rss_bytes: int


@dataclass(frozen=True)
class TextUse:
    """The text of one purpose. files: paths as given, empty for the default text.

    default_text: no file was given and the text every machine has was used. tokens: used.
    """

    files: tuple[str, ...]
    default_text: bool
    tokens: int


@dataclass(frozen=True)
class RuleResult:
    """One gate rule. status: pass, fail or inconclusive. value: None when the metric is missing.

    limit: in the metric's unit; None when a relative one has no baseline to refer to.

    exit_code: of the process if this rule decides. message: one sentence; help: what to try.
    """

    name: str
    status: str
    value: float | None
    limit: float | None
    interval: Interval | None
    exit_code: int
    message: str
    help: str = ""


@dataclass(frozen=True)
class Verdict:
    """Pass, fail or inconclusive, in one sentence, with every rule that was judged."""

    status: str = PASS
    rules: tuple[RuleResult, ...] = ()
    exit_code: int = EXIT_PASS
    sentence: str = ""


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
        """Within the tolerance; not when either is not finite."""
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
    """By variant, of the judged device; empty without one."""
    device = judged_device(devices)
    return dict(device.measurements) if device else {}


@dataclass(frozen=True)
class Results:
    """Everything a run found out. The report is a function of this and the recipe.

    model: the model's configuration and how it was read. measurements: by variant name; empty
    where latency cannot be measured (emulation). seen: part of the evaluation data, 0 .. 1, that
    the calibration has too. recovery: steps, seconds, device, losses. target:
    what vouches for the bundle. devices: one for each --device. measurements are those of the
    first device that was measured, or of this host.
    timings_s: seconds per stage. model_weights, model_zeros: over all parameters, tied ones once.
    removed_channels: of each layer, those that no longer reached the output.
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
