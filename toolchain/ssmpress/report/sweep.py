"""sweep.json: the points of a sweep side by side, from their reports alone.

Its rendering is `sweep_page.py`; docs/sweep.schema.json describes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmpress import files
from ssmpress._version import __version__
from ssmpress.recipe.sweep import Sweep
from ssmpress.report.schema import json_types
from ssmpress.report.tables import lookup
from ssmpress.results.report import Report

SWEEP_NAME = "sweep.json"
SWEEP_VERSION = 1

_COSTS = {"latency": "relative_decode", "size": "model_bytes"}

Point = dict[str, Any]


def build_points(reports: Mapping[str, Report]) -> list[Point]:
    """The points of sweep.json, each with whether it is on a front.

    Args:
        reports: by point name, in the order of the points, each judged.
    """
    points = [_point(name, report) for name, report in reports.items()]
    for axis, cost in _COSTS.items():
        for point, on_front in zip(points, pareto_front(points, cost), strict=True):
            point["front"][axis] = on_front
    return points


def build_sweep(
    sweep: Sweep,
    reports: Mapping[str, Report],
    points: Sequence[Point],
    decision: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the dictionary of sweep.json.

    Args:
        points: from `build_points`.
        decision: its `pick`, `exit_code` and `sentence`: `gate.sweep` finds them.
    """
    first = next(iter(reports.values()))
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
        "environment": first["environment"],
        **decision,
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


def tradeoff(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the report of one point tells of the others."""
    expression = summary["pick"]["expression"] if summary["pick"] else None
    keys = ("recipe", "sparsities", "values", "points")
    return {"this": name, "pick": expression, **{key: summary[key] for key in keys}}


def write_sweep(folder: Path, summary: Mapping[str, Any]) -> None:
    """sweep.json, sweep.md and, without its charts, sweep.html."""
    from ssmpress.report.sweep_page import render_sweep_html, render_sweep_markdown

    files.write_text(folder / "sweep.md", render_sweep_markdown(summary))
    files.write_text(folder / "sweep.html", render_sweep_html(summary, charts=False))
    files.write_json(folder / SWEEP_NAME, dict(summary))
