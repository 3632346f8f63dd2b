"""`--device qemu`: the bundle under user-mode QEMU. Parity, perplexity, executed instructions."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ssmpress import replies
from ssmpress.devices.check import Expected, check
from ssmpress.devices.elf_symbols import Functions, read_functions
from ssmpress.devices.qemu import Emulator, get_counter_path, get_symbols_path
from ssmpress.errors import DeviceError, SsmpressError
from ssmpress.folders import temporary
from ssmpress.machine import LIBRARY_NAME, RUNNER_NAME
from ssmpress.measure.bounded import run_bounded
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.results.devices import DeviceResult, Instructions
from ssmpress.results.report import EMULATED, EMULATED_TIME

REPLY_S = 1800.0
"""Seconds for one answer: emulation is slow."""

COUNTED_TOKENS = (2, 8, 14)
"""Decoded tokens, or forecasts, of the runs whose counts are subtracted, each from the next: two
repeats. What a run does beside them varies by some 1e5 instructions."""

COUNTED_TEXTS = (1, 2, 3)
"""The same of a classifier: each is a whole prefill."""

SCAN_PARTS = ("scan", "causalconv", "conv1d", "convblock")
"""Functions of the op library with such a name belong to the recurrence; the others to the matrix
products, so that nothing of these is left out by a name."""

Tick = Callable[[], None]


def steps(variants: int) -> int:
    """How often `validate_emulated` ticks."""
    return 1 + variants * len(COUNTED_TOKENS)


@dataclass(frozen=True)
class Count:
    """What a run decodes, or predicts, that is counted. runs: how much each does. prompt: tokens
    before it; of a classifier those of each text."""

    runs: tuple[int, ...]
    prompt: int


def _what_counts(expected: Expected) -> Count:
    runs = COUNTED_TEXTS if expected.task.long_samples else COUNTED_TOKENS
    return Count(runs, expected.reference.length)


def validate_emulated(
    name: str,
    machine: str,
    cpu: str,
    bundle: Path,
    dense: Path,
    expected: Expected,
    tick: Tick,
) -> DeviceResult:
    """Run a bundle for another machine under QEMU.

    Args:
        name: of the device, for the report. bundle: its folder, with a manifest.
        dense: the model file of the dense baseline.

    Raises:
        ParityError: it computes something else than the host.
        DeviceError: QEMU or a sysroot is missing, or the runner failed.
    """
    with Emulator(machine, cpu) as emulator:
        command = emulator.command([bundle / RUNNER_NAME, "worker", bundle])
        with WorkerProcess(name, REPLY_S, command) as worker:
            loaded = worker.ask({"do": "load", "threads": 1, "cold": False, "seed": 0})

            def run_eval(file: Path) -> dict[str, Any]:
                return _run_eval(name, emulator, bundle, file)

            parity, sample = check(worker, expected, name, run_eval)
            environment = replies.facts(worker.ask({"do": "environment"}), "environment")
        tick()
        environment |= {
            "emulated": True,
            "cpu": f"{cpu} (emulated)",
            "ops_isa": str(loaded.get("ops_isa"))[:20],
        }
        for key in ("governor", "max_khz", "mhz", "load_average_1min", "memory_bytes", "board"):
            environment.pop(key, None)  # of the machine that emulates
        count = _what_counts(expected)
        run = _Run(name, emulator, bundle, count, tick)
        instructions, why = _instructions(run, machine, dense)
    return DeviceResult(
        name=name,
        kind=EMULATED,
        machine=machine,
        environment=environment,
        parity=parity,
        sample=sample,
        not_measured=EMULATED_TIME,
        instructions=instructions,
        not_counted=why,
        counted_length=count.prompt,
    )


def _run_eval(name: str, emulator: Emulator, bundle: Path, file: Path) -> dict[str, Any]:
    """`ssmrun eval` of a file, one thread."""
    command = emulator.command(
        [bundle / RUNNER_NAME, "eval", bundle, file, "--threads", "1", "--json"]
    )
    try:
        done = run_bounded(command, REPLY_S, name)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{name}: no answer of ssmrun eval within {REPLY_S:.0f} seconds. Give a smaller model, "
            "or a real device."
        ) from error
    if done.returncode != 0:
        raise DeviceError(
            f"{name}: ssmrun eval failed with exit code {done.returncode}: "
            f"{done.stderr.strip()[-300:]}"
        )
    return replies.document(done.stdout, "eval")


@dataclass(frozen=True)
class _Run:
    """What all of a device's counts have in common."""

    name: str
    emulator: Emulator
    bundle: Path
    count: Count
    tick: Tick


def _instructions(run: _Run, machine: str, dense: Path) -> tuple[dict[str, Instructions], str]:
    """Counts by variant, or none and the reason."""
    try:
        get_counter_path()
        functions = read_functions(run.bundle / LIBRARY_NAME, get_symbols_path(machine))
    except SsmpressError as error:
        return {}, f"not counted: {error}"
    try:
        return {
            variant: _of_one(run, model, functions)
            for variant, model in (("dense", dense), ("compressed", run.bundle / "model.onnx"))
        }, ""
    except _NoCountError as error:
        return {}, f"not counted: {error}"


class _NoCountError(SsmpressError):
    """This QEMU loads no plugins, or none of this kind."""


def _of_one(run: _Run, model: Path, functions: Functions) -> Instructions:
    counts = []
    for number in run.count.runs:
        counts.append(_count(run, model, functions, number))
        run.tick()
    each = per_unit(counts, run.count.runs)
    return Instructions(
        total=tuple(sum(repeat.values()) for repeat in each),
        matrix_products=tuple(repeat["matrix"] for repeat in each),
        scan=tuple(repeat["scan"] for repeat in each),
        rest=tuple(repeat["rest"] for repeat in each),
    )


def per_unit(counts: Sequence[Mapping[str, int]], runs: Sequence[int]) -> list[dict[str, float]]:
    """Instructions of one token, text or forecast by part: one estimate per two runs that follow.

    Loading a model takes some hundred thousand instructions more or less each time. In a tiny
    model's `rest` that is more than one text takes: what falls below zero is none.

    Args:
        counts: of whole processes, by part. runs: units that each of them worked on, rising.
    """
    return [
        {
            part: max(0.0, (more[part] - less[part]) / (high - low))
            for part in ("matrix", "scan", "rest")
        }
        for (less, more), (low, high) in zip(pairwise(counts), pairwise(runs), strict=True)
    ]


def _count(run: _Run, model: Path, functions: Functions, number: int) -> Mapping[str, int]:
    """Instructions of a process that loads the model and decodes or predicts, by part."""
    bundle = run.bundle
    with temporary() as folder:
        out = folder / "counts"
        command = run.emulator.command([bundle / RUNNER_NAME, "worker", bundle], count_to=out)
        with WorkerProcess(run.name, REPLY_S, command, explain=_explain, grace_s=60) as worker:
            worker.ask({"do": "load", "model": str(model), "threads": 1, "cold": False, "seed": 0})
            worker.ask({"do": "round", "prompt_tokens": run.count.prompt, "decode_tokens": number})
        return _by_part(read_counts(out), bundle / LIBRARY_NAME, functions)


def _explain(code: int, output: str) -> str | None:
    if "plugin" in output and code != 0:
        raise _NoCountError(f"this QEMU does not load the plugin: {output.splitlines()[0][:200]}")
    return None


def read_counts(path: Path) -> Sequence[tuple[int, int, str]]:
    """Lines of the plugin's file as (instructions, offset, file).

    Raises:
        DeviceError: it is cut short or something else.
    """
    try:
        *lines, last = path.read_text().splitlines()
        rows = []
        for line in lines:
            count, offset, file = line.split(" ", 2)
            rows.append((int(count), int(offset, 16), file))
        if last != f"total {sum(count for count, _, _ in rows)}":
            raise ValueError(f"got {last[:40]!r} as its end")
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"{path.name}: expected QEMU's instruction counts with their total: {error}."
        ) from error
    return rows


def _by_part(
    rows: Sequence[tuple[int, int, str]], library: Path, functions: Functions
) -> Mapping[str, int]:
    parts: Counter[str] = Counter(matrix=0, scan=0, rest=0)
    resolved = str(library.resolve())
    for count, offset, file in rows:
        part = "rest"
        if file == resolved:
            function = (functions.at(offset) or "").lower()
            part = "scan" if any(word in function for word in SCAN_PARTS) else "matrix"
        parts[part] += count
    return parts
