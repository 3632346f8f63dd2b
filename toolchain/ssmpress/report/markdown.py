"""report.md: the report for a reader, from the dictionary alone."""

from __future__ import annotations

from ssmpress.report import classes, device_tables, prose, tables
from ssmpress.report.tables import Rows, lookup
from ssmpress.report.wording import words
from ssmpress.results.report import Report


def render_markdown(report: Report) -> str:
    """The report as GitHub Markdown.

    Args:
        report: from `schema.build_report`, with or without its verdict.
    """
    sections = [
        f"# {markdown_cell(tables.title(report))}",
        _sentence(report),
        markdown_table(tables.comparison(report)),
        _explanation(report),
        *_classes(report),
        "## Gates",
        _gates(report),
        *_devices(report),
        *_tradeoff(report),
        "## Sparsity",
        prose.sparsity(report),
        markdown_table(tables.sparsity(report)),
        "## Size by matrix format",
        markdown_table(tables.formats(report)),
        prose.SIZES,
        _matrices(report),
        "## Parity",
        _parity(report),
        "## Environment",
        markdown_table(tables.environment(report)),
        "## How to reproduce",
        f"```sh\n{tables.command(report)}\n```",
        "The full recipe, every raw latency sample and every matrix are in `report.json`.",
    ]
    return "\n\n".join(sections) + "\n"


def render_summary(report: Report) -> str:
    """The verdict, the gates and the comparison, for the summary of a CI job."""
    sections = [
        f"## {markdown_cell(tables.title(report))}",
        _sentence(report),
        _gates(report),
        markdown_table(tables.comparison(report)),
    ]
    return "\n\n".join(sections) + "\n"


def _sentence(report: Report) -> str:
    return f"**{markdown_cell(lookup(report, 'verdict', 'sentence') or 'Not judged yet.')}**"


def _explanation(report: Report) -> str:
    data = report["data"]
    lines = [
        "dense: the unpruned checkpoint with the same op library, the baseline of every gate. "
        "stock: the same file in ONNX Runtime without the library. compressed: this bundle.",
        markdown_cell(prose.quality(report)),
    ]
    for purpose in ("calibration", "evaluation"):
        text = data[purpose]
        described = markdown_cell(text["description"])
        amount = f"{text['tokens']:,} {words(report).steps}"
        lines.append(f"{purpose.capitalize()} data: {described}, {amount}.")
    known = (prose.architecture(report), prose.ends(report), prose.ssmrun_lacks(report))
    lines += filter(None, (prose.latency(report), *map(markdown_cell, known)))
    return "\n".join(f"- {line}" for line in lines)


def _gates(report: Report) -> str:
    rows = tables.gates(report)
    return markdown_table(rows) if len(rows) > 1 else "No limit was set."


def _classes(report: Report) -> list[str]:
    """A classifier's answers."""
    if classes.block_of(report) is None:
        return []
    blocks = ["## Answers by class", *map(markdown_cell, classes.notes(report))]
    blocks.append(markdown_table(classes.by_class(report)))
    for variant in classes.VARIANTS:
        rows = classes.confusion(report, variant)
        if len(rows) > 1:
            blocks += [f"Texts by true class and answer, {variant}:", markdown_table(rows)]
    return blocks


def _tradeoff(report: Report) -> list[str]:
    """The other bundles of the sweep, if there was one."""
    block = report.get("tradeoff")
    if not block:
        return []
    return [
        "## Trade-off",
        f"This bundle is {markdown_cell(block['this'])}, one of a sweep:",
        markdown_table(tables.sweep_points(block["points"])),
    ]


def _devices(report: Report) -> list[str]:
    """The section of the devices; empty where the report says nothing of its target."""
    lines = device_tables.sentences(report)
    if not lines:
        return []
    blocks = ["## Devices", "\n".join(f"- {markdown_cell(line)}" for line in lines)]
    for title, rows in device_tables.sections(report):
        blocks += [f"{title}:", markdown_table(rows)]
    return blocks


def _matrices(report: Report) -> str:
    body = markdown_table(tables.matrices(report))
    summary = "Every matrix, as stored: without dead channels"
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _parity(report: Report) -> str:
    if report["parity"]["first_bad"] is not None:
        return f"**Failed:** {markdown_cell(report['parity']['reason'])}"
    return prose.parity(report)


def markdown_table(rows: Rows) -> str:
    """GitHub table; every column but the first is aligned to the right."""
    heading, *body = [[markdown_cell(cell) for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, rule, *body))


def markdown_cell(text: str) -> str:
    """One line, with the characters that Markdown would act on escaped."""
    flat = " ".join(str(text).split())
    for character in "\\|<>`*[]":
        flat = flat.replace(character, "\\" + character)
    return flat
