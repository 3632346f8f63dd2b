"""The limits that can be set: what each of them judges, and by which number of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ssmpress.errors import EXIT_LATENCY_OR_SIZE, EXIT_QUALITY
from ssmpress.recipe.limit import Limit, Relative
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.report.tables import lookup
from ssmpress.results.report import Report

AT_LEAST, AT_MOST = "at least", "at most"
PERCENT = " %"
"""Unit of a share, which reports show in percent."""


@dataclass(frozen=True)
class Rule:
    """One limit. label: what it limits, for messages. metric: path in the report.

    direction: `at least` or `at most`. samples: phase of the raw samples that give the metric its
    interval (`decode`). quantile: of these samples. ratio: the metric is dense / compressed. A
    quality rule has its interval from the windows; what has neither is judged by its value alone.
    limit: NaN in `ALL_RULES`, where none is set yet.
    """

    name: str
    label: str
    metric: str
    direction: str
    exit_code: int
    unit: str = ""
    samples: str | None = None
    quantile: float = 0.5
    ratio: bool = False
    limit: Limit = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether it is judged by an interval; a lower limit of 0 holds for any value."""
        trivial = self.direction == AT_LEAST and self.limit == 0
        return not trivial and (self.samples is not None or self.exit_code == EXIT_QUALITY)


ALL_RULES = (
    Rule("min_retention", "quality kept", "quality.retention", AT_LEAST, EXIT_QUALITY, PERCENT),
    Rule("max_perplexity_increase", "perplexity increase", "", AT_MOST, EXIT_QUALITY),
    Rule(
        "max_decode_ms",
        "median decode time",
        "latency.decode.compressed.p50_ms",
        AT_MOST,
        EXIT_LATENCY_OR_SIZE,
        " ms",
        "decode",
    ),
    Rule(
        "max_decode_p99_ms",
        "99th percentile of the decode time",
        "latency.decode.compressed.p99_ms",
        AT_MOST,
        EXIT_LATENCY_OR_SIZE,
        " ms",
        "decode",
        0.99,
    ),
    Rule(
        "min_speedup",
        "decode speed-up",
        "latency.decode.speedup",
        AT_LEAST,
        EXIT_LATENCY_OR_SIZE,
        "x",
        "decode",
        ratio=True,
    ),
    Rule(
        "max_bundle_bytes", "bundle", "size.bundle_bytes", AT_MOST, EXIT_LATENCY_OR_SIZE, " bytes"
    ),
    Rule(
        "max_rss_bytes",
        "peak memory",
        "memory.compressed_peak_rss_bytes",
        AT_MOST,
        EXIT_LATENCY_OR_SIZE,
        " bytes",
    ),
)
"""Quality first: it decides the exit code before latency and size."""


def rules(settings: GateSettings) -> tuple[Rule, ...]:
    """The rules that are set, quality first."""
    limits = settings.limits()
    limited = [replace(rule, limit=limits[rule.name]) for rule in ALL_RULES if rule.name in limits]
    return tuple(map(_of_the_perplexity_itself, limited))


def _of_the_perplexity_itself(rule: Rule) -> Rule:
    """An increase has no multiple; relative to a baseline the perplexities are compared."""
    if rule.name == "max_perplexity_increase" and isinstance(rule.limit, Relative):
        return replace(rule, label="perplexity", metric="quality.compressed")
    return rule


_MAY_BE_ZERO = ("quality.retention",)  # an accuracy


def value_of(report: Report, rule: Rule) -> float | None:
    """The rule's finite number, or None: also for one below zero, and times and bytes of zero."""
    if of_another_metric(report, rule):
        return None
    if rule.metric:
        value = metric_of(report, rule.metric)
        possible = value is not None and value >= 0 and (value > 0 or rule.metric in _MAY_BE_ZERO)
        return value if possible else None
    dense, compressed = (metric_of(report, f"quality.{name}") for name in ("dense", "compressed"))
    return None if not dense or compressed is None else compressed / dense - 1


def of_another_metric(report: Report, rule: Rule) -> bool:
    """Whether it limits perplexity, and the model has none."""
    metric = lookup(report, "quality", "metric")
    return rule.name == "max_perplexity_increase" and metric not in (None, "perplexity")


def metric_of(report: Report, path: str) -> float | None:
    """The finite number at a path such as `latency.decode.speedup`, or None."""
    value = lookup(report, *path.split("."))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON's integers have no bound
        return None
