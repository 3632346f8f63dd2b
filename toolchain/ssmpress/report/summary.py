"""The summary of a GitHub job: verdict, gates and comparison of every report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ssmpress.errors import BadInputError
from ssmpress.report.markdown import render_summary
from ssmpress.results.report import Report

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
SUMMARY_LIMIT = (1 << 20) - 1
"""GitHub drops a step's summary of more than 1 MiB, all of it."""

_CUT = "\n\nThe rest is left out: a job summary has at most 1 MiB.\n"


def append_summary(path: Path, reports: Mapping[str, Report]) -> None:
    """Append what fits to the file that GITHUB_STEP_SUMMARY names.

    Raises:
        BadInputError: it cannot be written.
    """
    try:
        there = path.stat().st_size if path.exists() else 0
        text = "\n".join(render_summary(report) for report in reports.values())
        with path.open("ab") as file:
            file.write(cut(text, SUMMARY_LIMIT - there).encode())
    except OSError as error:
        raise BadInputError(f"{SUMMARY_VARIABLE}={path}: cannot be written: {error}.") from error


def cut(text: str, limit: int) -> str:
    """The first whole lines within `limit` bytes of UTF-8, and a note if some are left out."""
    content = text.encode()
    if len(content) <= limit:
        return text
    room = limit - len(_CUT.encode())
    if room <= 0:
        return ""
    return content[:room].rpartition(b"\n")[0].decode() + _CUT
