"""The demo model's tokenizer.json, byte-level BPE as GPT-2 has it, with changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from paths import DEMO

Change = Callable[[dict[str, Any]], object]


def added_token(number: int, content: str, **flags: bool) -> dict[str, Any]:
    """As tokenizer.json has it. flags: those that are not false."""
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": False,
        **flags,
    }


ADDED = [
    added_token(1024, "<|endoftext|>", special=True),
    added_token(1025, "<|pad|>", special=True, rstrip=True),
    added_token(1026, "<mask>", special=True, lstrip=True),
    added_token(1027, "  ", normalized=True),
    added_token(1028, "    ", normalized=True),
    added_token(1029, "é€", normalized=True),
    added_token(5, "&", special=True),
]


def plain(parts: dict[str, Any]) -> None:
    """As it is."""


def added(parts: dict[str, Any]) -> None:
    parts["added_tokens"] = ADDED


def prefixed(parts: dict[str, Any]) -> None:
    added(parts)
    parts["pre_tokenizer"]["add_prefix_space"] = True


def unsplit(parts: dict[str, Any]) -> None:
    parts["pre_tokenizer"]["use_regex"] = False


def ignoring_merges(parts: dict[str, Any]) -> None:
    parts["model"]["ignore_merges"] = True
    merges = parts["model"]["merges"]
    parts["model"]["merges"] = [m for i, m in enumerate(merges) if i % 3]


def old_style(parts: dict[str, Any]) -> None:
    """Merges as text, empty affixes, no ignore_merges: GPT-2's own file."""
    model = parts["model"]
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    model |= {"continuing_subword_prefix": "", "end_of_word_suffix": "", "unk_token": "Ġ"}
    del model["ignore_merges"]


def without_some_bytes(parts: dict[str, Any]) -> None:
    """Characters without a token are left out."""
    model = parts["model"]
    for gone in ("X", "Ã"):
        model["merges"] = [m for m in model["merges"] if gone not in "".join(m)]
        model["vocab"] = {t: i for t, i in model["vocab"].items() if gone not in t}


def with_unknown(parts: dict[str, Any]) -> None:
    without_some_bytes(parts)
    parts["model"]["unk_token"] = "?"


def nfc(parts: dict[str, Any]) -> None:
    """GPT-NeoX's, which Mamba's published checkpoints use."""
    added(parts)
    parts["normalizer"] = {"type": "NFC"}


CHANGES = [
    plain,
    added,
    prefixed,
    unsplit,
    ignoring_merges,
    old_style,
    without_some_bytes,
    with_unknown,
    nfc,
]


def changed(change: Change) -> str:
    parts = json.loads((DEMO / "tokenizer.json").read_text())
    change(parts)
    return json.dumps(parts)
