"""report.md: the report for a reader, from the dictionary alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.report import tables
from ssmpress.report.tables import Rows, lookup, number, percent, size


def render_markdown(report: Mapping[str, Any]) -> str:
    """The report as GitHub Markdown.

    Args:
        report: from `schema.build_report`, with or without its verdict.
    """
    sections = [
        f"# {_cell(tables.title(report))}",
        _sentence(report),
        _table(tables.comparison(report)),
        _explanation(report),
        "## Gates",
        _gates(report),
        "## Sparsity",
        _sparsity_line(report),
        _table(tables.sparsity(report)),
        "## Size by matrix format",
        _table(tables.formats(report)),
        _matrices(report),
        "## Parity",
        _parity(report),
        "## Environment",
        _environment(report),
        "## How to reproduce",
        f"```sh\n{tables.command(report)}\n```",
        "The full recipe, every raw latency sample and every matrix are in `report.json`.",
    ]
    return "\n\n".join(sections) + "\n"


def render_summary(report: Mapping[str, Any]) -> str:
    """The verdict, the gates and the comparison, for the summary of a CI job."""
    sections = [
        f"## {_cell(tables.title(report))}",
        _sentence(report),
        _gates(report),
        _table(tables.comparison(report)),
    ]
    return "\n\n".join(sections) + "\n"


def _sentence(report: Mapping[str, Any]) -> str:
    return f"**{_cell(lookup(report, 'verdict', 'sentence') or 'Not judged yet.')}**"


def _explanation(report: Mapping[str, Any]) -> str:
    quality, data = report["quality"], report["data"]
    lines = [
        "dense: the unpruned checkpoint with the same op library, the baseline of every gate. "
        "stock: the same file in ONNX Runtime without the library. compressed: this bundle.",
        f"Quality: {quality['metric']} over {quality['tokens']:,} predictions in "
        f"{quality['windows']:,} windows of {quality['window']} tokens{_interval(quality)}.",
    ]
    for purpose in ("calibration", "evaluation"):
        text = data[purpose]
        lines.append(
            f"{purpose.capitalize()} text: {_cell(text['description'])}, {text['tokens']:,} tokens."
        )
    if latency := report["latency"]:
        rounds = len(next(iter(latency["samples"].values()))) - 1
        lines.append(
            f"Latency: {latency['threads']} thread(s), prefill of {latency['prompt_tokens']} "
            f"tokens, {rounds} interleaved rounds after one to warm up."
        )
    return "\n".join(f"- {line}" for line in lines)


def _interval(quality: Mapping[str, Any]) -> str:
    interval = quality["retention_interval"]
    if interval is None:
        return ""
    return (
        f"; retention {percent(interval['low'])} to {percent(interval['high'])} "
        f"({interval['confidence']:.0%} interval over the windows)"
    )


def _gates(report: Mapping[str, Any]) -> str:
    rules = lookup(report, "verdict", "rules") or []
    if not rules:
        return "No limit was set."
    rows = [["rule", "limit", "value", "interval", "verdict"]]
    for rule in rules:
        interval = rule["interval"]
        spread = f"{number(interval['low'])} to {number(interval['high'])}" if interval else ""
        rows.append(
            [rule["name"], number(rule["limit"]), number(rule["value"]), spread, rule["status"]]
        )
    return _table(rows)


def _sparsity_line(report: Mapping[str, Any]) -> str:
    block = report["sparsity"]
    return (
        f"{percent(block['prunable'])} of the {block['prunable_weights']:,} prunable weights are "
        f"zero; {percent(block['model'])} of all {block['model_weights']:,}."
    )


def _matrices(report: Mapping[str, Any]) -> str:
    rows = [["matrix", "shape", "sparsity", "format", "bytes", "why"]]
    for matrix in report["matrices"]:
        shape = f"{matrix['rows']} x {matrix['columns']}"
        rows.append(
            [matrix["name"], shape, percent(matrix["sparsity"]), matrix["format"],
             f"{matrix['bytes']:,}", matrix["reason"]]
        )  # fmt: skip
    body = _table(rows)
    return f"<details><summary>Every matrix</summary>\n\n{body}\n\n</details>"


def _parity(report: Mapping[str, Any]) -> str:
    parity = report["parity"]
    if parity["first_bad"] is not None:
        return f"**Failed:** {_cell(parity['reason'])}"
    return (
        f"Logits and states of the ONNX graph and of the masked PyTorch model differ by at most "
        f"{number(parity['max_abs'], 2)} (absolute) and {number(parity['max_rel'], 2)} (of the "
        f"largest value), over {parity['tensors']} tensors; at most {parity['tolerance']:g} "
        "relative is allowed."
    )


def _environment(report: Mapping[str, Any]) -> str:
    rows = [["", ""]]
    for key, value in report["environment"].items():
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        if key == "memory_bytes":
            text = size(value)
        if value is not None:
            rows.append([key, text])
    return _table(rows)


def _table(rows: Rows) -> str:
    """GitHub table; every column but the first is aligned to the right."""
    heading, *body = [[_cell(cell) for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, rule, *body))


def _cell(text: str) -> str:
    """One line, with the characters that Markdown would act on escaped."""
    flat = " ".join(str(text).split())
    for character in "\\|<>`*[]":
        flat = flat.replace(character, "\\" + character)
    return flat
