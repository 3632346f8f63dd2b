"""The documentation as a site: copies the pages, renders the benchmarks, runs mkdocs strictly.

    python docs/site/build.py build/docs

Pages lie in docs/, which mkdocs accepts only below its configuration: hence the copy. benchmarks.md
is rendered here from docs/benchmarks/*.json, so that no number is typed twice.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmpress.printable import amount
from ssmpress.report.markdown import markdown_cell, markdown_table
from ssmpress.report.tables import comparison, lookup

DOCS = Path(__file__).resolve().parents[1]
_NOT_PAGES = ("site", "__pycache__")


def main(out: Path) -> int:
    """Build the site into `out`; mkdocs' exit code."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shutil.copytree(DOCS, work / "pages", ignore=shutil.ignore_patterns(*_NOT_PAGES))
        (work / "pages" / "benchmarks.md").write_text(render_benchmarks(DOCS / "benchmarks"))
        shutil.copyfile(DOCS / "site" / "mkdocs.yml", work / "mkdocs.yml")
        command = [
            *(sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"),
            *("--config-file", str(work / "mkdocs.yml"), "--site-dir", str(out.resolve())),
        ]
        # mkdocs-material prints an advertisement for its successor without this.
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        return subprocess.run(command, env=environment).returncode


def render_benchmarks(folder: Path) -> str:
    """A page of every stored measurement: a table of each whole model, a line of each other."""
    models, others = [], []
    for file in sorted(folder.glob("*.json")):
        stored = json.loads(file.read_text())
        (models if is_report(stored) else others).append((file, stored))
    parts = [
        "# Benchmarks",
        "Every number carries its CPU, versions and commit in the JSON file it is rendered from. "
        "dense: the unpruned float32 model with the same op library; stock: the same file in plain "
        "ONNX Runtime. Variants of a run took turns.",
        *(text for file, stored in models for text in _model(file, stored)),
        "## Kernels and methods",
        "\n".join(_line(file, stored) for file, stored in others),
    ]
    return "\n\n".join(parts) + "\n"


def is_report(stored: Any) -> bool:
    """Whether it is a report of `compress`."""
    keys = ("schema_version", "quality", "size", "latency")
    return isinstance(stored, Mapping) and all(key in stored for key in keys)


def _model(file: Path, stored: Mapping[str, Any]) -> list[str]:
    environment = stored["environment"]
    return [
        f"## {markdown_cell(stored.get('title') or file.stem)}",
        markdown_table(comparison(stored)),
        f"{_where(environment)}; {_source(file, stored)}",
        f"    {stored['command']}" if stored.get("command") else "",
    ]


def _line(file: Path, stored: Any) -> str:
    block = stored if isinstance(stored, Mapping) else {}
    title = block.get("title") or file.stem.replace("_", " ")
    runs = block.get("runs")
    first = runs[0] if isinstance(runs, list) and runs and isinstance(runs[0], Mapping) else block
    where = _where(block.get("environment") or first)
    return f"* **{markdown_cell(title)}**: {where}{'; ' if where else ''}{_source(file, block)}"


def _where(environment: Mapping[str, Any]) -> str:
    isa = lookup(environment, "ops_isa") or lookup(environment, "isa")
    threads = lookup(environment, "threads")
    found = (
        lookup(environment, "cpu"),
        isa,
        amount(threads, "thread") if threads else None,
    )
    return markdown_cell(", ".join(str(part) for part in found if part))


def _source(file: Path, stored: Mapping[str, Any]) -> str:
    date, commit = stored.get("date"), stored.get("commit")
    told = ", ".join(filter(None, (date, f"commit {commit}" if commit else "")))
    return f"{markdown_cell(told)}{', ' if told else ''}[{file.name}](benchmarks/{file.name})"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
