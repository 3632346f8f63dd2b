"""The command `ssmpress-gate`: stored reports -> verdict. Needs neither torch nor ONNX Runtime."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmpress.cli import options
from ssmpress.cli.entry import run_app
from ssmpress.cli.streams import say
from ssmpress.errors import BadInputError, UsageError
from ssmpress.gate.exit_code import gravest
from ssmpress.gate.policy import gate_settings
from ssmpress.recipe.settings.gate import RULES, GateSettings

EPILOG = """
[bold]Example[/bold]  ssmpress-gate build/bundle/report.json --policy policy.toml --junit gate.xml

[bold]Exit codes[/bold]  0 pass, 2 usage, 3 quality failed, 4 latency or size failed,
5 inconclusive, 6 bad input. Of several reports the gravest decides: 3, then 4, then 5.
"""

app = typer.Typer(add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog=EPILOG, no_args_is_help=True)
@options.with_settings(GateSettings, defaults=False)
def gate(
    reports: Annotated[
        list[Path],
        typer.Argument(metavar="REPORT...", help="report.json of a bundle, or its folder."),
    ],
    policy: options.Policy = None,
    *,
    given: options.Given,
    verify_key: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            help="Public key that must have signed each report's bundle (model.sig).",
            show_default=False,
        ),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="Write JUnit XML here.", show_default=False)
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the verdicts as JSON on stdout.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
    version: options.Version = False,
) -> None:
    """Hold stored reports against limits.

    With GITHUB_STEP_SUMMARY set, the verdicts are also appended to the job's summary.
    """
    limits = given[""]
    settings = gate_settings(limits, policy, limits.pop("baseline", None))
    if not settings.limits():
        raise UsageError(
            f"expected --policy or at least one limit of {', '.join(RULES)}; got none, and a gate "
            "without a limit would always pass."
        )
    if verify_key is not None:
        _verify(reports, verify_key)
    judged = _judge(reports, settings, seed)
    _write(judged, junit)
    _print(judged, json_output)
    raise typer.Exit(gravest(report["verdict"]["exit_code"] for report in judged.values()))


def _verify(paths: list[Path], key: Path) -> None:
    """The signatures of the bundles that the reports lie in."""
    from ssmpress.bundle.manifest import MANIFEST_NAME, has_manifest
    from ssmpress.bundle.names import REPORT_NAME
    from ssmpress.bundle.signature import verify_signature

    for path in paths:
        folder = path if path.is_dir() else path.parent
        if not has_manifest(folder) or path not in (folder, folder / REPORT_NAME):
            raise BadInputError(
                f"{path}: expected the report.json of a bundle, beside its {MANIFEST_NAME}: "
                "--verify-key judges what a signature can cover."
            )
        verify_signature(folder, key)


def _judge(paths: list[Path], settings: GateSettings, seed: int) -> dict[str, dict[str, Any]]:
    """The reports with their new verdicts, by path."""
    from ssmpress.gate.judge import judge, read_report
    from ssmpress.report.schema import with_verdict

    baseline = None if settings.baseline is None else read_report(settings.baseline)
    judged = {}
    for path in paths:
        report = read_report(path)
        verdict = judge(report, settings, seed=seed, baseline=baseline)
        judged[str(path)] = with_verdict(report, verdict)
    return judged


def _write(judged: dict[str, dict[str, Any]], junit: Path | None) -> None:
    from ssmpress.files import write_text
    from ssmpress.report.junit import render_junit
    from ssmpress.report.summary import SUMMARY_VARIABLE, append_summary

    if junit is not None:
        write_text(junit, render_junit(judged))
    if summary := os.environ.get(SUMMARY_VARIABLE):
        append_summary(Path(summary), judged)


def _print(judged: dict[str, dict[str, Any]], json_output: bool) -> None:
    if json_output:
        verdicts = {path: report["verdict"] for path, report in judged.items()}
        say(json.dumps(verdicts, allow_nan=False))
        return
    for path, report in judged.items():
        verdict = report["verdict"]
        say(f"{path}: {verdict['status']}")
        for rule in verdict["rules"]:
            say(f"  {rule['status']:<12} {rule['message']}")


def main() -> None:
    """Entry point of `ssmpress-gate`."""
    sys.exit(run_app(app))
