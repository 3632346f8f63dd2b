"""The confusion matrices of a classifier, dense and compressed, as one picture."""

from __future__ import annotations

from typing import Any

from ssmpress.report.charts import WIDTH, Chart, Spec, draw
from ssmpress.report.classes import VARIANTS, block_of
from ssmpress.report.tables import percent
from ssmpress.results.report import Report

_MOST_TEXTS = 12
"""Classes up to which a cell has room for its number."""


def draw_confusion(report: Report) -> list[Chart]:
    """One chart of both variants; none without a classifier's matrices."""
    block = block_of(report)
    if block is None or any(not block[variant]["confusion"] for variant in VARIANTS):
        return []
    names = block["names"]
    cells = {variant: _cells(block[variant]["confusion"], names) for variant in VARIANTS}
    rows = [_matrix(variant, cells[variant], names) for variant in VARIANTS]
    caption = (
        "Answers (across) to the texts of each class (down), percent; the fuller the colour, the "
        "more texts"
    )
    right = {v: sum(block[v]["right"]) / max(1, sum(block["texts"])) for v in VARIANTS}
    described = "; ".join(f"{v}: {percent(part)} on the diagonal" for v, part in right.items())
    spec = {"vconcat": rows, "spacing": 14}
    drawn = draw(spec, "chart-confusion", caption, f"{described}. The tables have every number.")
    return [Chart("confusion", drawn, caption)]


def _cells(table: list[list[int]], names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name, counts in zip(names, table, strict=True):
        total = sum(counts)
        for answer, count in zip(names, counts, strict=True):
            share = count / total if total else 0.0
            text = f"{100 * share:.0f}" if len(names) <= _MOST_TEXTS else ""
            rows.append({"true": name, "answer": answer, "share": share, "text": text})
    return rows


def _matrix(variant: str, cells: list[dict[str, Any]], names: list[str]) -> Spec:
    few = len(names) <= _MOST_TEXTS
    axis = {"domain": False, "ticks": False, "grid": False, "labelPadding": 6, "labels": few}
    y = {"field": "true", "type": "nominal", "sort": names, "axis": {**axis, "title": variant}}
    x = {
        "field": "answer",
        "type": "nominal",
        "sort": names,
        "axis": {
            **axis,
            "title": None,
            "orient": "top",
            "labelAngle": 0 if len(names) < 4 else -90,
        },
    }
    opacity = {
        "field": "share",
        "type": "quantitative",
        "legend": None,
        "scale": {"domain": [0, 1], "range": [0.04, 0.6]},
    }
    rect = {"type": "rect", "color": "var(--heat)", "cornerRadius": 2}
    return {
        "data": {"values": cells},
        "width": WIDTH - 90,
        "height": {"step": 22 if few else 5},
        "encoding": {"x": x, "y": y},
        "layer": [
            {"mark": rect, "encoding": {"fillOpacity": opacity}},
            {"mark": "text", "encoding": {"text": {"field": "text"}}},
        ],
    }
