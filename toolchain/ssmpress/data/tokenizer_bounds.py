"""What a tokenizer.json may claim: beyond it is damage, or meant to exhaust memory or time.

The tokenizers library believes all of it. `runtimes/runner/text/tokenizer.cc` has the same bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

BYTES = 64 << 20
"""Of the file; the largest in use need 35 MB."""

IDS = 1 << 22
"""Rows of the largest embedding. The library fills gaps between ids: 2^31 took 4.8 GB."""

ADDED, ADDED_BYTES = 1 << 16, 256
"""Added tokens, of which the most in use are 6,400; UTF-8 bytes in one of them."""

GROWTH = 1000
"""Characters that one may become by the replacements of a normaliser; none in use has above 3."""


def problem_of(parts: Any) -> str | None:
    """What a parsed tokenizer.json claims beyond the bounds; None where it is fit."""
    model = parts.get("model") if isinstance(parts, dict) else None
    if not isinstance(model, dict):
        return None  # the library says what it lacks
    if problem := _vocabulary(model.get("vocab")):
        return problem
    added = parts.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > ADDED:
        return f"at most {ADDED} added tokens; got more"
    for token in added:
        if problem := _added(token):
            return problem
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        growth = math.prod(max(1, len(text)) for text in _replacements(parts.get(name)))
        if growth > GROWTH:
            return f"{name}: replacements that make a text at most {GROWTH} times as long; got more"
    longest = model.get("max_input_chars_per_word", 100)
    if isinstance(longest, int | float) and longest > GROWTH:
        return f"model.max_input_chars_per_word: at most {GROWTH}; got {longest}"
    return None


def _vocabulary(vocabulary: Any) -> str | None:
    ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
    if isinstance(vocabulary, list) and len(vocabulary) > IDS:
        return f"at most {IDS} tokens; got {len(vocabulary)}"
    bad = next((i for i in ids if type(i) is not int or not 0 <= i < IDS), None)
    return None if bad is None else f"model.vocab: ids from 0 to {IDS - 1}; got {str(bad)[:40]}"


def _added(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else None
    number = token.get("id") if isinstance(token, dict) else None
    if not isinstance(content, str) or type(number) is not int or not 0 <= number < IDS:
        return f"added_tokens: a content and an id from 0 to {IDS - 1}; got {str(token)[:60]}"
    if len(content.encode()) > ADDED_BYTES:
        return f"added_tokens: at most {ADDED_BYTES} bytes a token; got {len(content.encode())}"
    # It would be found again in what it stripped, as many times as there are spaces.
    if (token.get("rstrip") and content[:1].isspace()) or (
        token.get("lstrip") and content[-1:].isspace()
    ):
        return f"added_tokens: no space at an end where {content!r} strips them; got one"
    return None


def _replacements(part: Any) -> Iterator[str]:
    """Contents that a normaliser, or one of a sequence, puts in the place of one character."""
    if isinstance(part, dict):
        if isinstance(part.get("content"), str):
            yield part["content"]
        part = [value for value in part.values() if isinstance(value, dict | list)]
    if isinstance(part, list):
        for item in part:
            yield from _replacements(item)
