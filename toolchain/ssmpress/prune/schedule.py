"""How sparsity and the learning rate change over the steps of a run."""

from __future__ import annotations

import math


def cubic_sparsity(step: int, start: int, end: int, final: float, initial: float = 0.0) -> float:
    """Sparsity after `step`: fast while many weights are idle, slow where each one hurts.

        s_t = s_f + (s_0 - s_f) (1 - (t - t_0) / (T - t_0))^3

    Args:
        step: t, any integer. start, end: t_0 and T; before t_0 it is s_0, from T on exactly s_f.
        final, initial: s_f and s_0, 0 .. 1.

    Source: arXiv 2505.08299, iterative schedule (after Zhu and Gupta, arXiv 1710.01878).
    """
    if step >= end:
        return final
    if step <= start:
        return initial
    return final + (initial - final) * (1 - (step - start) / (end - start)) ** 3


def cosine_factor(step: int, steps: int, warmup: int, final: float) -> float:
    """Factor of the learning rate at `step`: a linear warm-up, then a half cosine to `final`.

    Args:
        step: 0 .. steps - 1. steps: of the whole run. warmup: steps until the factor is 1; at most
            a fifth of the run, so that a short run is not all warm-up.
        final: factor at the end, 0 .. 1.
    """
    warmup = min(warmup, steps // 5)
    if step < warmup:
        return (step + 1) / warmup
    part = (step - warmup) / max(1, steps - 1 - warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * part)) / 2


HOLD = 0.25
"""Factor of the learning rate that an open run holds: low enough that it may end at any check."""


def hold_factor(
    step: int, usual: int, warmup: int, cool_from: int | None, end: int | None, final: float
) -> float:
    """Factor of the learning rate where the length of a run shows only on the way.

    It begins as `cosine_factor` of `usual` steps, but does not fall below `HOLD`; from `cool_from`
    on it falls as 1 - sqrt, to `final` at the last step before `end`.

    Args:
        step: any before `end`. warmup: steps until the factor is 1.
        cool_from, end: None until they are known.
        final: factor at the end, 0 .. 1.

    Source: the fall, arXiv 2405.18392.
    """
    if cool_from is None or end is None or step < cool_from:
        if step < warmup:
            return (step + 1) / warmup
        part = min(1.0, (step - warmup) / max(1, usual - 1 - warmup))
        return max(HOLD, (1 + math.cos(math.pi * part)) / 2)
    before = hold_factor(cool_from, usual, warmup, None, None, final)
    part = min(1.0, (step + 1 - cool_from) / (end - cool_from))
    return min(before, final + (before - final) * (1 - math.sqrt(part)))
