"""Confidence intervals of a latency quantile from interleaved rounds, and of a mean over windows.

For latency the rounds are redrawn (shared by the variants, which took turns within them), then the
samples within each: rounds differ by more than samples do, because the machine drifts.

scipy.stats.bootstrap redraws one level only, and its BCa interval of 99.8 % for a mean misses in
3.7 to 4.2 % of draws of 8 values and in 0.8 to 1.9 % of 20, where the stretched one misses in 0.1
to 0.2 % and 0.4 to 0.7 %. Importing it takes longer than all of `ssmpress-gate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ssmpress.results.quality import Interval

CONFIDENCE = 0.998
"""Two-sided: a build that sits exactly on a limit fails in 0.1 % of runs."""

MIN_WINDOWS = 8
"""Windows of evaluation text below which the spread between them is too little known to judge."""

_RESAMPLES = 2000
_CHUNK = 250  # draws at once: 250 x 20 rounds x 128 samples are 5 MB

Table = NDArray[np.float64]
"""Milliseconds (rounds, samples)."""


def bootstrap(
    groups: Sequence[Sequence[Table]],
    *,
    seed: int,
    quantile: float = 0.5,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Confidence interval of a quantile, of the ratio of two, or of one run's over another's.

    A bootstrap over few rounds is too narrow: of identical builds whose rounds differ by 10 %, 3 %
    were called slower with 5 rounds and 0.7 % with 10, where 0.5 % was meant. So the interval is
    stretched, on a logarithmic scale, as Student's t is wider than the normal distribution.

    Args:
        groups: one run, or a run and its baseline. A run is one table, or numerator and
            denominator, measured in turns: their rounds are drawn together.
        quantile: 0.5 is the median.

    Returns:
        Of statistic(run), or statistic(run) / statistic(baseline). None if a run has fewer than
        2 rounds, or not equally many in both tables.
    """
    fewest = min((len(table) for run in groups for table in run), default=0)
    if fewest < 2 or any(len({len(table) for table in run}) != 1 for run in groups):
        return None
    random = np.random.default_rng(seed)
    centre, draws = 0.0, np.zeros(_RESAMPLES)
    for sign, run in zip((1, -1), groups, strict=False):
        centre += sign * _log_statistic([table[None] for table in run], quantile)[0]
        draws += sign * np.concatenate(
            [_redraw(run, quantile, random) for _ in range(_RESAMPLES // _CHUNK)]
        )
    tail = (1 - confidence) / 2
    stretch = _student_stretch(fewest, 1 - tail)
    low, high = centre + stretch * (np.quantile(draws, [tail, 1 - tail]) - centre)
    return Interval(math.exp(low), math.exp(high), confidence)


def mean_interval(
    values: NDArray[np.float64], *, seed: int, confidence: float = CONFIDENCE
) -> Interval | None:
    """Confidence interval of the mean of independent values, for example one per window of text.

    A bootstrap over the values, stretched like `bootstrap`'s for how few they are.

    Args:
        values: (n,).

    Returns:
        None with fewer than `MIN_WINDOWS` values or one that is not finite.
    """
    count = len(values)
    if count < MIN_WINDOWS or not np.isfinite(values).all():
        return None
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[random.integers(count, size=(_CHUNK, count))].mean(axis=1)
            for _ in range(_RESAMPLES // _CHUNK)
        ]
    )
    tail, centre = (1 - confidence) / 2, float(values.mean())
    stretch = _student_stretch(count, 1 - tail)
    low, high = centre + stretch * (np.quantile(means, [tail, 1 - tail]) - centre)
    return Interval(float(low), float(high), confidence)


def _redraw(run: Sequence[Table], quantile: float, random: np.random.Generator) -> Table:
    """Logarithms of `_CHUNK` redrawn statistics."""
    rounds = len(run[0])
    picked = random.integers(rounds, size=(_CHUNK, rounds, 1))
    drawn = [
        table[picked, random.integers(table.shape[1], size=(_CHUNK, *table.shape))] for table in run
    ]
    return _log_statistic(drawn, quantile)


def _log_statistic(tables: Sequence[Table], quantile: float) -> Table:
    """log of the quantile, or of the first table's over the second's. (draws, rounds, samples)."""
    logs = [np.log(np.quantile(table, quantile, axis=(1, 2))) for table in tables]
    return np.asarray(logs[0] if len(logs) == 1 else logs[0] - logs[1])


def _student_stretch(rounds: int, quantile: float) -> float:
    """t / z at that quantile with rounds - 1 degrees of freedom, and sqrt(n / (n - 1)), since a
    resample has the variance with n in the denominator.

    t by its expansion in 1 / freedom, at 99.9 % 0.9 % low at 4 degrees (Abramowitz and Stegun
    26.7.5).
    """
    z, f = NormalDist().inv_cdf(quantile), rounds - 1
    t = (
        z
        + (z**3 + z) / (4 * f)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * f**4)
    )
    return t / z * math.sqrt(rounds / (rounds - 1))
