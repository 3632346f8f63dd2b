"""A classifier's answers by class: report dictionary -> tables and notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.report.tables import Rows, lookup, percent
from ssmpress.results.report import Report

VARIANTS = ("dense", "compressed")
MOST_ROWS = 64
"""Classes that a table lists; the others are in report.json."""

UNBALANCED = 2
"""The evaluation is called unbalanced where a class has so many times the texts of the mean of the
others: there an accuracy says little."""


def block_of(report: Report) -> Mapping[str, Any] | None:
    """`quality.classes`; None if there is none."""
    block = lookup(report, "quality", "classes")
    return block if isinstance(block, Mapping) else None


def constant_answer(report: Report, variant: str) -> str | None:
    """The class that a variant answers to every text, though they are of several; None if it does
    not."""
    block = block_of(report)
    predicted = lookup(block or {}, variant, "predicted") or []
    answered = [number for number, count in enumerate(predicted) if count]
    if block is None or len(answered) != 1 or sum(count > 0 for count in block["texts"]) < 2:
        return None
    return str(block["names"][answered[0]])


def notes(report: Report) -> list[str]:
    """What a reader of the accuracy must know: constant answers, unbalanced texts."""
    block = block_of(report)
    if block is None:
        return []
    texts, names = block["texts"], block["names"]
    sentences = [
        f"The {variant} model answers {name!r} to every text."
        for variant in VARIANTS
        if (name := constant_answer(report, variant)) is not None
    ]
    if absent := [name for name, count in zip(names, texts, strict=True) if not count]:
        some = ", ".join(map(repr, absent[:5]))
        sentences.append(f"No text is of {len(absent)} of the {len(names)} classes: {some}.")
    most = max(texts)
    if len(texts) > 1 and most * (len(texts) - 1) >= UNBALANCED * (sum(texts) - most):
        share = most / sum(texts)
        sentences.append(
            f"The texts are unbalanced: {percent(share)} are {names[texts.index(most)]!r}, which "
            "is the accuracy of answering nothing else; balanced accuracy and F1 count every class "
            "the same."
        )
    return sentences


def by_class(report: Report) -> Rows:
    """Heading, then a row per class: its texts, how often each variant answered it, and how many of
    its texts it got right."""
    rows = [["class", "texts"]]
    for variant in VARIANTS:
        rows[0] += [f"{variant}: answered", f"{variant}: right"]
    block = block_of(report)
    for number, name in enumerate(block["names"] if block else ()):
        if block is None or number == MOST_ROWS:
            break
        texts = block["texts"][number]
        row = [name, f"{texts:,}"]
        for variant in VARIANTS:
            counts = block[variant]
            recall = counts["right"][number] / texts if texts else None
            row += [f"{counts['predicted'][number]:,}", percent(recall)]
        rows.append(row)
    return rows


def confusion(report: Report, variant: str) -> Rows:
    """Heading with the answers, then a row per true class; only a heading beyond `MOST_ROWS`."""
    block = block_of(report)
    table = lookup(block or {}, variant, "confusion")
    if block is None or not table:
        return [["true class"]]
    rows = [["true class", *(f"answer {name}" for name in block["names"])]]
    for name, counts in zip(block["names"], table, strict=True):
        rows.append([name, *(f"{count:,}" for count in counts)])
    return rows
