"""sweep.md and sweep.html: the comparison of a sweep, from the dictionary of sweep.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.report import tables
from ssmpress.report.html import BADGES, environment_for
from ssmpress.report.markdown import markdown_cell, markdown_table
from ssmpress.report.tables import lookup
from ssmpress.report.tradeoff import draw_tradeoff

Summary = Mapping[str, Any]

_SECTIONS = (
    ("tradeoff", "Trade-off"),
    ("points", "Bundles"),
    ("setup", "Environment"),
    ("reproduce", "Reproduce"),
)


def render_sweep_html(summary: Summary, *, charts: bool = True) -> str:
    """The comparison as one self-contained page that opens offline.

    Args:
        charts: whether they are drawn, which needs V8 in this process (report/draw.py).
    """
    safe = tables.printable(summary)
    status = sweep_status(safe)
    context = {
        "version": safe["ssmpress_version"],
        "title": _title(safe),
        "status": status,
        "status_class": status,
        "badge": BADGES[status],
        "sentence": safe["sentence"].removeprefix(f"{status.capitalize()}: "),
        "sections": _SECTIONS,
        "charts": draw_tradeoff(safe["points"], lookup(safe, "pick", "chosen")) if charts else None,
        "points": tables.sweep_points(safe["points"]),
        "verdicts": [{**p, "report": f"{p['name']}/report.html"} for p in safe["points"]],
        "environment": tables.environment(safe),
        "command": tables.sweep_command(safe),
        "shared": _shared(safe),
    }
    return environment_for().get_template("sweep.html.j2").render(context) + "\n"


def render_sweep_markdown(summary: Summary) -> str:
    """The comparison as GitHub Markdown."""
    sections = [
        f"# {markdown_cell(_title(summary))}",
        f"**{markdown_cell(summary['sentence'])}**",
        markdown_table(tables.sweep_points(summary["points"])),
        "On the front: no other bundle has more quality for less latency, or for fewer bytes. "
        "Every bundle took turns with the dense model; `speed-up` is dense / compressed. "
        f"{_shared(summary)}",
        "## How to reproduce",
        f"```sh\n{tables.sweep_command(summary)}\n```",
        "Every number is in `sweep.json`; each folder has the report of its bundle.",
    ]
    return "\n\n".join(sections) + "\n"


def sweep_status(summary: Summary) -> str:
    """pass, fail or inconclusive, of what decides the exit code."""
    if summary["pick"]:
        return str(summary["pick"]["status"])
    code = summary["exit_code"]
    return str(next(p["status"] for p in summary["points"] if p["exit_code"] == code))


def _title(summary: Summary) -> str:
    name = str(lookup(summary, "recipe", "model")).rstrip("/").rsplit("/", 1)[-1]
    parts = ", ".join(f"{100 * part:g}" for part in summary["sparsities"])
    return f"{name} at {parts} % sparsity"


def _shared(summary: Summary) -> str:
    """What the points have in common, where it matters to a reader."""
    going_on = [p["name"] for p in summary["points"] if p["continued_from"] is not None]
    if not going_on:
        return "Every bundle was pruned from the dense model."
    return (
        "Recovery went on from the next lower sparsity, so that the later bundles have trained "
        "longer than they would have alone."
    )
