# ruff: noqa: RUF001 - the expressions are written as published tokenizers have them
"""Which tokenizers ssmrun has: the one list of it, from which the runner's tables are written too.

`runtimes/runner/text/generate_known_parts.py` and `generate_split_rules.py` turn KINDS and
SPLIT_ALTERNATIVES into the headers that ssmrun is compiled with, so neither side can know a part
that the other does not. `compress` notes what `missing_part` finds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

KINDS: Mapping[str, tuple[str, ...]] = {
    "model": ("BPE", "Unigram", "WordPiece", "WordLevel"),
    "normalizer": (
        "Sequence",
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Nmt",
        "Lowercase",
        "Strip",
        "StripAccents",
        "Replace",
        "Prepend",
        "BertNormalizer",
        "Precompiled",
        "ByteLevel",
    ),
    "pre_tokenizer": (
        "Sequence",
        "ByteLevel",
        "Metaspace",
        "Whitespace",
        "WhitespaceSplit",
        "BertPreTokenizer",
        "Punctuation",
        "Digits",
        "Split",
        "CharDelimiterSplit",
        "FixedLength",
    ),
    "decoder": (
        "Sequence",
        "ByteLevel",
        "Metaspace",
        "WordPiece",
        "BPEDecoder",
        "Replace",
        "ByteFallback",
        "Fuse",
        "Strip",
    ),
}
"""`type` of every part of a tokenizer.json that ssmrun has."""

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_NO_LETTER = r"[^\r\n\p{L}\p{N}]?"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
"""Letters that are no small ones, and marks, as some SPLIT_ALTERNATIVES have them."""

_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ASCII_SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""

SPLIT_ALTERNATIVES: tuple[str, ...] = (
    # English contractions: GPT-2's, GPT-4's, and tiktoken's spelling of both.
    *_CONTRACTIONS.split("|"),
    f"(?i:{_CONTRACTIONS})",
    "'(?i:[sdmt]|ll|ve|re)",
    "'(?:[sdmt]|ll|ve|re)",
    # Words: GPT-2; GPT-4, Llama 3, Qwen 2; Qwen 3.5; o200k and Tekken; DeepSeek.
    r" ?\p{L}+",
    r" ?\p{L}++",
    r"\p{L}+",
    r"[\p{L}]+",
    r"\s?\p{L}+",
    _NO_LETTER + r"\p{L}+",
    _NO_LETTER + r"+\p{L}+",
    _NO_LETTER + r"+\p{L}++",
    _NO_LETTER + r"[\p{L}\p{M}]+",
    f"{_NO_LETTER}{UPPER}*{_LOWER}+",
    f"{_NO_LETTER}{UPPER}+{_LOWER}*",
    f"{_NO_LETTER}{UPPER}*{_LOWER}+(?i:{_CONTRACTIONS})?",
    f"{_NO_LETTER}{UPPER}+{_LOWER}*(?i:{_CONTRACTIONS})?",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    _ASCII_SIGNS + "[A-Za-z]+",
    # Numbers.
    r" ?\p{N}+",
    r" ?\p{N}++",
    r"\p{N}",
    r"[\p{N}]",
    r"\p{N}+",
    r"\p{N}{1}",
    r"\p{N}{1,2}",
    r"\p{N}{1,3}",
    r"\d",
    r"\d+",
    r"\d{1,3}",
    "[0-9]",
    "[0-9]+",
    "[0-9]{1,3}",
    "[0-9][0-9][0-9]",
    # Signs.
    r" ?[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]++",
    r"[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}\r\n]+",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    r" ?[\p{P}\p{S}]+",
    r"\s?\p{P}+",
    " ?[^(\\s|[.,!?…。，、।۔،])]+",
    # Scripts without spaces, as DeepSeek cuts them.
    "[一-龥぀-ゟ゠-ヿ]+",
    "[一-龥ࠀ-一가-퟿]+",
    # Spaces and lines.
    r"\s",
    r"\s+",
    r"\s++",
    r"\s+(?!\S)",
    r"\s++(?!\S)",
    r"\s*[\r\n]+",
    r"\s*[\r\n]",
    r"\S+",
    r"[\r\n]",
    r"[\r\n]+",
    r"\n",
    r"\n+",
    r"[\n]+",
    r"[^\n]+",
    r"\r\n",
    r"\r",
    " ",
    " +",
    " {2,}",
    r"\s{2,}",
)
"""Alternatives of the regular expressions of Split and Replace that ssmrun has, in any order. Each
is matched in time linear in the text, which a general engine could not promise."""

KNOWN_ALTERNATIVES = frozenset(SPLIT_ALTERNATIVES)
"""The same, to look one up."""


def split_alternatives(pattern: str) -> list[str]:
    """The alternatives of a regular expression: what `|` separates outside of brackets.

    Line ends may stand as themselves or as escapes; they come back as escapes.
    """
    parts, depth, escaped = [""], 0, False
    for character in pattern.replace("\r", r"\r").replace("\n", r"\n"):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "[(":
            depth += 1
        elif character in "])":
            depth -= 1
        elif character == "|" and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return parts


def missing_part(tokenizer: str) -> str | None:
    """What a tokenizer needs that ssmrun does not have.

    Args:
        tokenizer: text of a tokenizer.json that the tokenizers library has read.

    Returns:
        Place, what was expected there and what is there, without a full stop; None where ssmrun
        has all of it.
    """
    return next(_missing(tokenizer), None)


def _missing(tokenizer: str) -> Iterator[str]:
    parts = json.loads(tokenizer)
    model, added = parts.get("model") or {}, parts.get("added_tokens") or ()
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    yield from _unknown("model", kind)
    if model.get("dropout"):
        yield _place("model.dropout", "none", model["dropout"])
    for room in ("normalizer", "pre_tokenizer", "decoder"):
        if parts.get(room) is not None:
            yield from _missing_in(room, room, parts[room])
    yield from _moved(model, added)
    yield from _alike(tokenizer, added)


def _missing_in(room: str, place: str, part: Mapping[str, Any]) -> Iterator[str]:
    """What ssmrun lacks of a normalizer, pre_tokenizer or decoder, and of those inside it."""
    kind = part.get("type")
    yield from _unknown(room, kind, place)
    if kind == "Sequence":
        members = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
        key = members.get(room, "decoders")
        for number, member in enumerate(part.get(key) or ()):
            yield from _missing_in(room, f"{place}.{key}[{number}]", member)
    # What would be found everywhere, which the library takes for nothing.
    for key in {"BPEDecoder": ("suffix",), "Prepend": ("prepend",)}.get(str(kind), ()):
        if part.get(key) == "":
            yield _place(f"{place}.{key}", "a text", "")
    if kind == "FixedLength" and part.get("length") == 0:
        yield _place(f"{place}.length", "at least 1", 0)
    pattern = part.get("pattern")
    if kind not in ("Split", "Replace") or not isinstance(pattern, Mapping):
        return
    if pattern.get("String") == "":
        yield _place(f"{place}.pattern", "a text", "")
    expression = pattern.get("Regex")
    if expression is not None and not KNOWN_ALTERNATIVES.issuperset(split_alternatives(expression)):
        yield _place(f"{place}.pattern", "a regular expression that ssmrun has", expression)


def _unknown(room: str, kind: Any, place: str | None = None) -> Iterator[str]:
    if kind not in KINDS[room]:
        yield _place(f"{place or room}.type", "a kind that ssmrun has", kind)


def _moved(model: Mapping[str, Any], added: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Added tokens to which the library gives another id than the file."""
    vocabulary = model.get("vocab") or {}
    if not isinstance(vocabulary, Mapping):
        vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    ids, free = dict(vocabulary), len(vocabulary)
    for token in added:
        if not token["content"]:
            continue
        if token["content"] not in ids:
            ids[token["content"]] = free
            free += 1
        given = ids[token["content"]]
        if given != token["id"]:
            yield _place(f"added_tokens.{token['content']}", f"id {given}", token["id"])


def _alike(tokenizer: str, added: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Added tokens of which normalisation leaves nothing, or what it leaves of another one."""
    if not any(token.get("normalized", True) for token in added):
        return
    from tokenizers import Tokenizer

    normalizer = Tokenizer.from_str(tokenizer).normalizer
    seen: dict[str, str] = {}
    for token in added:
        content = token["content"]
        if not content or not token.get("normalized", True):
            continue
        text = content if normalizer is None else normalizer.normalize_str(content)
        if not text or seen.setdefault(text, content) != content:
            yield _place(f"added_tokens.{content}.content", _LEFT, content)


_LEFT = "a text that normalisation leaves, and leaves different from others"


def _place(place: str, expected: str, got: Any) -> str:
    return f"{place}: expected {expected}; got {json.dumps(got, ensure_ascii=False)[:60]}"
