"""Several programs measured in turns, each in a process of its own, and the memory's read rate.

A round is one turn of each program: a prompt from the zero state, then single tokens; then the read
bandwidth. A shared machine drifts by more than the differences that are wanted, so ratios are taken
within a round, and their median and range over the rounds are reported. A round of each comes
before and does not count.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from ssmpress.errors import SsmpressError
from ssmpress.machine import get_library_path
from ssmpress.measure.interleaved import host_environment
from ssmpress.measure.worker_process import WorkerProcess

TIMEOUT_S = 600.0
OURS = (sys.executable, "-m", "ssmpress.measure.worker")


@dataclass(frozen=True)
class Contestant:
    """A model in a program.

    name: in the tables. load: the worker's first request, without threads and seed. command: of
    the worker. prompt_tokens, decode_tokens: per round; 0 decoded tokens measures prompts only.
    optional: a failure to load or to run the first round leaves it out instead of ending the run.
    """

    name: str
    load: dict[str, Any]
    command: Sequence[str] = OURS
    prompt_tokens: int = 512
    decode_tokens: int = 32
    optional: bool = False


@dataclass
class Times:
    """Milliseconds of one contestant: a prompt, and the median token, of every counted round.

    steps: every token of every counted round.
    """

    prompt_tokens: int
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0

    def summary(self) -> dict[str, Any]:
        """Medians and ranges over the rounds."""
        result: dict[str, Any] = {"peak_rss_mb": round(self.peak_rss_bytes / 1e6, 1)}
        if self.decode:
            result["decode_ms"] = spread(self.decode)
            result["decode_ms_undisturbed"] = round(self.undisturbed("decode"), 4)
            result["decode_tokens_per_s"] = round(1000 / median(self.decode), 2)
        if self.prompt_tokens > 1:
            result["prefill_ms"] = spread(self.prefill)
            rate = 1000 * self.prompt_tokens / median(self.prefill)
            result["prefill_tokens_per_s"] = round(rate, 1)
            result["prefill_ms_undisturbed"] = round(self.undisturbed("prefill"), 4)
        return result

    def undisturbed(self, what: str) -> float:
        """The fastest tenth of all tokens, or the fastest prompt: what a busy machine left alone.

        Where other programs share the cores, medians measure them too.
        """
        return quantiles(self.steps, n=10)[0] if what == "decode" else min(self.prefill)


@dataclass
class Run:
    """What `measure` returns. bandwidth: 10^9 bytes/s by buffer size in MB, one per round.

    left_out: name -> why an optional contestant could not be measured.
    """

    threads: int
    times: dict[str, Times]
    bandwidth: dict[int, list[float]]
    left_out: dict[str, str] = field(default_factory=dict)

    def ratio(self, slower: str, faster: str, what: str = "decode") -> dict[str, float]:
        """How many times as fast the second is as the first, by round."""
        pairs = zip(
            getattr(self.times[slower], what), getattr(self.times[faster], what), strict=True
        )
        times = self.times[slower].undisturbed(what), self.times[faster].undisturbed(what)
        return spread([a / b for a, b in pairs]) | {"undisturbed": round(times[0] / times[1], 4)}

    def over_limit(self, name: str, step_bytes: int, buffer: int) -> dict[str, float]:
        """Time of a decoded token / (bytes it must read / read bandwidth), by round."""
        pairs = zip(self.times[name].decode, self.bandwidth[buffer], strict=True)
        best = self.times[name].undisturbed("decode") * max(self.bandwidth[buffer])
        return spread([ms * 1e6 * rate / step_bytes for ms, rate in pairs]) | {
            "undisturbed": round(best * 1e6 / step_bytes, 4)
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": round(median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def measure(
    contestants: Sequence[Contestant],
    *,
    threads: int,
    rounds: int,
    bandwidth: Path,
    buffers: Sequence[int],
) -> Run:
    """Load all of them, then let them take turns.

    Args:
        bandwidth: the program of read_bandwidth.cc. buffers: its sizes in 10^6 bytes.

    Raises:
        BadInputError: a worker that is not optional could not use its model.
        DeviceError: such a worker crashed or did not answer in time.
    """
    rates: dict[int, list[float]] = {size: [] for size in buffers}
    with ExitStack() as stack:
        workers, left_out = _start(stack, contestants, threads)
        running = [c for c in contestants if c.name in workers]
        times = {c.name: Times(c.prompt_tokens) for c in running}
        command = (str(bandwidth), str(threads), *map(str, buffers))
        reader = stack.enter_context(WorkerProcess("read_bandwidth", TIMEOUT_S, command))
        for number in range(1, rounds + 1):
            for c in running:
                turn = workers[c.name].ask(_turn(c))
                times[c.name].prefill.append(turn["prefill_ms"])
                times[c.name].decode += [median(turn["decode_ms"])] if turn["decode_ms"] else []
                times[c.name].steps += turn["decode_ms"]
            answer = reader.ask({"do": "read"})["gb_per_s"]
            for size, rate in zip(buffers, answer, strict=True):
                rates[size].append(rate)
            print(f"{threads} threads: round {number} of {rounds}", file=sys.stderr, flush=True)
        for name, worker in workers.items():
            times[name].peak_rss_bytes = worker.ask({"do": "memory"})["peak_rss_bytes"]
    return Run(threads, times, rates, left_out)


def _start(
    stack: ExitStack, contestants: Sequence[Contestant], threads: int
) -> tuple[dict[str, WorkerProcess], dict[str, str]]:
    """Load and warm up each contestant; those that cannot, by name with the reason."""
    workers, left_out = {}, {}
    for c in contestants:
        request = {"library": None, "cold": False, "seed": 0, "threads": threads}
        worker = stack.enter_context(WorkerProcess(c.name, TIMEOUT_S, c.command))
        try:
            worker.ask({"do": "load", **request, **c.load})
            worker.ask(_turn(c))
        except SsmpressError as error:
            if not c.optional:
                raise
            left_out[c.name] = str(error).splitlines()[0]
            print(f"left out: {left_out[c.name]}", file=sys.stderr, flush=True)
        else:
            workers[c.name] = worker
    return workers, left_out


def _turn(c: Contestant) -> dict[str, Any]:
    return {"do": "round", "prompt_tokens": c.prompt_tokens, "decode_tokens": c.decode_tokens}


def provenance(rounds: int) -> dict[str, Any]:
    """Date, commit, CPU and versions."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    environment = host_environment(threads=1, library=get_library_path())
    kept = (
        "cpu",
        "isa_flags",
        "ops_isa",
        "ops_isa_forced",
        "logical_cpus",
        "available_cpus",
        "memory_bytes",
        "load_average_1min",
        "kernel",
        "python",
        "onnxruntime",
        "numpy",
        "ssmpress",
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": subprocess.run(git, capture_output=True, check=True, text=True).stdout.strip(),
        "environment": {key: environment[key] for key in kept} | {"last_cache": _last_cache()},
        "rounds": rounds,
    }


def _last_cache() -> str | None:
    """Size of the largest cache that the kernel tells of, for example `32768K`."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append((int(text.removesuffix("K")), text))
    return max(sizes)[1] if sizes else None
