"""The sentences that every rendering shares: report dictionary -> plain text."""

from __future__ import annotations

from pathlib import Path

from ssmpress.data.overlap import LEAK
from ssmpress.printable import amount
from ssmpress.report.tables import confidence, lookup, number, percent, zeros
from ssmpress.report.wording import words
from ssmpress.results.report import Report

SIZES = (
    "Weights and dense bytes are those of the model before its dead channels went; what is stored "
    "is without them. The runtime is ONNX Runtime and ssmrun, the same in every bundle."
)
"""What the table of sizes refers to."""


def architecture(report: Report) -> str:
    """What the weights were taken for; empty of a report that does not say."""
    block = lookup(report, "model", "architecture")
    if not block:
        return ""
    assumed = " was assumed" if block["assumed"] else ""
    return f"Architecture: {block['name']}{assumed}, since {block['evidence']}."


def ends(report: Report) -> str:
    """A sentence of where a generated text ends; empty where there is none to be said."""
    tokens = lookup(report, "model", "text", "end_tokens")
    if not isinstance(tokens, list):
        return ""
    if not tokens:
        return "End of text: no token is known, so a text goes on until its limit of tokens."
    named = ", ".join(
        f"{lookup(one, 'id')} {lookup(one, 'text')!r} ({lookup(one, 'source')})" for one in tokens
    )
    return f"End of text: token {named}."


def ssmrun_lacks(report: Report) -> str:
    """A warning where ssmrun cannot read and write the model's texts; else empty."""
    part = lookup(report, "model", "text", "ssmrun_lacks")
    if not part:
        return ""
    return (
        f"ssmrun lacks a part of tokenizer.json ({part}): texts run in Python only, and ssmrun "
        "takes tokens."
    )


def quality(report: Report) -> str:
    """How quality was measured."""
    block, phrases = report["quality"], words(report)
    interval = block["retention_interval"]
    spread = ""
    if interval is not None:
        spread = (
            f"; quality kept {percent(interval['low'])} to {percent(interval['high'])} "
            f"({confidence(interval)} interval over the {phrases.samples})"
        )
    length = phrases.length.format(block["window"])
    return (
        f"Quality: {block['metric']} over {block['tokens']:,} predictions in "
        f"{block['windows']:,} {phrases.samples} of {length}{spread}. {seen(report)}".rstrip()
    )


def seen(report: Report) -> str:
    """A warning where quality was measured on what the model was pruned with; else empty."""
    calibration, evaluation = (
        {Path(name).absolute() for name in lookup(report, "data", purpose, "files") or ()}
        for purpose in ("calibration", "evaluation")
    )
    names = ", ".join(sorted(path.name for path in calibration & evaluation))
    part = lookup(report, "data", "seen")
    if not names and isinstance(part, int | float) and part >= LEAK:
        names = f"{percent(part)} of the evaluation data"
    if not names:
        return ""
    return (
        f"{names} served for calibration too: on data that was not seen the quality may be lower."
    )


def latency(report: Report) -> str:
    """How latency was measured; empty where it was not."""
    block = report["latency"]
    if not block:
        return ""
    phrases = words(report)
    rounds = len(next(iter(block["samples"].values()))) - 1
    return (
        f"Latency: {amount(block['threads'], 'thread')}, "
        f"{phrases.prompt.format(block['prompt_tokens'])}, "
        f"{rounds} interleaved rounds after one to warm up. {crowding(block)}"
    ).strip()


def crowding(latency: Report | None) -> str:
    """A warning where more threads ran than processors could be used; else empty.

    Args:
        latency: the block of the report or of a device; None where nothing was measured.
    """
    threads, processors = (lookup(latency or {}, key) for key in ("threads", "available_cpus"))
    if not isinstance(threads, int) or not isinstance(processors, int) or threads <= processors:
        return ""
    return (
        f"{threads} threads shared {amount(processors, 'usable processor')} and "
        "waited for one another: this is not what the machine can do."
    )


def sparsity(report: Report) -> str:
    """How many zeros, of which weights."""
    block = report["sparsity"]
    shares = (
        f"{zeros(block['prunable'])} of the {block['prunable_weights']:,} prunable weights are "
        f"zero; {zeros(block['model'])} of all {block['model_weights']:,}."
    )
    removed, empty = block.get("removed_channels", 0), block.get("empty_rows", 0)
    gone = (
        f" {removed:,} channels no longer reached the output and were removed." if removed else ""
    )
    rows = f" {empty:,} rows of prunable matrices are wholly empty." if empty else ""
    return shares + gone + rows + state(report)


def state(report: Report) -> str:
    """How much smaller the state of a sequence is, after a space; empty where it is not."""
    block = report.get("state")
    if not block or block["bytes"] == block["dense_bytes"]:
        return ""
    layers = [layer for layer in block["by_layer"] if layer["numbers"] is not None]
    before, after = (sum(layer[key] for layer in layers) for key in ("dense_numbers", "numbers"))
    fewer = (
        f" {before - after:,} of {before:,} states of the layers are gone."
        if after < before
        else ""
    )
    dense, left = (f"{block[key] / 1e3:,.1f} KB" for key in ("dense_bytes", "bytes"))
    return f"{fewer} From token to token a sequence carries {left} in place of {dense}."


def parity(report: Report) -> str:
    """Whether the graph computes what the PyTorch model computes."""
    block = report["parity"]
    if block["first_bad"] is not None:
        return f"Parity failed: {block['reason']}"
    return (
        f"Logits and states of the ONNX graph and of the masked PyTorch model differ by at most "
        f"{number(block['max_abs'], 2)} (absolute) and {number(block['max_rel'], 2)} (of the "
        f"largest value), over {block['tensors']} tensors; at most {block['tolerance']:g} "
        "relative is allowed."
    )
