"""Drawing a token from logits, the same to the last bit as `ssmrun` on a device.

docs/ssmrun.md specifies it: SplitMix64, an exponential of IEEE operations alone, sums in the order
of the tokens. A library's exp or random generator would differ between versions and processors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.errors import BadInputError, UsageError

_MASK = (1 << 64) - 1
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_SMALLEST = -708.0  # below it e^x is subnormal
_TERMS = 13


class SplitMix64:
    """64-bit random numbers. Source: Steele, Lea, Flood, Fast splittable pseudorandom number
    generators (2014).

    Raises:
        UsageError: the seed is not 0 to 2^64 - 1.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed <= _MASK:
            raise UsageError(f"seed: expected 0 to 2^64 - 1; got {seed}.")
        self._state = seed

    def next(self) -> int:
        """0 to 2^64 - 1."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
        return z ^ z >> 31

    def uniform(self) -> float:
        """The next number, at least 0 and less than 1."""
        return (self.next() >> 11) * 2.0**-53


def sample_exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """e^x for x <= 0, any shape, by 13 terms of its series; 0 below -708. Relative error 2e-16."""
    inside = np.maximum(x, _SMALLEST)
    k = np.rint(inside * _LOG2_E)
    r = (inside - k * _LN2_HIGH) - k * _LN2_LOW
    p = np.ones_like(r)
    for n in range(_TERMS, 0, -1):
        p = 1 + (r / n) * p
    return np.where(x < _SMALLEST, 0.0, np.ldexp(p, k.astype(np.int32)))


def sample(
    row: NDArray[np.floating[Any]], temperature: float, top_k: int, random: SplitMix64
) -> int:
    """A token drawn from softmax(row / temperature), among the top_k likeliest.

    Args:
        row: float32 (vocab,), logits.
        temperature: 0 takes the largest logit, the first of equals; else 1e-6 to 1e6.
        top_k: 0 is all; logits equal to the k-th stay.
        random: drawn from once, unless temperature is 0.

    Raises:
        BadInputError: a logit is not finite. UsageError: temperature or top_k out of range.
    """
    check_sampling(temperature, top_k)
    if not np.isfinite(row).all():
        first = int(np.isfinite(row).argmin())
        raise BadInputError(
            f"logits: expected finite numbers; token {first}'s is not. The model is damaged."
        )
    if temperature == 0:
        return int(row.argmax())
    x = row.astype(np.float64) / temperature
    weights = sample_exp(x - x.max())
    if 0 < top_k < len(x):
        weights[x < np.partition(x, -top_k)[-top_k]] = 0.0
    total = np.cumsum(weights)  # adds one by one, unlike sum
    return int(np.searchsorted(total, random.uniform() * total[-1], side="right"))


def check_sampling(temperature: float, top_k: int) -> None:
    """Raises UsageError unless both are in range; no quotient overflows then."""
    if temperature != 0 and not 1e-6 <= temperature <= 1e6:
        raise UsageError(f"temperature: expected 0, or 1e-6 to 1e6; got {temperature}.")
    if top_k < 0:
        raise UsageError(f"top_k: expected at least 0; got {top_k}.")
