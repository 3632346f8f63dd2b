"""The report's tables for a terminal of 80 columns, on stderr; NO_COLOR is rich's to honour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ssmpress.printable import visible
from ssmpress.report import tables
from ssmpress.report.device_tables import headlines
from ssmpress.report.prose import crowding
from ssmpress.report.sweep_page import sweep_status
from ssmpress.report.tables import lookup, percent
from ssmpress.results.report import FAIL, INCONCLUSIVE, PASS, Report

WIDTH = 80
_STYLES = {PASS: "bold green", FAIL: "bold red", INCONCLUSIVE: "bold yellow"}


class SafeConsole(Console):
    """A console on which only rich itself controls the terminal; texts cannot: see `visible`."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """rich's segments, each with its text made visible."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(visible(text), style)


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the comparison, the sparsity line and, last, the verdict.

    Args:
        report: from `schema.build_report`, with or without its verdict.
        console: None is stderr.
    """
    target = console or SafeConsole(stderr=True)
    target.print(render_terminal(report), width=min(WIDTH, target.width))


def print_sweep(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the bundles of a sweep, the picked one marked, and the verdict."""
    target = console or SafeConsole(stderr=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for position, name in enumerate(
        ("bundle", "kept", "decode ms", "speed-up", "model", "front", "verdict")
    ):
        table.add_column(name, justify="right" if 0 < position < 5 else "left", no_wrap=True)
    chosen = lookup(summary, "pick", "chosen")
    for point in summary["points"]:
        table.add_row(
            Text(point["name"], style="bold" if point["name"] == chosen else ""),
            percent(point["retention"]),
            tables.number(point["decode_ms"]),
            tables.ratio(point["speedup"]),
            tables.size(point["model_bytes"]),
            ", ".join(axis for axis, there in point["front"].items() if there),
            Text(point["status"], style=_STYLES.get(point["status"], "")),
        )
    status = sweep_status(summary)
    sentence = Text(summary["sentence"], style=_STYLES.get(status, ""))
    target.print(Group(table, sentence), width=min(WIDTH, target.width))


def render_terminal(report: Report) -> Group:
    """What `print_report` prints."""
    heading, *body = tables.comparison(report)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for position, name in enumerate(heading):
        table.add_column(name, justify="right" if position else "left", no_wrap=position < 4)
    for row in body:
        table.add_row(*map(Text, row))
    block = report["sparsity"]
    components = ", ".join(
        f"{name} {tables.zeros(value)}" for name, value in block["by_component"].items()
    )
    zeros = (
        f"zeros: {tables.zeros(block['prunable'])} of prunable, "
        f"{tables.zeros(block['model'])} of all weights ({components})"
    )
    status = lookup(report, "verdict", "status")
    sentence = lookup(report, "verdict", "sentence") or "Not judged yet."
    devices = [Text(line) for line in (*headlines(report), crowding(report["latency"])) if line]
    return Group(table, Text(zeros), *devices, Text(sentence, style=_STYLES.get(status, "")))
