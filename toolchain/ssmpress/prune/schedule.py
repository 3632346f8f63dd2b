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
