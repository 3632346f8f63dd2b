"""Time and memory of one variant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of raw samples, in milliseconds; tokens_per_s at the median."""

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
