"""Charts of a sweep: quality kept against latency and against size, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmpress.report.charts import WIDTH, Chart, Spec, draw
from ssmpress.report.tables import percent, size

Point = Mapping[str, Any]

_COLOURS = {
    "int8": "var(--compressed)",
    "fp16": "var(--stock)",
    "fp32": "var(--dense)",
    "int4": "var(--good)",
}
_AXES = (
    (
        "latency",
        "relative_decode",
        100.0,
        "decode time, % of the dense model's",
        "Quality kept, %, against decode time",
    ),
    ("size", "model_bytes", 1e-6, "model size, MB", "Quality kept, %, against size"),
)


def draw_tradeoff(points: Sequence[Point], this: str | None = None) -> list[Chart]:
    """The charts that the points have the numbers for.

    Args:
        points: of sweep.json. this: name of the point whose report it is, drawn larger.
    """
    charts = []
    for axis, cost, unit, label, title in _AXES:
        known = [p for p in points if None not in (p["retention"], p[cost])]
        if len(known) < 2:
            continue
        rows = [_row(point, cost, unit, axis, this) for point in known]
        described = "; ".join(
            f"{p['name']}: {percent(p['retention'])} kept at "
            f"{size(p[cost]) if axis == 'size' else percent(p[cost])}"
            f"{', on the front' if p['front'][axis] else ''}"
            for p in known
        )
        caption = f"{title}; higher and further left is better"
        svg = draw(_spec(rows, label), f"chart-tradeoff-{axis}", caption, described)
        charts.append(Chart(f"tradeoff-{axis}", svg, caption))
    return charts


def _row(point: Point, cost: str, unit: float, axis: str, this: str | None) -> dict[str, Any]:
    kept, interval = 100 * point["retention"], point["retention_interval"]
    return {
        "name": point["name"],
        "values": point["values"],
        "cost": unit * point[cost],
        "kept": kept,
        "low": 100 * interval["low"] if interval else kept,
        "high": 100 * interval["high"] if interval else kept,
        "front": point["front"][axis],
        "this": point["name"] == this,
    }


def _spec(rows: list[dict[str, Any]], label: str) -> Spec:
    costs = [row["cost"] for row in rows]
    lows, highs = [row["low"] for row in rows], [row["high"] for row in rows]
    room = max(max(costs) - min(costs), 0.05 * max(costs))
    margin = max(0.12 * (max(highs) - min(lows)), 0.5)
    x = _axis("cost", label, (min(costs) - 0.1 * room, max(costs) + 0.45 * room))
    y = _axis("kept", None, (min(lows) - margin, max(highs) + margin))
    front = sorted((row for row in rows if row["front"]), key=lambda row: float(row["cost"]))
    names = _labels(rows, room, max(highs) - min(lows) + 2 * margin)
    return {
        "width": WIDTH - 70,
        "height": 230,
        "layer": [
            {"data": {"values": front}, "encoding": {"x": x, "y": y}, "mark": _FRONT},
            {
                "data": {"values": rows},
                "mark": {"type": "rule", "color": "var(--soft)"},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "opacity": 1},
                "encoding": {"x": x, "y": y, "color": _colour(rows), "size": _SIZE},
            },
            {
                "data": {"values": names},
                "mark": {"type": "text", "align": "left", "dx": 7, "dy": -7},
                "encoding": {"x": x, "y": y, "text": {"field": "name"}},
            },
        ],
    }


_FRONT: Spec = {
    "type": "line",
    "interpolate": "step-after",
    "color": "var(--soft)",
    "strokeWidth": 1.5,
}
_SIZE: Spec = {"condition": {"test": "datum.this", "value": 170}, "value": 70}


def _axis(field: str, title: str | None, ends: tuple[float, float]) -> Spec:
    return {
        "field": field,
        "type": "quantitative",
        "axis": {"title": title, "tickCount": 5},
        "scale": {"domain": list(ends), "nice": False},
    }


def _colour(rows: list[dict[str, Any]]) -> Spec:
    """The colour of a point by its type of values, and a legend if there are several."""
    kinds = [name for name in _COLOURS if any(row["values"] == name for row in rows)]
    return {
        "field": "values",
        "type": "nominal",
        "legend": {"orient": "top", "title": None} if len(kinds) > 1 else None,
        "scale": {"domain": kinds, "range": [_COLOURS[name] for name in kinds]},
    }


def _labels(rows: Sequence[dict[str, Any]], width: float, height: float) -> list[dict[str, Any]]:
    """The points whose names have room; the best come first, and the table has them all."""
    placed: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (not row["this"], not row["front"], -row["kept"])):
        near = [
            other
            for other in placed
            if abs(other["cost"] - row["cost"]) < 0.4 * width
            and abs(other["kept"] - row["kept"]) < 0.07 * height
        ]
        if not near:
            placed.append(row)
    return placed
