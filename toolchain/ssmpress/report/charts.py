"""Charts of the HTML report: report dictionary -> static SVG, drawn by Vega-Lite.

Colours are CSS variables of the page (`var(--ink)`), so that one drawing serves light and dark;
the heat map varies opacity instead of colour for the same reason. Each is 340 units wide with text
of 12, which is readable where a phone shows it one to one.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmpress.report import tables
from ssmpress.report.tables import lookup, number, size, zeros
from ssmpress.report.wording import higher_is_better, words
from ssmpress.results.report import VARIANTS, Report

Spec = dict[str, Any]

WIDTH = 340
_SVG = "http://www.w3.org/2000/svg"
_BINS = 48
_COLOURS = {name: f"var(--{name})" for name in VARIANTS}
_CONFIG: Spec = {
    "background": None,
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--soft)",
        "tickColor": "var(--line)",
        "domainColor": "var(--line)",
        "gridColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 120,
    },
    "text": {"color": "var(--ink)", "fontSize": 12},
    "legend": {"labelColor": "var(--ink)", "titleColor": "var(--soft)", "labelFontSize": 12},
    "header": {"labelColor": "var(--ink)", "labelFontSize": 12},
}


@dataclass(frozen=True)
class Chart:
    """svg: safe to put into the page. caption: what it shows, in one sentence."""

    key: str
    svg: str
    caption: str


def draw_charts(report: Report) -> list[Chart]:
    """Every chart the report has the numbers for."""
    charts = [*_comparisons(report)]
    charts += filter(None, (_distribution(report), _heat_map(report), _formats(report)))
    return charts


_Metric = tuple[str, str, dict[str, Any], Callable[[Any], str]]


def _comparisons(report: Report) -> list[Chart]:
    """One small chart of bars per metric: dense, stock, compressed."""
    bars = []
    for key, title, values, text in _metrics(report):
        rows = [
            {"variant": name, "value": value, "text": text(value)}
            for name, value in values.items()
            if isinstance(value, int | float)
        ]
        if len(rows) > 1:
            described = ", ".join(f"{row['variant']} {row['text']}" for row in rows)
            caption = f"{title[0].upper()}{title[1:]}"
            bars.append(Chart(key, draw(_bars(rows), f"chart-{key}", caption, described), caption))
    return bars


def _metrics(report: Report) -> tuple[_Metric, ...]:
    """(name, title, value by variant, how a value is written) of each."""
    quality, phrases = report["quality"], words(report)
    better = "higher" if higher_is_better(report) else "lower"
    return (
        (
            "quality",
            f"{quality['metric'] or 'quality'}, {better} is better",
            {"dense": quality["dense"], "compressed": quality["compressed"]},
            number,
        ),
        (
            "size",
            "model size, lower is better",
            {
                "dense": lookup(report, "size", "dense_fp32_bytes"),
                "compressed": lookup(report, "size", "model_bytes"),
            },
            size,
        ),
        (
            "memory",
            "peak memory, lower is better",
            {n: lookup(report, "memory", f"{n}_peak_rss_bytes") for n in VARIANTS},
            size,
        ),
        (
            "decode",
            f"median time of one {phrases.one}, lower is better",
            {n: lookup(report, "latency", "decode", n, "p50_ms") for n in VARIANTS},
            lambda value: f"{number(value)} ms",
        ),
        (
            "prefill",
            f"{phrases.many}: {phrases.steps} per second, higher is better",
            {n: lookup(report, "latency", "prefill", n, "tokens_per_s") for n in VARIANTS},
            number,
        ),
    )


def _bars(rows: list[dict[str, Any]]) -> Spec:
    """Horizontal bars, the number at the end of each."""
    most = max(row["value"] for row in rows) or 1
    y = {"field": "variant", "type": "nominal", "sort": None, "axis": _plain_axis()}
    x = {
        "field": "value",
        "type": "quantitative",
        "axis": None,
        "scale": {"domain": [0, 1.45 * most], "nice": False},
    }
    return {
        "data": {"values": rows},
        "height": {"step": 26},
        "encoding": {"y": y, "x": x},
        "layer": [
            {
                "mark": {"type": "bar", "cornerRadiusEnd": 3, "height": 16},
                "encoding": {"color": _variant_colour()},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 5},
                "encoding": {"text": {"field": "text"}},
            },
        ],
    }


def _distribution(report: Report) -> Chart | None:
    """Histograms of the raw decode samples of the measured rounds, one row per variant."""
    samples = {name: _samples(report, name) for name in VARIANTS}
    drawn = {name: values for name, values in samples.items() if values.size}
    if not drawn:
        return None
    everything = np.concatenate(list(drawn.values()))
    edges = np.geomspace(everything.min() * 0.98, everything.max() * 1.02, _BINS + 1)
    bins, marks = [], []
    for name, values in drawn.items():
        counts = np.histogram(values, edges)[0]
        bins += [
            {"variant": name, "low": low, "high": high, "share": count / values.size}
            for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
            if count
        ]
        p50, p99 = np.percentile(values, [50, 99])
        marks += [{"variant": name, "ms": p50, "mark": "p50"}]
        marks += [{"variant": name, "ms": p99, "mark": "p99"}]
    described = "; ".join(
        f"{name}: {values.size} samples, median {number(float(np.median(values)))} ms, "
        f"99th percentile {number(float(np.percentile(values, 99)))} ms"
        for name, values in drawn.items()
    )
    phrases = words(report)
    caption = f"Every {phrases.sample} sample of the measured rounds: share "
    caption += "per millisecond bin, log scale"
    domain = [float(edges[0]), float(edges[-1])]
    spec = _histograms(bins, marks, list(drawn), domain, phrases.one)
    return Chart("samples", draw(spec, "chart-samples", caption, described), caption)


def _histograms(
    bins: list[dict[str, Any]],
    marks: list[dict[str, Any]],
    names: list[str],
    domain: list[float],
    one: str,
) -> Spec:
    scale = {"type": "log", "domain": domain, "nice": False}
    axis = {"title": f"milliseconds per {one}", "grid": False, "tickCount": 5, "format": "~g"}
    rows = []
    for name in names:
        last = name == names[-1]
        x = {
            "field": "low",
            "type": "quantitative",
            "scale": scale,
            "axis": axis if last else {**axis, "labels": False, "ticks": False, "title": None},
        }
        own_bins = [row for row in bins if row["variant"] == name]
        own_marks = [row for row in marks if row["variant"] == name]
        rows.append(_row_of(name, own_bins, own_marks, x))
    return {"vconcat": rows, "spacing": 6}


def _row_of(name: str, bins: list[Spec], marks: list[Spec], x: Spec) -> Spec:
    """One variant's bins, and its marks as dashed lines with their names."""
    y = {
        "field": "share",
        "type": "quantitative",
        "axis": {
            "title": name,
            "labels": False,
            "ticks": False,
            "grid": False,
            "domain": False,
            "titleColor": "var(--ink)",
            "titleAngle": 0,
            "titleAlign": "right",
        },
        "scale": {"domain": [0, 1.35 * max(row["share"] for row in bins)], "nice": False},
    }
    bar = {
        "data": {"values": bins},
        "mark": {"type": "bar", "color": _COLOURS[name], "binSpacing": 0},
        "encoding": {"x": {**x, "bin": {"binned": True}}, "x2": {"field": "high"}, "y": y},
    }
    position = {"field": "ms", "type": "quantitative", "scale": x["scale"]}
    rule = {
        "data": {"values": marks},
        "mark": {"type": "rule", "color": "var(--ink)", "strokeDash": [3, 2]},
        "encoding": {"x": position},
    }
    labels = [
        {
            "data": {"values": [mark]},
            "mark": {"type": "text", "align": "left", "dx": 3, "y": 6 + 12 * line},
            "encoding": {"x": position, "text": {"field": "mark"}},
        }
        for line, mark in enumerate(marks)  # close together, they would overlap
    ]
    return {"height": 60, "width": WIDTH - 90, "layer": [bar, rule, *labels]}


def _samples(report: Report, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    turns = lookup(report, "latency", "samples", name) or []
    values = [sample for turn in turns if not turn["warmup"] for sample in turn["decode_ms"]]
    known = [value for value in values if isinstance(value, int | float) and value > 0]
    return np.array(known, np.float64)


def _heat_map(report: Report) -> Chart | None:
    """Share of zeros by layer and component."""
    heading, *layers = tables.sparsity(report)[:-1]
    names = heading[1:-1]
    if not layers:
        return None
    blocks = report["sparsity"]["by_layer"]
    cells = [
        {
            "layer": block["layer"],
            "component": name,
            "share": share,
            "text": _whole_percent(share) if len(blocks) <= 32 else "",
        }
        for block in blocks
        for name in names
        if isinstance(share := block["by_component"].get(name), int | float)
    ]
    if not cells:
        return None
    spec = _heat_spec(cells, names, 20 if len(blocks) <= 32 else 8)
    shares = [cell["share"] for cell in cells]
    caption = "Zeros by layer and component, percent; the fuller the colour, the more zeros"
    described = (
        f"{len(blocks)} layers, {', '.join(names)}; from {zeros(min(shares))} to "
        f"{zeros(max(shares))}. The table below has every number."
    )
    return Chart("sparsity", draw(spec, "chart-sparsity", caption, described), caption)


def _heat_spec(cells: list[dict[str, Any]], names: list[str], step: int) -> Spec:
    """A rectangle per cell, `step` pixels high, the fuller the more zeros."""
    y = {"field": "layer", "type": "ordinal", "axis": {**_plain_axis(), "title": "layer"}}
    x = {
        "field": "component",
        "type": "nominal",
        "sort": names,
        "axis": {**_plain_axis(), "orient": "top", "labelAngle": 0},
    }
    opacity = {
        "field": "share",
        "type": "quantitative",
        "legend": None,
        "scale": {"domain": [0, 1], "range": [0.04, 0.6]},
    }
    return {
        "data": {"values": cells},
        "height": {"step": step},
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "mark": {"type": "rect", "color": "var(--heat)", "cornerRadius": 2},
                "encoding": {"fillOpacity": opacity},
            },
            {"mark": "text", "encoding": {"text": {"field": "text"}}},
        ],
    }


def _whole_percent(share: float) -> str:
    """A part as a percentage without a decimal; 100 and 0 are only what is exactly that."""
    text = f"{100 * share:.0f}"
    return zeros(share).removesuffix(" %") if text in ("0", "100") and share not in (0, 1) else text


def _formats(report: Report) -> Chart | None:
    """Bytes by matrix format: as stored, and as dense float32."""
    rows = [
        {"format": name, "kind": kind, "value": entry[key], "text": size(entry[key])}
        for name, entry in report["size"]["by_format"].items()
        for kind, key in (("dense fp32", "dense_fp32_bytes"), ("stored", "bytes"))
    ]
    if not rows:
        return None
    most = max(row["value"] for row in rows) or 1
    colours = {"domain": ["dense fp32", "stored"], "range": ["var(--dense)", "var(--compressed)"]}
    offset = {"field": "kind", "sort": None}
    spec = {
        "data": {"values": rows},
        "height": {"step": 22},
        "encoding": {
            "y": {"field": "format", "type": "nominal", "sort": None, "axis": _plain_axis()},
            "yOffset": offset,
            "x": {
                "field": "value",
                "type": "quantitative",
                "axis": None,
                "scale": {"domain": [0, 1.35 * most], "nice": False},
            },
        },
        "layer": [
            {
                "mark": {"type": "bar", "cornerRadiusEnd": 3},
                "encoding": {
                    "color": {
                        "field": "kind",
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
    caption = "Size by matrix format: as stored, and the same weights as dense float32"
    described = ", ".join(f"{row['format']} {row['kind']} {row['text']}" for row in rows)
    return Chart("formats", draw(spec, "chart-formats", caption, described), caption)


def _plain_axis() -> Spec:
    return {"title": None, "domain": False, "ticks": False, "grid": False, "labelPadding": 6}


def _variant_colour() -> Spec:
    scale = {"domain": list(VARIANTS), "range": [_COLOURS[name] for name in VARIANTS]}
    return {"field": "variant", "type": "nominal", "legend": None, "scale": scale}


def draw(spec: Spec, key: str, title: str, description: str) -> str:
    """SVG of a Vega-Lite drawing, safe to put into a page.

    Args:
        key: unique in the page. title, description: what screen readers read instead of the marks.
    """
    import vl_convert

    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "config": _CONFIG,
        "width": WIDTH - 90,
        "padding": {"left": 14, "right": 4, "top": 4, "bottom": 4},
        **spec,
    }
    drawn = vl_convert.vegalite_to_svg(whole, vl_version="5.20")
    return _named(drawn, key, title, description)


def _named(drawn: str, key: str, title: str, description: str) -> str:
    clips = dict.fromkeys(re.findall(r'id="(clip\d+)"', drawn))  # Vega counts on from page to page
    for position, clip in enumerate(clips):
        drawn = re.sub(rf"\b{clip}\b", f"{key}-clip-{position}", drawn)
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(drawn)
    parts: Sequence[tuple[str, str]] = (("title", title), ("desc", description))
    for element in root.iter():
        for name in [n for n in element.attrib if n == "role" or n.startswith("aria-")]:
            del element.attrib[name]
    for position, (tag, text) in enumerate(parts):
        child = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{key}-{tag}"})
        child.text = text
        root.insert(position, child)
    root.set("role", "img")
    root.set("aria-labelledby", f"{key}-title {key}-desc")
    return ElementTree.tostring(root, encoding="unicode")
