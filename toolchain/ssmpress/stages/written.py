"""The last stage: the report in each of its renderings, and the manifest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssmpress import files
from ssmpress.bundle.files import run_it
from ssmpress.bundle.manifest import write_manifest
from ssmpress.bundle.names import REPORTS
from ssmpress.recipe.recipe import Recipe
from ssmpress.report.card import render_card
from ssmpress.report.html import render_html
from ssmpress.report.junit import render_junit
from ssmpress.report.markdown import render_markdown
from ssmpress.report.wording import command
from ssmpress.results.report import Report


def seal_bundle(
    recipe: Recipe, report: Report, names: Iterable[str], folder: Path, extra: dict[str, Any]
) -> None:
    """Reports and, last, the manifest over every file of the bundle.

    Args:
        names: the files that a device needs. extra: `manifest_entries`.
    """
    write_reports(recipe, report, folder)
    write_manifest(folder, [*names, *REPORTS], recipe, extra)


def write_reports(recipe: Recipe, report: Report, folder: Path) -> None:
    """The report in each of its renderings, the page without its charts."""
    files.write_json(folder / "report.json", dict(report))
    files.write_text(folder / "report.md", render_markdown(report))
    files.write_text(folder / "report.html", render_html(report, charts=False))
    files.write_text(folder / "junit.xml", render_junit({recipe.out.name: report}))
    commands = run_it(recipe.out.name, recipe.target.machine, command(report))
    files.write_text(folder / "README.md", render_card(report, commands))
