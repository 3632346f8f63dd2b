"""sweep.json: the points of a sweep side by side, from their reports alone.

Its rendering is `sweep_page.py`; docs/sweep.schema.json describes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmpress import files
from ssmpress._version import __version__
from ssmpress.errors import (
    EXIT_INCONCLUSIVE,
    EXIT_LATENCY_OR_SIZE,
    EXIT_PASS,
    EXIT_QUALITY,
)
from ssmpress.recipe.pick import Condition, pick
from ssmpress.recipe.settings import Sweep
from ssmpress.report.schema import json_types
from ssmpress.report.tables import lookup
from ssmpress.results import FAIL, INCONCLUSIVE, Report

SWEEP_NAME = "sweep.json"
SWEEP_VERSION = 1

_QUALITY = ("retention", "quality", "quality_loss")
_COSTS = {"latency": "relative_decode", "size": "model_bytes"}

Point = dict[str, Any]


def build_sweep(sweep: Sweep, reports: Mapping[str, Report]) -> dict[str, Any]:
    """The comparison of a sweep's reports.

    Args:
        reports: by point name, in the order of the points, each judged.
    """
    points = [_point(name, report) for name, report in reports.items()]
    for axis, cost in _COSTS.items():
        for point, on_front in zip(points, pareto_front(points, cost), strict=True):
            point["front"][axis] = on_front
    first = next(iter(reports.values()))
    chosen = _pick(sweep.pick, points) if sweep.pick else None
    summary = {
        "sweep_version": SWEEP_VERSION,
        "ssmpress_version": __version__,
        "recipe": sweep.recipe.to_dict(),
        "sparsities": sorted(sweep.sparsities),
        "values": list(sweep.values),
        "metric": lookup(first, "quality", "metric"),
        "dense": {
            "quality": lookup(first, "quality", "dense"),
            "model_bytes": lookup(first, "size", "dense_fp32_bytes"),
        },
        "points": points,
        "pick": chosen,
        "environment": first["environment"],
        "exit_code": chosen["exit_code"] if chosen else _best_code(points),
        "sentence": chosen["sentence"] if chosen else _sentence(points),
    }
    return dict(json_types(summary))


def _point(name: str, report: Report) -> Point:
    """One point: the metrics of `pick.METRICS`, the verdict, and what the charts need."""
    quality, size = report["quality"], report["size"]
    kept, speedup = quality["retention"], lookup(report, "latency", "decode", "speedup")
    decode = ("latency", "decode", "compressed")
    return {
        "name": name,
        "sparsity": report["sparsity"]["prunable"],
        "values": lookup(report, "recipe", "pack", "values"),
        "retention": kept,
        "retention_interval": quality["retention_interval"],
        "quality": quality["compressed"],
        "quality_loss": 1 / kept - 1 if kept else None,
        "model_bytes": size["model_bytes"],
        "bundle_bytes": size["bundle_bytes"],
        "smaller": size["ratio"],
        "decode_ms": lookup(report, *decode, "p50_ms"),
        "decode_p99_ms": lookup(report, *decode, "p99_ms"),
        "dense_decode_ms": lookup(report, "latency", "decode", "dense", "p50_ms"),
        "speedup": speedup,
        "relative_decode": 1 / speedup if speedup else None,
        "prefill_tokens_per_s": lookup(report, "latency", "prefill", "compressed", "tokens_per_s"),
        "rss_bytes": lookup(report, "memory", "compressed_peak_rss_bytes"),
        "continued_from": lookup(report, "recovery", "continued_from"),
        "status": report["verdict"]["status"],
        "exit_code": report["verdict"]["exit_code"],
        "verdict": report["verdict"]["sentence"].partition(": ")[2],
        "front": {},
    }


def pareto_front(points: Sequence[Mapping[str, Any]], cost: str) -> list[bool]:
    """Which points no other one beats: no less quality at no more cost, better in one of them.

    A point without one of the numbers is not on the front.
    """
    known = [(p["retention"], p[cost]) for p in points if None not in (p["retention"], p[cost])]

    def beaten(kept: float, paid: float) -> bool:
        return any(k >= kept and c <= paid and (k, c) != (kept, paid) for k, c in known)

    return [
        None not in (p["retention"], p[cost]) and not beaten(p["retention"], p[cost])
        for p in points
    ]


def _pick(conditions: Sequence[Condition], points: Sequence[Point]) -> dict[str, Any]:
    expression = " and ".join(map(str, conditions))
    index = pick(points, conditions)
    if index is None:
        status, code = _nothing_met(conditions, points)
        sentence = (
            f"{status.capitalize()}: No bundle meets {expression}; {_closest(conditions, points)}"
        )
        return {
            "expression": expression, "chosen": None, "met": [], "exit_code": code,
            "status": status, "sentence": sentence,
        }  # fmt: skip
    met = [p["name"] for p in points if all(c.met_by(p) for c in conditions)]
    point = points[index]
    return {
        "expression": expression,
        "chosen": point["name"],
        "met": met,
        "exit_code": point["exit_code"],
        "status": point["status"],
        "sentence": f"{point['status'].capitalize()}: Picked {point['name']}, the fastest of "
        f"{len(met)} that meet {expression}. {point['verdict']}",
    }


def _nothing_met(conditions: Sequence[Condition], points: Sequence[Point]) -> tuple[str, int]:
    """Status and exit code: a metric that no point has is inconclusive, quality comes first."""
    if any(all(point[c.metric] is None for point in points) for c in conditions):
        return INCONCLUSIVE, EXIT_INCONCLUSIVE
    quality = [c for c in conditions if c.metric in _QUALITY]
    if quality and not any(all(c.met_by(p) for c in quality) for p in points):
        return FAIL, EXIT_QUALITY
    return FAIL, EXIT_LATENCY_OR_SIZE


def _closest(conditions: Sequence[Condition], points: Sequence[Point]) -> str:
    """The point that meets most of the conditions, with what it lacks."""
    best = max(points, key=lambda p: sum(c.met_by(p) for c in conditions))
    lacking = [c for c in conditions if not c.met_by(best)]
    told = ", ".join(f"{c.metric} {_shown(best[c.metric])}" for c in lacking)
    return f"{best['name']} has {told}. All bundles are kept."


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value:.6g}"


def _best_code(points: Sequence[Point]) -> int:
    """Without a pick: a sweep passes if a point does."""
    codes = [point["exit_code"] for point in points]
    order = (EXIT_PASS, EXIT_INCONCLUSIVE, EXIT_LATENCY_OR_SIZE, EXIT_QUALITY)
    return next(code for code in order if code in codes)


def _sentence(points: Sequence[Point]) -> str:
    passed = [point["name"] for point in points if point["exit_code"] == EXIT_PASS]
    if passed:
        return f"Pass: {len(passed)} of {len(points)} bundles pass: {', '.join(passed)}."
    near = [point for point in points if point["exit_code"] == _best_code(points)]
    point = max(near, key=lambda point: point["retention"] or 0.0)
    status = point["status"].capitalize()
    return f"{status}: No bundle passes. The closest is {point['name']}: {point['verdict']}"


def tradeoff(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the report of one point tells of the others."""
    expression = summary["pick"]["expression"] if summary["pick"] else None
    keys = ("recipe", "sparsities", "values", "points")
    return {"this": name, "pick": expression, **{key: summary[key] for key in keys}}


def write_sweep(folder: Path, summary: Mapping[str, Any]) -> None:
    """sweep.json, sweep.md and sweep.html."""
    from ssmpress.report.sweep_page import render_sweep_html, render_sweep_markdown

    files.write_text(folder / "sweep.md", render_sweep_markdown(summary))
    files.write_text(folder / "sweep.html", render_sweep_html(summary))
    files.write_json(folder / SWEEP_NAME, dict(summary))
