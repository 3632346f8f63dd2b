"""Charts of the devices: decode time on each, and executed instructions by part of the program."""

from __future__ import annotations

from typing import Any

from ssmpress.report.charts import Chart, Spec, draw
from ssmpress.report.device_tables import count
from ssmpress.report.tables import lookup, number
from ssmpress.report.wording import counted, words
from ssmpress.results.report import Report

_PARTS = {
    "matrix_products": "matrix products",
    "scan": "scan, convolution",
    "rest": "runtime, C library",
}


def draw_device_charts(report: Report) -> list[Chart]:
    """Those the report has the numbers for."""
    return [chart for chart in (_decode(report), _instructions(report)) if chart is not None]


def _chart(spec: Spec, key: str, caption: str, described: str) -> Chart:
    return Chart(key, draw(spec, f"chart-{key}", caption, described), caption)


def _decode(report: Report) -> Chart | None:
    """Median decode time, dense beside compressed, by device."""
    rows = [
        {"device": device["device"], "variant": name, "value": value, "text": f"{number(value)} ms"}
        for device in lookup(report, "devices") or []
        for name in ("dense", "compressed")
        if isinstance(value := lookup(device, "latency", "decode", name, "p50_ms"), int | float)
    ]
    if not rows:
        return None
    spec = _grouped(rows, "device", "variant", ["dense", "compressed"])
    described = ", ".join(f"{row['device']} {row['variant']} {row['text']}" for row in rows)
    caption = f"Median {words(report).time_of_one} by device, lower is better"
    return _chart(spec, "device-decode", caption, described)


def _instructions(report: Report) -> Chart | None:
    """The instruction chart of the first emulated device that has counts; None without one."""
    for device in lookup(report, "devices") or []:
        block = device.get("instructions")
        if not block:
            continue
        rows = [
            {"part": label, "variant": name, "value": value, "text": count(value)}
            for part, label in _PARTS.items()
            for name in ("dense", "compressed")
            if isinstance(value := lookup(block, name, part, "mean"), int | float)
        ]
        if not rows:
            continue
        spec = _grouped(rows, "part", "variant", ["dense", "compressed"])
        described = ", ".join(f"{row['variant']} {row['part']} {row['text']}" for row in rows)
        per = counted(report, device)
        caption = f"Executed instructions per {per}, {device['device']}, lower is better"
        return _chart(spec, "instructions", caption, described)
    return None


def _grouped(rows: list[dict[str, Any]], group: str, kind: str, kinds: list[str]) -> Spec:
    """Horizontal bars in groups, the number at the end of each."""
    most = max(row["value"] for row in rows) or 1
    colours = {"domain": kinds, "range": [f"var(--{name})" for name in kinds]}
    axis = {"title": None, "domain": False, "ticks": False, "grid": False, "labelPadding": 6}
    return {
        "data": {"values": rows},
        "height": {"step": 22},
        "encoding": {
            "y": {"field": group, "type": "nominal", "sort": None, "axis": axis},
            "yOffset": {"field": kind, "sort": kinds},
            "x": {
                "field": "value",
                "type": "quantitative",
                "axis": None,
                "scale": {"domain": [0, 1.5 * most], "nice": False},
            },
        },
        "layer": [
            {
                "mark": {"type": "bar", "cornerRadiusEnd": 3},
                "encoding": {
                    "color": {
                        "field": kind,
                        "type": "nominal",
                        "scale": colours,
                        "legend": {"orient": "top", "title": None},
                    }
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 5},
                "encoding": {"text": {"field": "text"}},
            },
        ],
    }
