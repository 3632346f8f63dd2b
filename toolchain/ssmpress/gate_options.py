"""The gate's options, the same for `compress` and `ssmpress-gate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Gates"


def _limit(help_text: str, default: str | None = None) -> typer.models.OptionInfo:
    """A limit: a number, or a multiple of the baseline."""
    info: typer.models.OptionInfo = typer.Option(
        help=help_text,
        metavar="NUMBER|FACTORx",
        rich_help_panel=PANEL,
        show_default=default or False,
    )
    return info


RETENTION_HELP = "Least dense perplexity / compressed perplexity."
MinRetention = Annotated[str | None, _limit(RETENTION_HELP)]
DefaultMinRetention = Annotated[str | None, _limit(RETENTION_HELP, "0.95; none with --gate")]
MaxPerplexityIncrease = Annotated[
    str | None,
    _limit("Most of compressed / dense perplexity - 1; FACTORx compares with the baseline's."),
]
MaxDecodeMs = Annotated[str | None, _limit("Most milliseconds per decoded token (median).")]
MaxDecodeP99Ms = Annotated[
    str | None, _limit("Most milliseconds per decoded token (99th percentile).")
]
MinSpeedup = Annotated[str | None, _limit("Least dense decode time / compressed decode time.")]
MaxBundleBytes = Annotated[str | None, _limit("Most bytes of what a device needs.")]
MaxRssBytes = Annotated[str | None, _limit("Most bytes of peak memory.")]
Baseline = Annotated[
    Path | None,
    typer.Option(
        help="report.json that limits such as 1.05x are multiples of.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
