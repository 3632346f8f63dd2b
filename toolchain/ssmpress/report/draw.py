"""The process that draws the charts: `python -m ssmpress.report.draw FOLDER`.

It renders report.html from the report.json beside it, and sweep.html from sweep.json, in the folder
and in those below. Drawing runs V8, which reserves so much address space that it aborts the whole
process where that is limited (`ulimit -v`): so it has a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ssmpress.files import read_json, write_text
from ssmpress.report.html import render_html
from ssmpress.report.sweep import SWEEP_NAME
from ssmpress.report.sweep_page import render_sweep_html


def draw_pages(folder: Path) -> None:
    """Render every page of a bundle's or a sweep's folder, with its charts."""
    for path in sorted(folder.rglob("report.json")):
        write_text(path.with_suffix(".html"), render_html(read_json(path)))
    for path in sorted(folder.rglob(SWEEP_NAME)):
        write_text(path.with_suffix(".html"), render_sweep_html(read_json(path)))


if __name__ == "__main__":
    draw_pages(Path(sys.argv[1]))
