"""Results -> the report's dictionary, the one that docs/report.schema.json describes.

Numbers that are not finite become None (JSON has no NaN), which a gate reads as missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ssmpress._version import __version__
from ssmpress.recipe.recipe import Recipe
from ssmpress.report.device_blocks import device_block, target_block
from ssmpress.results.devices import DeviceResult, judged_device
from ssmpress.results.measured import Measurement
from ssmpress.results.quality import Quality
from ssmpress.results.report import HOST, VARIANTS, Report
from ssmpress.results.run import Results, TextUse
from ssmpress.results.sizes import LayerState, Matrix, Size, StoredShape
from ssmpress.results.verdict import Verdict

SCHEMA_VERSION = 1
"""Raised when a key changes its meaning or goes; new keys do not raise it."""


def build_report(recipe: Recipe, results: Results) -> dict[str, Any]:
    """The report without its verdict, which `with_verdict` adds after the gate has read it.

    Args:
        recipe: what was asked for.
        results: what was found.

    Returns:
        JSON types only; every number finite or None.
    """
    report = {
        "schema_version": SCHEMA_VERSION,
        "ssmpress_version": __version__,
        "recipe": recipe.to_dict(),
        "model": results.model,
        "data": {
            "calibration": _text(results.calibration),
            "evaluation": _text(results.evaluation),
            "seen": results.seen,
        },
        "quality": _quality(results.quality),
        "sparsity": sparsity_summary(results),
        "state": _state(results.states),
        "size": _size(results.size, results.matrices),
        "latency": _judged_latency(results),
        "memory": _memory(results.measurements),
        "parity": {**asdict(results.parity), "ok": results.parity.ok},
        "matrices": [_matrix(matrix) for matrix in results.matrices],
        "recovery": results.recovery,
        "timings_s": results.timings_s,
        "environment": results.environment,
        "target": results.target and target_block(results.target),
        "devices": [_device(device) for device in results.devices],
        "verdict": None,
    }
    return dict(json_types(report))


def with_verdict(report: Report, verdict: Verdict) -> dict[str, Any]:
    """A copy of the report that ends with the verdict."""
    return {**report, "verdict": json_types(asdict(verdict))}


def json_types(value: Any) -> Any:
    """The same value in JSON types: tuples as lists, numbers that are not finite as None.

    Raises:
        TypeError: a type that has no JSON form, named.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_types(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [json_types(item) for item in value]
    if hasattr(value, "item"):
        return json_types(value.item())
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def sparsity_summary(results: Results) -> dict[str, Any]:
    """Zeros over prunable weights and over all weights, by component and by layer."""
    prunable = [matrix for matrix in results.matrices if matrix.prunable]
    layers = sorted({matrix.layer for matrix in prunable if matrix.layer is not None})
    removed = dict(enumerate(results.removed_channels))
    return {
        "prunable": _share(prunable),
        "model": results.model_zeros / results.model_weights if results.model_weights else None,
        "prunable_weights": sum(matrix.weights for matrix in prunable),
        "prunable_zeros": sum(matrix.zeros for matrix in prunable),
        "model_weights": results.model_weights,
        "model_zeros": results.model_zeros,
        "removed_channels": sum(results.removed_channels),
        "empty_rows": sum(matrix.empty_rows for matrix in prunable),
        "by_component": _by_component(prunable),
        "by_layer": [
            {
                "layer": layer,
                "sparsity": _share([m for m in prunable if m.layer == layer]),
                "removed_channels": removed.get(layer, 0),
                "by_component": _by_component([m for m in prunable if m.layer == layer]),
            }
            for layer in layers
        ],
    }


def _by_component(matrices: Sequence[Matrix]) -> dict[str, float | None]:
    names = dict.fromkeys(matrix.component for matrix in matrices)
    return {name: _share([m for m in matrices if m.component == name]) for name in names}


def _share(matrices: Sequence[Matrix]) -> float | None:
    weights = sum(matrix.weights for matrix in matrices)
    return sum(matrix.zeros for matrix in matrices) / weights if weights else None


def _text(text: TextUse) -> dict[str, Any]:
    note = "the default text: no file was given" if text.default_text else ", ".join(text.files)
    return {**asdict(text), "description": note}


def _quality(quality: Quality) -> dict[str, Any]:
    dense, compressed = quality.dense, quality.compressed
    interval = quality.retention_interval
    block = {
        "metric": quality.metric,
        "dense": dense.value,
        "compressed": compressed.value,
        "retention": quality.retention,
        "retention_interval": interval and asdict(interval),
        "tokens": compressed.predictions,
        "windows": len(compressed.scores),
        "window": compressed.length,
    }
    if compressed.scores_key:
        block[compressed.scores_key] = {"dense": dense.scores, "compressed": compressed.scores}
    return {
        **block,
        "also": quality.also,
        "guess": quality.guess and asdict(quality.guess),
        "classes": quality.classes,
    }


def _state(states: Sequence[LayerState]) -> dict[str, Any] | None:
    """What a sequence carries to its next token, of each layer and of all."""
    if not states:
        return None
    return {
        "dense_bytes": sum(state.dense_bytes for state in states),
        "bytes": sum(state.bytes for state in states),
        "by_layer": [asdict(state) for state in states],
    }


def _size(size: Size, matrices: Sequence[Matrix]) -> dict[str, Any]:
    ratio = size.dense_fp32_bytes / size.model_bytes if size.model_bytes else None
    by_format = {
        name: {
            "matrices": len(group),
            "weights": sum(matrix.weights for matrix in group),
            "bytes": sum(matrix.stored_bytes for matrix in group),
            "dense_fp32_bytes": sum(matrix.dense_bytes for matrix in group),
        }
        for name in dict.fromkeys(matrix.format for matrix in matrices)
        for group in [[matrix for matrix in matrices if matrix.format == name]]
    }
    return {**asdict(size), "ratio": ratio, "by_format": by_format}


def _matrix(matrix: Matrix) -> dict[str, Any]:
    return {
        "name": matrix.name,
        "layer": matrix.layer,
        "component": matrix.component,
        "rows": matrix.rows,
        "columns": matrix.columns,
        "zeros": matrix.zeros,
        "empty_rows": matrix.empty_rows,
        "sparsity": _share([matrix]),
        "prunable": matrix.prunable,
        "format": matrix.format,
        "bytes": matrix.stored_bytes,
        "dense_fp32_bytes": matrix.dense_bytes,
        "reason": matrix.reason,
        "stored": asdict(matrix.stored or StoredShape(matrix.rows, matrix.columns, matrix.zeros)),
    }


def _device(device: DeviceResult) -> dict[str, Any]:
    latency, memory = _latency(device.measurements, device.environment), None
    if device.measurements:
        memory = _memory(device.measurements)
    return device_block(device, latency, memory)


def _judged_latency(results: Results) -> dict[str, Any] | None:
    """The judged latency with its device and processor: numbers of two do not compare."""
    device = judged_device(results.devices)
    environment = device.environment if device else results.environment
    block = _latency(results.measurements, environment)
    if block is None:
        return None
    return {**block, "device": device.name if device else HOST, "cpu": environment.get("cpu")}


def _latency(
    measurements: Mapping[str, Measurement], environment: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The block of latencies; None if nothing was measured: emulated times are no latency."""
    if not measurements:
        return None
    first = next(iter(measurements.values()))
    phases: dict[str, Any] = {}
    for phase in ("prefill", "decode"):
        rows = {name: asdict(getattr(m, phase)) for name, m in _in_order(measurements)}
        phases[phase] = {**rows, "speedup": _speedup(rows)}
    return {
        **phases,
        "prompt_tokens": first.prompt_tokens,
        "threads": first.threads,
        "available_cpus": environment.get("available_cpus"),
        "load": {
            name: {"cold_ms": m.load_cold_ms, "warm_ms": m.load_warm_ms}
            for name, m in _in_order(measurements)
        },
        "samples": {
            name: [asdict(turn) for turn in m.rounds] for name, m in _in_order(measurements)
        },
    }


def _in_order(measurements: Mapping[str, Measurement]) -> list[tuple[str, Measurement]]:
    return [(name, measurements[name]) for name in VARIANTS if name in measurements]


def _speedup(rows: Mapping[str, Mapping[str, float]]) -> float | None:
    """Dense median / compressed median."""
    if "dense" not in rows or not rows.get("compressed", {}).get("p50_ms"):
        return None
    return rows["dense"]["p50_ms"] / rows["compressed"]["p50_ms"]


def _memory(measurements: Mapping[str, Measurement]) -> dict[str, Any]:
    memory: dict[str, Any] = {"dense_peak_rss_bytes": None, "compressed_peak_rss_bytes": None}
    for name, measurement in _in_order(measurements):
        memory[f"{name}_peak_rss_bytes"] = measurement.peak_rss_bytes
        memory[f"{name}_runtime_rss_bytes"] = measurement.runtime_rss_bytes
    return memory
