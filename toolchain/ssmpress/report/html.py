"""report.html: one self-contained page that opens offline, from the dictionary alone.

The page has no script: the charts are SVG. Text of the report is escaped by the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.report import device_tables, prose, tables
from ssmpress.report.charts import draw_charts
from ssmpress.report.device_charts import draw_device_charts
from ssmpress.report.results import VARIANTS
from ssmpress.report.tables import Rows, lookup, number

Report = Mapping[str, Any]

_BADGES = {"pass": "\u2714 Pass", "fail": "\u2718 Fail", "inconclusive": "? Inconclusive"}
_SECTIONS = (
    ("comparison", "Comparison"), ("gates", "Gates"), ("latency", "Latency"),
    ("devices", "Devices"),
    ("sparsity", "Sparsity"), ("size", "Size"), ("setup", "Setup"), ("reproduce", "Reproduce"),
)  # fmt: skip


def render_html(report: Report) -> str:
    """The report as a page.

    Args:
        report: from `schema.build_report`, with or without its verdict.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ssmpress.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    safe = tables.printable(report)
    page = environment.get_template("report.html.j2").render(_context(safe))
    return page + "\n"


def _context(report: Report) -> dict[str, Any]:
    """Everything the template shows."""
    status = str(lookup(report, "verdict", "status") or "not judged")
    sentence = str(lookup(report, "verdict", "sentence") or "Not judged yet.")
    judged = status in _BADGES
    devices = device_tables.sentences(report)
    return {
        "version": lookup(report, "ssmpress_version"),
        "title": tables.title(report),
        "status": status,
        "status_class": status if judged else "",
        "badge": _BADGES.get(status, "Not judged"),
        "sentence": sentence.removeprefix(f"{status.capitalize()}: "),
        "sections": [section for section in _SECTIONS if section[0] != "devices" or devices],
        "devices": devices,
        "device_tables": device_tables.sections(report),
        "charts": [*draw_charts(report), *draw_device_charts(report)],
        "comparison": [_change_before_stock(row) for row in tables.comparison(report)],
        "rules": lookup(report, "verdict", "rules") or [],
        "gates": tables.gates(report),
        "latency_line": prose.latency(report),
        "latency": _latency(report),
        "sparsity_line": prose.sparsity(report),
        "sparsity": tables.sparsity(report),
        "formats": tables.formats(report),
        "matrices": tables.matrices(report),
        "data": _data(report),
        "quality_line": prose.quality(report),
        "parity_line": prose.parity(report),
        "environment": tables.environment(report),
        "recipe": [["setting", "value"], *_flat(report["recipe"])],
        "command": tables.command(report),
    }


def _change_before_stock(row: list[str]) -> list[str]:
    """The narrowest screen cuts the last column off; that should not be the gain."""
    metric, dense, stock, compressed, change = row
    return [metric, dense, compressed, change, stock]


def _latency(report: Report) -> Rows:
    rows = [["", "p50", "p90", "p99", "load cold", "load warm"]]
    for phase in ("prefill", "decode"):
        for name in VARIANTS:
            block = lookup(report, "latency", phase, name)
            if block is not None:
                load = lookup(report, "latency", "load", name) if phase == "prefill" else {}
                cells = [number(block.get(key)) for key in ("p50_ms", "p90_ms", "p99_ms")]
                loads = [number(load.get(key)) if load else "" for key in ("cold_ms", "warm_ms")]
                rows.append([f"{phase} {name}", *cells, *loads])
    return rows


def _data(report: Report) -> Rows:
    rows = [["purpose", "text", "tokens"]]
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
