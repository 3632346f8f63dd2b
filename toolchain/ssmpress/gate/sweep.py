"""Judged reports of a sweep -> sweep.json, with the point that is picked and the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmpress.errors import EXIT_INCONCLUSIVE, EXIT_LATENCY_OR_SIZE, EXIT_PASS, EXIT_QUALITY
from ssmpress.gate.exit_code import mildest, status_of
from ssmpress.recipe.pick import Condition, pick
from ssmpress.recipe.sweep import Sweep
from ssmpress.report.sweep import Point, build_points, build_sweep
from ssmpress.results.report import Report

_QUALITY = ("retention", "quality", "quality_loss")


def judge_sweep(sweep: Sweep, reports: Mapping[str, Report]) -> dict[str, Any]:
    """The comparison of a sweep's reports, sweep.json.

    With a pick its exit code is that of the picked point, or says what no point meets; without one
    a sweep passes if a point does.

    Args:
        reports: by point name, in the order of the points, each judged.
    """
    points = build_points(reports)
    if sweep.pick:
        chosen = _pick(sweep.pick, points)
        decision = {"pick": chosen} | {key: chosen[key] for key in ("exit_code", "sentence")}
    else:
        code = mildest(point["exit_code"] for point in points)
        decision = {"pick": None, "exit_code": code, "sentence": _sentence(points, code)}
    return build_sweep(sweep, reports, points, decision)


def _pick(conditions: Sequence[Condition], points: Sequence[Point]) -> dict[str, Any]:
    """The block `pick` of sweep.json."""
    expression = " and ".join(map(str, conditions))
    index = pick(points, conditions)
    if index is None:
        code = _code_of_unmet(conditions, points)
        status = status_of(code)
        return {
            "expression": expression,
            "chosen": None,
            "met": [],
            "exit_code": code,
            "status": status,
            "sentence": f"{status.capitalize()}: No bundle meets {expression}; "
            f"{_closest(conditions, points)}",
        }
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


def _code_of_unmet(conditions: Sequence[Condition], points: Sequence[Point]) -> int:
    """A metric that no point has is inconclusive; else quality comes first."""
    if any(all(point[c.metric] is None for point in points) for c in conditions):
        return EXIT_INCONCLUSIVE
    quality = [c for c in conditions if c.metric in _QUALITY]
    if quality and not any(all(c.met_by(p) for c in quality) for p in points):
        return EXIT_QUALITY
    return EXIT_LATENCY_OR_SIZE


def _closest(conditions: Sequence[Condition], points: Sequence[Point]) -> str:
    """The point that meets most of the conditions, with what it lacks."""
    best = max(points, key=lambda p: sum(c.met_by(p) for c in conditions))
    lacking = [c for c in conditions if not c.met_by(best)]
    gaps = ", ".join(f"{c.metric} {_shown(best[c.metric])}" for c in lacking)
    return f"{best['name']} has {gaps}. All bundles are kept."


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value:.6g}"


def _sentence(points: Sequence[Point], code: int) -> str:
    """The verdict of a sweep without a pick. code: its exit code."""
    passed = [point["name"] for point in points if point["exit_code"] == EXIT_PASS]
    if passed:
        return f"Pass: {len(passed)} of {len(points)} bundles pass: {', '.join(passed)}."
    near = [point for point in points if point["exit_code"] == code]
    point = max(near, key=lambda point: point["retention"] or 0.0)
    status = point["status"].capitalize()
    return f"{status}: No bundle passes. The closest is {point['name']}: {point['verdict']}"
