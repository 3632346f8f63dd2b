"""report.html: one self-contained page that opens offline, from the dictionary alone.

The page has no script: the charts are SVG. Text of the report is escaped by the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssmpress.report import classes, device_tables, prose, tables
from ssmpress.report.charts import Chart, draw_charts
from ssmpress.report.class_charts import draw_confusion
from ssmpress.report.device_charts import draw_device_charts
from ssmpress.report.tables import Rows, lookup, number
from ssmpress.report.tradeoff import draw_tradeoff
from ssmpress.report.wording import words
from ssmpress.results.report import VARIANTS, Report

if TYPE_CHECKING:
    from jinja2 import Environment


BADGES = {"pass": "\u2714 Pass", "fail": "\u2718 Fail", "inconclusive": "? Inconclusive"}
_SECTIONS = (
    ("comparison", "Comparison"),
    ("classes", "Classes"),
    ("gates", "Gates"),
    ("tradeoff", "Trade-off"),
    ("latency", "Latency"),
    ("devices", "Devices"),
    ("sparsity", "Sparsity"),
    ("size", "Size"),
    ("setup", "Setup"),
    ("reproduce", "Reproduce"),
)


def render_html(report: Report, *, charts: bool = True) -> str:
    """The report as a page.

    Args:
        report: from `schema.build_report`, with or without its verdict.
        charts: whether they are drawn, which needs V8 in this process (report/draw.py).
    """
    safe = tables.printable(report)
    context = _context(safe) | {"charts": _charts(safe) if charts else None}
    return environment_for().get_template("report.html.j2").render(context) + "\n"


def environment_for() -> Environment:
    """The pages' templates; what they show is escaped unless marked safe."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("ssmpress.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def _context(report: Report) -> dict[str, Any]:
    """Everything the template shows."""
    status = str(lookup(report, "verdict", "status") or "not judged")
    sentence = str(lookup(report, "verdict", "sentence") or "Not judged yet.")
    judged = status in BADGES
    tradeoff = report.get("tradeoff") or {}
    points = tradeoff.get("points") or []
    devices = device_tables.sentences(report)
    by_class = classes.block_of(report) is not None
    empty = {"tradeoff": not points, "devices": not devices, "classes": not by_class}
    return {
        "sizes": prose.SIZES,
        "version": lookup(report, "ssmpress_version"),
        "title": tables.title(report),
        "status": status,
        "status_class": status if judged else "",
        "badge": BADGES.get(status, "Not judged"),
        "sentence": sentence.removeprefix(f"{status.capitalize()}: "),
        "sections": [section for section in _SECTIONS if not empty.get(section[0])],
        "tradeoff": tables.sweep_points(points) if points else [],
        "tradeoff_name": tradeoff.get("this"),
        "devices": devices,
        "device_tables": device_tables.sections(report),
        "comparison": [_change_first(row) for row in tables.comparison(report)],
        "class_notes": classes.notes(report),
        "by_class": classes.by_class(report) if by_class else [],
        "confusion": [
            (variant, rows)
            for variant in classes.VARIANTS
            if len(rows := classes.confusion(report, variant)) > 1
        ],
        "rules": lookup(report, "verdict", "rules") or [],
        "gates": tables.gates(report),
        "latency_line": prose.latency(report),
        "latency": _latency(report),
        "sparsity_line": prose.sparsity(report),
        "sparsity": tables.sparsity(report),
        "formats": tables.formats(report),
        "matrices": tables.matrices(report),
        "data": _data(report),
        "architecture_line": prose.architecture(report),
        "text_lines": list(filter(None, (prose.ends(report), prose.ssmrun_lacks(report)))),
        "quality_line": prose.quality(report),
        "parity_line": prose.parity(report),
        "environment": tables.environment(report),
        "recipe": [["setting", "value"], *_flat(report["recipe"])],
        "command": tables.command(report),
    }


def _charts(report: Report) -> list[Chart]:
    tradeoff = report.get("tradeoff") or {}
    return [
        *draw_charts(report),
        *draw_confusion(report),
        *draw_device_charts(report),
        *draw_tradeoff(tradeoff.get("points") or [], tradeoff.get("this")),
    ]


def _change_first(row: list[str]) -> list[str]:
    """What it is about stands first: a narrow screen cuts the last columns off."""
    metric, dense, stock, compressed, change = row
    return [metric, change, dense, compressed, stock]


def _latency(report: Report) -> Rows:
    rows = [["", "p50", "p90", "p99", "load cold", "load warm"]]
    phrases = words(report)
    for phase, called in (("prefill", phrases.many), ("decode", phrases.single)):
        for name in VARIANTS:
            block = lookup(report, "latency", phase, name)
            if block is not None:
                load = lookup(report, "latency", "load", name) if phase == "prefill" else {}
                cells = [number(block.get(key)) for key in ("p50_ms", "p90_ms", "p99_ms")]
                loads = [number(load.get(key)) if load else "" for key in ("cold_ms", "warm_ms")]
                rows.append([f"{called} {name}", *cells, *loads])
    return rows


def _data(report: Report) -> Rows:
    rows = [["purpose", "source", words(report).steps]]
    for purpose in ("calibration", "evaluation"):
        text = report["data"][purpose]
        rows.append([purpose, text["description"], number(text["tokens"])])
    return rows


def _flat(value: Any, path: str = "") -> Rows:
    """Settings as rows of `group.name` and value."""
    if isinstance(value, Mapping) and value:
        return [
            row for key, item in value.items() for row in _flat(item, f"{path}.{key}".lstrip("."))
        ]
    if isinstance(value, list):
        return [[path, ", ".join(map(str, value)) or "none"]]
    return [[path, "none" if value is None else str(value)]]
