"""Variants measured side by side on this host, each in a process of its own.

The machine's speed drifts and other programs disturb it, so the variants take turns: in each
round every variant does one prefill and its decode steps, A B C A B C, and what slows the
machine for a while slows all of them. The first round warms up and does not count.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ssmpress import replies
from ssmpress._version import __version__
from ssmpress.callbacks import Steps
from ssmpress.errors import UsageError
from ssmpress.machine import ISA_VARIABLE
from ssmpress.measure.metrics import percentiles
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.processors import read_processors
from ssmpress.results.measured import Measurement, Round
from ssmpress.runtime.loading import library_isa

ISA_FLAGS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
)
"""CPU flags that decide how fast these kernels and ONNX Runtime's can be."""


@dataclass(frozen=True)
class Variant:
    """A model file and the op library it runs with; None is stock ONNX Runtime."""

    model: Path
    library: Path | None


@dataclass(frozen=True)
class MeasureSettings:
    """How much is measured.

    prompt_tokens, decode_tokens: per round and variant, >= 1. rounds: measured ones, >= 1, after
    one to warm up; the gate wants at least 5 to tell noise from a difference. threads: >= 1.
    prompts: sequences of prompt_tokens per prefill, more than one of a model without states.
    seed: of the prompt's random tokens. timeout_s: seconds one reply of a worker may take.
    """

    prompt_tokens: int = 128
    decode_tokens: int = 32
    rounds: int = 10
    threads: int = 1
    seed: int = 0
    timeout_s: float = 600.0
    prompts: int = 1

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "decode_tokens", "prompts", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1; got {getattr(self, name)}.")


@dataclass(frozen=True)
class Station:
    """The worker of one variant.

    start: makes a fresh one. load: what its `load` request says of the model, beside threads,
    seed and cold.
    """

    start: Callable[[], WorkerProcess]
    load: Mapping[str, Any]


def measure_host(
    variants: Mapping[str, Variant],
    settings: MeasureSettings,
    progress: Steps | None = None,
) -> dict[str, Measurement]:
    """Load time, latency and peak memory of each variant on this host, in one interleaved run.

    Args:
        variants: by name, in the order of their turns.

    Returns:
        By the same names, as `measure` does.

    Raises:
        BadInputError: a model is missing or damaged.
        DeviceError: an op library cannot be used; a worker crashed or did not answer in time.
    """
    stations = {
        name: Station(
            partial(WorkerProcess, name, settings.timeout_s),
            {"model": str(v.model), "library": None if v.library is None else str(v.library)},
        )
        for name, v in variants.items()
    }
    return measure(stations, settings, progress)


def measure(
    stations: Mapping[str, Station],
    settings: MeasureSettings,
    progress: Steps | None = None,
) -> dict[str, Measurement]:
    """The variants in turns, wherever their workers run.

    Returns:
        By the same names. Load times are of two processes each: cold, after its files were
        dropped from the page cache, and warm.

    Raises:
        BadInputError, DeviceError: a worker could not do it.
    """
    steps = measure_steps(len(stations), settings)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    cold = {name: _cold_load(station, settings, tick) for name, station in stations.items()}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(s.start()) for name, s in stations.items()}
        loaded = {}
        for name, worker in workers.items():
            loaded[name] = worker.ask(_load(stations[name], settings, cold=False))
            tick()
        rounds = _rounds(workers, settings, tick)
        peaks = {
            n: replies.integer(w.ask({"do": "memory"}), "peak_rss_bytes")
            for n, w in workers.items()
        }
    return {
        name: _measurement(settings, rounds[name], cold[name], loaded[name], peaks[name])
        for name in stations
    }


def measure_steps(variants: int, settings: MeasureSettings) -> int:
    """How many steps `measure` tells its progress of."""
    return variants * (settings.rounds + 3)


def _cold_load(station: Station, settings: MeasureSettings, tick: Callable[[], None]) -> float:
    """Milliseconds, in a process that ends after it."""
    with station.start() as worker:
        elapsed = replies.number(worker.ask(_load(station, settings, cold=True)), "load_ms")
    tick()
    return elapsed


def _load(station: Station, settings: MeasureSettings, *, cold: bool) -> dict[str, Any]:
    return {
        "do": "load",
        **station.load,
        "threads": settings.threads,
        "seed": settings.seed,
        "cold": cold,
    }


def _rounds(
    workers: Mapping[str, WorkerProcess], settings: MeasureSettings, tick: Callable[[], None]
) -> dict[str, list[Round]]:
    request = {
        "do": "round",
        "prompt_tokens": settings.prompt_tokens,
        "decode_tokens": settings.decode_tokens,
    }
    rounds: dict[str, list[Round]] = {name: [] for name in workers}
    for position in range(settings.rounds + 1):
        for name, worker in workers.items():
            reply = worker.ask(request)
            rounds[name].append(replies.turn(reply, settings.decode_tokens, warmup=position == 0))
            tick()
    return rounds


def _measurement(
    settings: MeasureSettings,
    rounds: list[Round],
    cold_ms: float,
    loaded: dict[str, Any],
    peak: int,
) -> Measurement:
    counted = [turn for turn in rounds if not turn.warmup]
    return Measurement(
        prompt_tokens=settings.prompt_tokens,
        threads=settings.threads,
        rounds=tuple(rounds),
        prefill=percentiles(
            [t.prefill_ms for t in counted], tokens=settings.prompts * settings.prompt_tokens
        ),
        decode=percentiles([sample for t in counted for sample in t.decode_ms]),
        load_cold_ms=cold_ms,
        load_warm_ms=replies.number(loaded, "load_ms"),
        runtime_rss_bytes=replies.integer(loaded, "runtime_rss_bytes"),
        peak_rss_bytes=peak,
    )


def host_environment(*, threads: int, library: Path | None) -> dict[str, Any]:
    """What a reader must know to judge the numbers: CPU, instruction sets, versions, load.

    Args:
        threads: that the measurement used.
        library: the op library, for the instruction set it picks; None if there is none.

    Raises:
        DeviceError: the library cannot be used, or SSMPRESS_ISA names a set it does not know.
    """
    cpu, processors = _cpu_info(), read_processors()
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "isa_flags": [flag for flag in ISA_FLAGS if flag in flags],
        "ops_isa": None if library is None else library_isa(library),
        "ops_isa_forced": os.environ.get(ISA_VARIABLE) or None,
        "logical_cpus": os.cpu_count() or 1,
        "available_cpus": processors.usable,
        "cpu_quota": processors.quota,
        "threads": threads,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "max_khz": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq"),
        "mhz": cpu.get("cpu MHz"),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "onnxruntime": _version("onnxruntime"),
        "numpy": _version("numpy"),
        "ssmpress": __version__,
        "emulated": False,
    }


def _cpu_info() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty where there is none."""
    lines = (_read("/proc/cpuinfo") or "").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
