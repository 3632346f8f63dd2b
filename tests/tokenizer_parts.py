# ruff: noqa: RUF001 - characters that look like others are the point
"""Normalizers, splitters and decoders, as tokenizer.json of published models has them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from charsmap_writer import write_charsmap

Parts = dict[str, Any]

RULES = {
    "é": "e",
    "e\u0301": "E",
    "½": "1/2",
    "\u0301": "",
    "a": "aa",
    "ﬁ": "fi",
    "\x01": "",
    "क्": "K",
    "\r\n": " ",
    "👍": "ok",
    "ab": "Q",
    "\u3000": " ",
    "Ⅷ": "VIII",
}


def sequence(room: str, *members: Parts) -> Parts:
    return {"type": "Sequence", room: list(members)}


def split(expression: str, behavior: str = "Isolated", invert: bool = False) -> Parts:
    pattern = {"Regex": expression}
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def replace(pattern: Parts, content: str) -> Parts:
    return {"type": "Replace", "pattern": pattern, "content": content}


BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
WITH_WORDS = {**BYTE_LEVEL, "use_regex": True}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
SPACE = replace({"String": " "}, "▁")
CHARSMAP = {
    "type": "Precompiled",
    "precompiled_charsmap": base64.b64encode(
        write_charsmap({key.encode(): text for key, text in RULES.items()})
    ).decode(),
}
LLAMA = sequence(
    "decoders",
    replace({"String": "▁"}, " "),
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
)

_CONTRACTED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_NO_LETTER = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
DIGITS: Parts = {"type": "Digits", "individual_digits": True}

SPLITS: Mapping[str, list[Parts]] = {
    "llama3": [split(rf"{_CONTRACTED}|{_NO_LETTER}\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS}|{_LINES}")],
    "qwen2": [split(rf"{_CONTRACTED}|{_NO_LETTER}\p{{L}}+|\p{{N}}|{_SIGNS}|{_LINES}")],
    "qwen35": [
        split(
            _CONTRACTED + "|" + _NO_LETTER + r"[\p{L}\p{M}]+|\p{N}|"
            r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _LINES
        )
    ],
    "cl100k": [
        split(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}|"
            r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
        )
    ],
    "o200k": [
        split(
            f"{_NO_LETTER}{_UPPER}*{_LOWER}+{_CONTRACTED}?|"
            f"{_NO_LETTER}{_UPPER}+{_LOWER}*{_CONTRACTED}?|"
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _LINES
        )
    ],
    "tekken": [
        split(
            f"{_NO_LETTER}{_UPPER}*{_LOWER}+|{_NO_LETTER}{_UPPER}+{_LOWER}*|"
            r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _LINES
        )
    ],
    "deepseek3": [
        split(r"\p{N}{1,3}"),
        split("[一-龥぀-ゟ゠-ヿ]+"),
        split(
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
            "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
            "\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
        ),
    ],
    "deepseek_coder": [
        split("[\r\n]"),
        split(r"\s?\p{L}+"),
        split(r"\s?\p{P}+"),
        split("[一-龥ࠀ-一가-퟿]+"),
        DIGITS,
    ],
    "bloom": [split(" ?[^(\\s|[.,!?…。，、।۔،])]+")],
    "lines": [split(r"[^\n]+|[\n]+")],
    "tiktoken_gpt2": [
        split(
            r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|"
            r"\s++(?!\S)|\s+"
        )
    ],
}
