"""The text used when none is given: the language manual that comes with Python."""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import cast

DEFAULT_TEXT = "pydoc_data.topics"
"""The module of the default text: the language manual's topics, part of every CPython."""

_EVALUATION_PERCENT = 20


def default_text() -> tuple[str, str]:
    """The text used when none is given, as a calibration and an evaluation part.

    It is the language manual that comes with every CPython (`pydoc_data.topics`), about 370,000
    characters. Topics quote one another, so a paragraph is kept only where it first appears, in
    the order of the topics' names; the parts then share no paragraph. Topics go to the parts by
    the SHA-256 of their names, 20 % of the characters to evaluation. The text, and so any number
    measured on it, belongs to one version of Python.

    Returns:
        (calibration, evaluation): topics sorted by name, joined by an empty line.
    """
    topics = cast(dict[str, str], import_module(DEFAULT_TEXT).topics)
    unique = _without_repeats(topics)
    budget = sum(map(len, unique.values())) * _EVALUATION_PERCENT // 100
    chosen: set[str] = set()
    for name in sorted(unique, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(unique[name]) <= budget:
            chosen.add(name)
            budget -= len(unique[name])
    names = sorted(unique)
    calibration = "\n\n".join(unique[name] for name in names if name not in chosen)
    evaluation = "\n\n".join(unique[name] for name in names if name in chosen)
    return calibration, evaluation


def _without_repeats(topics: dict[str, str]) -> dict[str, str]:
    """Topic name -> text, less the paragraphs (whitespace aside) that an earlier topic has."""
    paragraphs: set[str] = set()
    result: dict[str, str] = {}
    for name in sorted(topics):
        kept = []
        for paragraph in topics[name].split("\n\n"):
            key = " ".join(paragraph.split())
            if key and key not in paragraphs:
                paragraphs.add(key)
                kept.append(paragraph)
        if kept:
            result[name] = "\n\n".join(kept)
    return result
