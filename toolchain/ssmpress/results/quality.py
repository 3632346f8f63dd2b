"""Quality of the dense and the compressed model over the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


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
        """The value of the metric."""
        return self.perplexity

    @property
    def scores(self) -> tuple[float, ...]:
        """The score of each sample: a window's sum, nats."""
        return self.window_nll

    @property
    def length(self) -> int:
        """Steps of the longest sample."""
        return self.window

    @property
    def predictions(self) -> int:
        """The number of predictions made."""
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
