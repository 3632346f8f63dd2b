"""README.md of a bundle: a model card with Hugging Face's metadata, from the report alone."""

from __future__ import annotations

import json
import re
from typing import Any

from ssmpress.printable import amount
from ssmpress.report import classes, prose, tables
from ssmpress.report.device_tables import headlines
from ssmpress.report.markdown import markdown_cell, markdown_table
from ssmpress.report.tables import lookup, percent, ratio, size
from ssmpress.report.wording import kind_of, words
from ssmpress.results.report import Report
from ssmpress.results.run import Ended


def render_card(report: Report, run_it: str | None = None) -> str:
    """The card as Markdown.

    Args:
        run_it: Markdown that stands first under "Run it", before how to run it in Python.
    """
    safe = tables.printable(report)
    sections = [
        f"---\n{_metadata(safe)}---",
        f"# {markdown_cell(_name(safe))}",
        _summary(safe),
        "## Run it",
        *filter(None, (run_it, markdown_cell(prose.ssmrun_lacks(safe)))),
        _run_it(safe),
        *filter(None, (markdown_cell(prose.ends(safe)),)),
        "## What it cost, what it gained",
        markdown_table(tables.comparison(safe)),
        "dense: the unpruned checkpoint with the same op library; stock: the same file in plain "
        f"ONNX Runtime; compressed: this bundle. {_measured(safe)} Everything that was measured is "
        "in `report.html` and `report.json`.",
        *(markdown_cell(line) for line in headlines(safe)),
        "## How it was made",
        _training(safe),
        f"```sh\n{tables.command(safe)}\n```",
        "## Evaluation",
        " ".join(map(markdown_cell, (prose.quality(safe), *classes.notes(safe)))),
        _data(safe),
        "## Limits",
        "The dense model's limits hold for this one too; pruning can hurt rare words and abilities "
        "that the evaluation text does not test. Its licence is that of the dense checkpoint; the "
        "op library is Apache-2.0.",
        "## Files",
        markdown_table(_files(safe)),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(report: Report) -> str:
    """YAML that Hugging Face reads. Every string is JSON, which YAML reads as it is."""
    phrases = words(report)
    lines = [
        "library_name: onnx",
        f"pipeline_tag: {phrases.pipeline}",
        "tags:",
        *(f"- {tag}" for tag in ("onnx", "mamba", "state-space-model", "pruning", "sparse")),
        f"- {_word(lookup(report, 'recipe', 'pack', 'values'))}",
        "model-index:",
        f"- name: {json.dumps(_name(report))}",
        "  results:",
        "  - task:",
        f"      type: {phrases.pipeline}",
        "    dataset:",
        f"      name: {json.dumps(str(lookup(report, 'data', 'evaluation', 'description')))}",
        f"      type: {phrases.dataset}",
        "    metrics:",
    ]
    for kind, value in (
        (_word(lookup(report, "quality", "metric")), lookup(report, "quality", "compressed")),
        ("retention", lookup(report, "quality", "retention")),
        ("model_bytes", lookup(report, "size", "model_bytes")),
        ("decode_ms", lookup(report, "latency", "decode", "compressed", "p50_ms")),
        ("decode_speedup", lookup(report, "latency", "decode", "speedup")),
    ):
        if isinstance(value, int | float):
            lines += [f"    - type: {kind}", f"      value: {json.dumps(value)}"]
    return "\n".join(lines) + "\n"


def _word(value: Any) -> str:
    """A value of the report as one plain word."""
    return re.sub(r"[^a-z0-9_]+", "-", str(value).lower()).strip("-") or "unknown"


def _name(report: Report) -> str:
    name = str(lookup(report, "recipe", "model")).rstrip("/").rsplit("/", 1)[-1]
    sparsity = lookup(report, "recipe", "prune", "sparsity")
    part = f"{100 * sparsity:g}" if isinstance(sparsity, int | float) else "?"
    return f"{name.partition('.')[0]}-s{part}-{lookup(report, 'recipe', 'pack', 'values')}"


def _summary(report: Report) -> str:
    sizes, sparsity = report["size"], report["sparsity"]
    speedup = lookup(report, "latency", "decode", "speedup")
    phrases = words(report)
    faster = f", and {phrases.does} {ratio(speedup)} as fast" if speedup else ""
    return (
        f"{phrases.model} with {percent(sparsity['prunable'])} of its prunable weights removed ("
        f"{percent(sparsity['model'])} of all {sparsity['model_weights']:,}), packed for "
        f"small CPUs by ssmpress. It keeps {percent(report['quality']['retention'])} of the dense "
        f"model's quality ({markdown_cell(report['quality']['metric'])}), takes "
        f"{size(sizes['model_bytes'])} instead of {size(sizes['dense_fp32_bytes'])}{faster}."
    )


def _run_it(report: Report) -> str:
    return (
        f"```python\nimport ssmpress\n\n{words(report).python}\n```\n\n"
        "Without ssmpress: ONNX Runtime runs `model.onnx` with `libssmpress_ops.so` registered as "
        "a custom op library, and also, slower, without it."
    )


def _measured(report: Report) -> str:
    if not report["latency"]:
        return "Time and memory were not measured: no device that the bundle is for was there."
    turns = f"All took turns in one run{_machine(report)}."
    return " ".join(filter(None, (turns, prose.crowding(report["latency"]))))


def _machine(report: Report) -> str:
    cpu = lookup(report, "latency", "cpu") or lookup(report, "environment", "cpu")
    threads = lookup(report, "latency", "threads")
    return f" on {markdown_cell(cpu)}, {amount(threads, 'thread')}" if cpu else ""


_UNTIL: dict[str, str] = {
    Ended.QUALITY: ", until the quality asked was kept on held-out calibration data",
    Ended.NO_IMPROVEMENT: ", until the quality on held-out calibration data no longer improved",
    Ended.CEILING: ", until the time was up",
}


def _training(report: Report) -> str:
    recipe, recovery = report["recipe"], report["recovery"]
    steps = recovery.get("steps")
    healed = (
        f"recovered over {steps:,} steps ({recovery['tokens']:,} tokens), taught by the dense model"
        f"{_UNTIL.get(str(recovery.get('ended')), '')}"
        if isinstance(steps, int) and steps
        else "without recovery"
    )
    scope = "model" if recipe["prune"]["scope"] == "global" else "matrix"
    return markdown_cell(
        f"Pruned by {recipe['prune']['method']} with one threshold per {scope}, {healed}; values "
        f"{recipe['pack']['values']}. {prose.architecture(report)}"
    )


def _data(report: Report) -> str:
    return "\n".join(
        f"- {purpose}: {markdown_cell(text['description'])}, {text['tokens']:,} "
        f"{words(report).steps}"
        for purpose, text in ((p, report["data"][p]) for p in ("calibration", "evaluation"))
    )


def _files(report: Report) -> tables.Rows:
    tokenizer = [["tokenizer.json", "text to tokens"]]
    return [
        ["file", "what"],
        ["model.onnx", "the graph with its packed weights"],
        ["libssmpress_ops.so", "kernels of its ops, for ONNX Runtime"],
        ["ssmrun, libonnxruntime.so", "runs the model without Python"],
        *(tokenizer if kind_of(report).reads_tokens else []),
        ["report.html, .md, .json", "what was measured"],
        ["manifest.json", "SHA-256 of every file, versions, the recipe"],
    ]
