"""Whether a report's numbers follow from its own samples: one that does not was changed, or is
damaged, and never passes.

    perplexity = exp(sum of window_nll / tokens)        p50, p90, p99 = percentiles of the samples
    accuracy = right / texts, over the classes
    retention = dense / compressed, of an accuracy compressed / dense
    speedup = dense p50 / compressed p50

Samples that are damaged themselves decide nothing here: without them a rule has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ssmpress.gate.rules import metric_of
from ssmpress.report.tables import lookup
from ssmpress.report.wording import higher_is_better, words
from ssmpress.results.report import VARIANTS, Report

TOLERANCE = 1e-6
"""Relative. JSON keeps every digit, so only the order of a sum can make a difference."""

_PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}


def contradiction(report: Report) -> str:
    """The first number that disagrees with the samples, as a clause; empty where all agree."""
    return next(_contradictions(report), "")


def _contradictions(report: Report) -> Iterator[str]:
    for path, expected, source in _derived(report):
        stated = metric_of(report, path)
        if stated is not None and not math.isclose(stated, expected, rel_tol=TOLERANCE):
            yield f"{path} is {stated:.6g}, but {source} give {expected:.6g}."
    kept = metric_of(report, "quality.retention")
    low, high = (metric_of(report, f"quality.retention_interval.{key}") for key in ("low", "high"))
    if kept is not None and low is not None and high is not None:
        slack = TOLERANCE * abs(kept)
        if not low - slack <= kept <= high + slack:
            yield f"quality.retention is {kept:.6g}, but its interval {low:.6g} to {high:.6g}."


def _derived(report: Report) -> Iterator[tuple[str, float, str]]:
    """(path, what it must be, from what) of every number that others decide."""
    quality = dict(_perplexities(report)) or dict(_accuracies(report))
    for name, value in quality.items():
        yield f"quality.{name}", value, f"its own {words(report).samples}"
    stated = {name: metric_of(report, f"quality.{name}") for name in ("dense", "compressed")}
    dense, compressed = (quality.get(name, value) for name, value in stated.items())
    guess = metric_of(report, "quality.guess.value")
    rises = higher_is_better(report)
    for path, base, other, source in (
        ("quality.retention", dense, compressed, "the two models' own numbers"),
        ("quality.guess.advantage", guess, dense, "the guess and the dense model"),
    ):
        if base and other is not None and other > 0:
            yield path, other / base if rises else base / other, source
    for phase in ("prefill", "decode"):
        yield from _times(report, phase)


def _perplexities(report: Report) -> Iterator[tuple[str, float]]:
    tokens = metric_of(report, "quality.tokens")
    for name in ("dense", "compressed"):
        sums = _numbers(lookup(report, "quality", "window_nll", name))
        if sums is not None and tokens is not None and tokens > 0:
            mean = math.fsum(sums) / tokens
            if mean < 700:  # beyond it exp overflows
                yield name, math.exp(mean)


def _accuracies(report: Report) -> Iterator[tuple[str, float]]:
    texts = _numbers(lookup(report, "quality", "classes", "texts"))
    for name in ("dense", "compressed"):
        right = _numbers(lookup(report, "quality", "classes", name, "right"))
        if texts is not None and right is not None and texts.sum() > 0:
            yield name, float(right.sum() / texts.sum())


def _times(report: Report, phase: str) -> Iterator[tuple[str, float, str]]:
    medians = {}
    for name in VARIANTS:
        samples = _measured(report, phase, name)
        if samples is None:
            continue
        block = f"latency.{phase}.{name}"
        for key, percent in _PERCENTILES.items():
            yield f"{block}.{key}", float(np.percentile(samples, percent)), "its own samples"
        medians[name] = float(np.median(samples))
    if {"dense", "compressed"} <= set(medians):
        speedup = medians["dense"] / medians["compressed"]
        yield f"latency.{phase}.speedup", speedup, "the two models' own samples"


def _measured(
    report: Report, phase: str, name: str
) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """Milliseconds (n,) of the measured rounds; None if there are none or any is damaged."""
    turns = lookup(report, "latency", "samples", name)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    values: list[object] = []
    for turn in turns:
        if turn.get("warmup") is False:
            times = turn.get(f"{phase}_ms")
            values += times if isinstance(times, list) else [times]
    samples = _numbers(values)
    return None if samples is None or not (samples > 0).all() else samples


def _numbers(values: object) -> NDArray[np.float64] | None:
    """Float64 (n,), n >= 1, of finite numbers; None for anything else."""
    if not isinstance(values, list) or not values:
        return None
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not plain or not all(-1e300 < v < 1e300 for v in values):
        return None
    return np.array(values, np.float64)
