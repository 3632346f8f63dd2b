"""Report -> the interval that a rule of the gate is judged by: None where it cannot be known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssmpress.gate.rules import Rule, metric_of, value_of
from ssmpress.measure.bootstrap import CONFIDENCE, Table, bootstrap, mean_interval
from ssmpress.recipe.limit import Relative
from ssmpress.report.tables import lookup
from ssmpress.results.quality import Interval
from ssmpress.results.report import Report

MIN_ROUNDS = 5
"""Measured rounds below which the spread between rounds is too little known to judge."""

MIN_TAIL_SAMPLES = 100
"""Measured samples below which a 99th percentile is little more than the largest of them."""


def quality_interval(
    report: Report, rule: Rule, seed: int, baseline: Report | None
) -> Interval | None:
    """The interval of a quality rule's metric, over windows that are the same for every model.

    Every such metric is exp of a mean over windows: of the differences of two models' negative log
    likelihoods per prediction, and, relative to a baseline, of the differences of those.
    """
    if not isinstance(rule.limit, Relative):
        kept = _retention_interval(report, seed)
        if kept is None or rule.metric:
            return kept
        return Interval(1 / kept.high - 1, 1 / kept.low - 1, kept.confidence)
    assert baseline is not None
    mine, theirs, unit = (
        _log_metric(report, rule),
        _log_metric(baseline, rule),
        value_of(baseline, rule),
    )
    if mine is None or theirs is None or unit is None or len(mine) != len(theirs):
        return None
    mean = mean_interval(mine - theirs, seed=seed)
    return mean and Interval(unit * math.exp(mean.low), unit * math.exp(mean.high), CONFIDENCE)


def _retention_interval(report: Report, seed: int) -> Interval | None:
    """The retention's interval from the windows, or, without any, the one that is stated."""
    difference = _difference(report)
    if difference is not None:
        mean = mean_interval(difference, seed=seed)
        return mean and Interval(math.exp(mean.low), math.exp(mean.high), CONFIDENCE)
    if lookup(report, "quality", "window_nll") is not None:
        return None
    low, high, confidence = (
        metric_of(report, f"quality.retention_interval.{key}")
        for key in ("low", "high", "confidence")
    )
    if low is None or high is None or confidence is None or not 0 < low <= high:
        return None
    return Interval(low, high, confidence)


def _log_metric(report: Report, rule: Rule) -> Table | None:
    """Whose mean over the windows is the logarithm of the metric: perplexity or retention."""
    if rule.metric == "quality.compressed":
        return _window_means(report, "compressed")
    return _difference(report)


def _difference(report: Report) -> Table | None:
    """Dense - compressed, per window: its mean is the logarithm of the retention."""
    dense, compressed = (_window_means(report, name) for name in ("dense", "compressed"))
    if dense is None or compressed is None or len(dense) != len(compressed):
        return None
    return dense - compressed


def _window_means(report: Report, name: str) -> Table | None:
    """Negative log likelihood per prediction of every window (n,); None if any is damaged."""
    sums, tokens = (
        lookup(report, "quality", "window_nll", name),
        metric_of(report, "quality.tokens"),
    )
    if not isinstance(sums, list) or not sums or not tokens or tokens <= 0:
        return None
    if not all(isinstance(v, int | float) and math.isfinite(v) and abs(v) < 1e12 for v in sums):
        return None
    return np.array(sums, np.float64) * (len(sums) / tokens)


def latency_interval(
    report: Report, rule: Rule, seed: int, baseline: Report | None
) -> Interval | None:
    """The interval of a time; of a relative rule that of the ratio, in the baseline's unit."""
    if not isinstance(rule.limit, Relative):
        tables = _tables(report, rule)
        return bootstrap([tables], seed=seed, quantile=rule.quantile) if tables else None
    assert baseline is not None
    runs = [_tables(report, rule), _tables(baseline, rule)]
    complete = [run for run in runs if run is not None]
    unit = value_of(baseline, rule)
    if len(complete) < len(runs) or unit is None:
        return None
    ratio = bootstrap(complete, seed=seed, quantile=rule.quantile)
    return ratio and Interval(ratio.low * unit, ratio.high * unit, ratio.confidence)


def _tables(report: Report, rule: Rule) -> list[Table] | None:
    assert rule.samples is not None
    tables = []
    for name in ("dense", "compressed") if rule.ratio else ("compressed",):
        table = _samples(lookup(report, "latency", "samples", name), rule.samples)
        if table is None or (rule.quantile > 0.5 and table.size < MIN_TAIL_SAMPLES):
            return None
        tables.append(table)
    return tables


def _samples(turns: Any, phase: str) -> Table | None:
    """(rounds, samples) of the measured rounds; None if there are too few or any is damaged."""
    if not isinstance(turns, Sequence):
        return None
    try:
        rows = [np.atleast_1d(t[f"{phase}_ms"]).astype(float) for t in turns if not t["warmup"]]
        table = np.array(rows)
    except (KeyError, TypeError, ValueError):
        return None
    if table.ndim != 2 or len(table) < MIN_ROUNDS or table.shape[1] < 1:
        return None
    return table if bool((np.isfinite(table) & (table > 0)).all()) else None
