"""`--device qemu`: the bundle under user-mode QEMU. Parity, perplexity, executed instructions."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from ssmpress import replies
from ssmpress.device_check import Reference, check
from ssmpress.elf_symbols import Functions, read_functions
from ssmpress.errors import DeviceError, SsmpressError
from ssmpress.ops import LIBRARY_NAME, RUNNER_NAME
from ssmpress.qemu import Emulator, get_counter_path, get_symbols_path
from ssmpress.report.devices import EMULATED, EMULATED_TIME, DeviceResult, Instructions
from ssmpress.worker_process import WorkerProcess

REPLY_S = 1800.0
"""Seconds for one answer: emulation is slow."""

COUNTED_TOKENS = (2, 8, 14)
"""Decoded tokens of the runs whose counts are subtracted, each from the next: two repeats."""

SCAN_PARTS = ("scan", "causalconv", "conv1d", "convblock")
"""Functions of the op library with such a name belong to the recurrence; the others to the matrix
products, so that nothing of these is left out by a name."""

Tick = Callable[[], None]


def steps(variants: int) -> int:
    """How often `validate_emulated` ticks."""
    return 1 + variants * len(COUNTED_TOKENS)


def validate_emulated(
    name: str, machine: str, cpu: str, bundle: Path, dense: Path, reference: Reference, tick: Tick
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
            parity, sample = check(worker, reference, name)
            environment = replies.facts(worker.ask({"do": "environment"}), "environment")
        tick()
        environment |= {
            "emulated": True,
            "cpu": f"{cpu} (emulated)",
            "ops_isa": str(loaded.get("ops_isa"))[:20],
        }
        for key in ("governor", "max_khz", "mhz", "load_average_1min", "memory_bytes", "board"):
            environment.pop(key, None)  # of the machine that emulates
        instructions, why = _instructions(name, machine, emulator, bundle, dense, tick)
    return DeviceResult(
        name=name, kind=EMULATED, machine=machine, environment=environment, parity=parity,
        sample=sample, not_measured=EMULATED_TIME, instructions=instructions, not_counted=why,
    )  # fmt: skip


def _instructions(
    name: str, machine: str, emulator: Emulator, bundle: Path, dense: Path, tick: Tick
) -> tuple[dict[str, Instructions], str]:
    """Counts by variant, or none and the reason."""
    try:
        get_counter_path()
        functions = read_functions(bundle / LIBRARY_NAME, get_symbols_path(machine))
    except SsmpressError as error:
        return {}, f"not counted: {error}"
    try:
        return {
            variant: _of_one(name, emulator, bundle, model, functions, tick)
            for variant, model in (("dense", dense), ("compressed", bundle / "model.onnx"))
        }, ""
    except _NoCountError as error:
        return {}, f"not counted: {error}"


class _NoCountError(SsmpressError):
    """This QEMU loads no plugins, or none of this kind."""


def _of_one(
    name: str, emulator: Emulator, bundle: Path, model: Path, functions: Functions, tick: Tick
) -> Instructions:
    counts = []
    for tokens in COUNTED_TOKENS:
        counts.append(_count(name, emulator, bundle, model, functions, tokens))
        tick()
    lengths = pairwise(COUNTED_TOKENS)
    per_token = [
        {part: (more[part] - less[part]) / (high - low) for part in ("matrix", "scan", "rest")}
        for (less, more), (low, high) in zip(pairwise(counts), lengths, strict=True)
    ]
    return Instructions(
        total=tuple(sum(repeat.values()) for repeat in per_token),
        matrix_products=tuple(repeat["matrix"] for repeat in per_token),
        scan=tuple(repeat["scan"] for repeat in per_token),
        rest=tuple(repeat["rest"] for repeat in per_token),
    )


def _count(
    name: str, emulator: Emulator, bundle: Path, model: Path, functions: Functions, tokens: int
) -> Mapping[str, int]:
    """Instructions of a process that loads the model and decodes some tokens, by part."""
    with tempfile.TemporaryDirectory(prefix="ssmpress-count-") as folder:
        out = Path(folder) / "counts"
        command = emulator.command([bundle / RUNNER_NAME, "worker", bundle], count_to=out)
        with WorkerProcess(name, REPLY_S, command, explain=_explain, grace_s=60) as worker:
            worker.ask({"do": "load", "model": str(model), "threads": 1, "cold": False, "seed": 0})
            worker.ask({"do": "round", "prompt_tokens": 1, "decode_tokens": tokens})
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
