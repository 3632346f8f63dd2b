"""Rows and sentences about the target and its devices: report dictionary -> cells of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ssmpress.report.prose import crowding
from ssmpress.report.tables import Rows, lookup, number, size
from ssmpress.report.wording import counted, words
from ssmpress.results.report import HOST, VARIANTS, Report

_PARTS = (
    ("matrix_products", "matrix products"),
    ("scan", "scan and convolution"),
    ("rest", "ONNX Runtime, C library"),
    ("total", ""),
)


def sections(report: Report) -> list[tuple[str, Rows]]:
    """Heading and rows of every table that the report has something for."""
    if not sentences(report):
        return []
    step, per = words(report).step, _counted(report)
    tables = [
        ("What each device computed, held against this host", validation(report)),
        ("Latency in milliseconds and memory, by device", latency(report)),
        ("Each device before and after the measurement", conditions(report)),
        (f"Executed instructions per {per}, one thread", instructions(report)),
        (f"The least time that the memory of a board allows for {step}", bounds(report)),
    ]
    return [(title, rows) for title, rows in tables if len(rows) > 1]


def _counted(report: Report) -> str:
    """The same for every device: they count the same sample."""
    for device in _devices(report):
        if device["instructions"]:
            return counted(report, device)
    return words(report).one


def sentences(report: Report) -> list[str]:
    """What vouches for the bundle; what was not measured, and why. Nothing where the bundle is for
    this host and ran here: the rest of the report tells that."""
    target = lookup(report, "target")
    if target is None or (target["validated"] == HOST and not report["devices"]):
        return []
    verb = {"emulated": "Emulated", "real": "Measured", "host": "Measured"}
    lines = [
        f"Target {target['machine']}. {verb.get(target['validated'], 'Not run')}: "
        f"{target['reason']}"
    ]
    for device in _devices(report):
        for key, what in (("not_measured", "latency"), ("not_counted", "instructions")):
            if device.get(key):
                lines.append(f"{device['device']}: {what} {device[key]}.")
    if len(bounds(report)) > 1:
        lines.append(
            "The lower bounds are computed, not measured: bytes of weights beyond the caches over "
            "the memory's theoretical bandwidth (docs/devices.md). In reality it takes longer."
        )
    return lines


def validation(report: Report) -> Rows:
    """One row per device: processor, kernels, parity, the metric of the sample."""
    metric = lookup(report, "quality", "metric") or "perplexity"
    rows = [["device", "processor", "kernels", "largest difference", f"{metric} here", "there"]]
    for device in _devices(report):
        environment = device["environment"]
        parity, sample = device["parity"] or {}, device["sample"] or {}
        rows.append(
            [
                device["device"],
                str(environment.get("board") or environment.get("cpu") or "-"),
                str(environment.get("ops_isa") or "-"),
                number(parity.get("max_rel"), 2),
                number(sample.get("host"), 6),
                number(sample.get("device"), 6),
            ]
        )
    return rows


def latency(report: Report) -> Rows:
    """One row per device and variant that was measured."""
    phrases = words(report)
    rows = [
        [
            "device",
            "variant",
            "threads",
            "load cold",
            "load warm",
            f"{phrases.many} p50",
            "p90",
            "p99",
            f"{phrases.single} p50",
            "p90",
            "p99",
            "peak memory",
        ]
    ]
    for device in _devices(report):
        block = device["latency"]
        if not block:
            continue
        for name in VARIANTS:
            if lookup(block, "decode", name) is None:
                continue
            load = lookup(block, "load", name) or {}
            times = [
                number(lookup(block, phase, name, key))
                for phase in ("prefill", "decode")
                for key in ("p50_ms", "p90_ms", "p99_ms")
            ]
            rows.append(
                [
                    device["device"],
                    name,
                    _threads(block),
                    number(load.get("cold_ms")),
                    number(load.get("warm_ms")),
                    *times,
                    size(lookup(device, "memory", f"{name}_peak_rss_bytes")),
                ]
            )
    return rows


def _threads(block: Report) -> str:
    """How many, and of how many processors where they had to share them."""
    shared = f" on {block['available_cpus']}" if crowding(block) else ""
    return f"{block['threads']}{shared}"


def conditions(report: Report) -> Rows:
    """Temperature, frequency and governor around the measurement."""
    rows = [["device", "", "temperature", "frequency", "governor", "throttled", "load"]]
    for device in _devices(report):
        for when in ("before", "after"):
            state = device.get(when)
            if state:
                rows.append([device["device"], when, *_state(state)])
    return rows


def instructions(report: Report) -> Rows:
    """Dense beside compressed, by part of the program."""
    whole = f"whole {words(report).whole_step}"
    rows = [["device", "part", "dense", "compressed", "change", "spread of the repeats"]]
    for device in _devices(report):
        block = device["instructions"]
        if not block or not {"dense", "compressed"} <= set(block):
            continue
        for part, label in _PARTS:
            dense, compressed = block["dense"][part], block["compressed"][part]
            spreads = [entry["spread"] for entry in (dense, compressed)]
            known = [spread for spread in spreads if isinstance(spread, int | float)]
            rows.append(
                [
                    device["device"],
                    label or whole,
                    count(dense["mean"]),
                    count(compressed["mean"]),
                    _fewer(lookup(block, "ratio", part)),
                    f"{100 * max(known):.2f} %" if known else "-",
                ]
            )
    return rows


def bounds(report: Report) -> Rows:
    """One row per board."""
    rows = [["board", "memory GB/s", "caches", "dense at least ms", "compressed at least ms"]]
    for bound in lookup(report, "target", "bounds") or []:
        cells = [bound["decode_ms"].get(name) for name in ("dense", "compressed")]
        texts = ["fits the caches" if cell is None else number(cell, 3) for cell in cells]
        rows.append(
            [bound["board"], number(bound["bandwidth_gb_s"], 3), size(bound["cache_bytes"]), *texts]
        )
    return rows


def count(value: Any) -> str:
    """Instructions as `12.3 M`."""
    if not isinstance(value, int | float):
        return "-"
    return f"{value / 1e6:,.3f} M" if value >= 1e5 else f"{value:,.0f}"


def _fewer(ratio: Any) -> str:
    if not isinstance(ratio, int | float) or ratio <= 0:
        return ""
    return f"{ratio:.2f}x fewer" if ratio >= 1 else f"{1 / ratio:.2f}x more"


def _state(state: Mapping[str, Any]) -> list[str]:
    heat = state.get("temperature_c")
    warmest = _numbers(heat.values()) if isinstance(heat, Mapping) else []
    clock = state.get("khz")
    fastest = _numbers(clock) if isinstance(clock, list) else []
    governors = state.get("governor")
    names = dict.fromkeys(map(str, governors)) if isinstance(governors, list) else {}
    return [
        f"{max(warmest):.1f} \u00b0C" if warmest else "-",
        f"{max(fastest) / 1e3:,.0f} MHz" if fastest else "-",
        ", ".join(names) or "-",
        str(state.get("throttled") or "-"),
        number(state.get("load_average_1min"), 3),
    ]


def _numbers(values: Any) -> list[float]:
    return [value for value in values if isinstance(value, int | float)]


def _devices(report: Report) -> Iterator[Mapping[str, Any]]:
    yield from lookup(report, "devices") or []


def headlines(report: Report) -> list[str]:
    """What a terminal shows of it: what vouches for the bundle, and how much work it saves."""
    lines = sentences(report)[:1]
    for device in _devices(report):
        ratio = lookup(device, "instructions", "ratio") or {}
        products, total = (_fewer(ratio.get(part)) for part in ("matrix_products", "total"))
        if products and total:
            lines.append(
                f"{device['device']}: {total} instructions per {counted(report, device)}, "
                f"{products} in matrix products."
            )
    return lines
