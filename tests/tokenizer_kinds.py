"""Small tokenizers of every kind that ssmrun has, as tokenizer.json has them.

Their parts are put together as published models have them; the names say which.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from changed_tokenizer import added_token
from tokenizer_parts import (
    BYTE_LEVEL,
    CHARSMAP,
    DIGITS,
    LLAMA,
    METASPACE,
    SPACE,
    SPLITS,
    WITH_WORDS,
    Parts,
    replace,
    sequence,
    split,
)
from tokenizer_training import byte_fallback, byte_level, clip, unigram, word_level, word_piece


def _with(
    parts: Parts,
    normalizer: Parts | None,
    pre_tokenizer: Parts | None,
    decoder: Parts | None,
    **model: Any,
) -> Parts:
    return {
        **parts,
        "model": {**parts["model"], **model},
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": decoder,
    }


def _partial_bytes() -> Parts:
    """Two of the bytes have no token: characters that need them are unknown."""
    parts = _with(byte_fallback(), SPACE, None, LLAMA)
    gone = ("<0xE2>", "<0x98>")
    parts["model"]["vocab"] = {
        "zz" * (piece in gone) + piece: number for piece, number in parts["model"]["vocab"].items()
    }
    return parts


def _bert(cleanup: bool = True, **options: Any) -> Parts:
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
        **options,
    }
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": cleanup}
    return _with(word_piece(), normalizer, {"type": "BertPreTokenizer"}, decoder)


def _t5(byte_fallback: bool) -> Parts:
    normalizer = sequence(
        "normalizers",
        CHARSMAP,
        {"type": "Strip", "strip_left": False, "strip_right": True},
        replace({"Regex": " {2,}"}, "▁"),
    )
    return _with(unigram(byte_fallback), normalizer, METASPACE, METASPACE)


def _xlmr(byte_fallback: bool) -> Parts:
    pre_tokenizer = sequence("pretokenizers", {"type": "WhitespaceSplit"}, METASPACE)
    return _with(unigram(byte_fallback), CHARSMAP, pre_tokenizer, METASPACE)


def _albert() -> Parts:
    normalizer = sequence(
        "normalizers",
        replace({"String": "``"}, '"'),
        replace({"String": "''"}, '"'),
        {"type": "NFKD"},
        {"type": "StripAccents"},
        {"type": "Lowercase"},
        CHARSMAP,
    )
    return {**_xlmr(False), "normalizer": normalizer}


def _nmt() -> Parts:
    never = {**METASPACE, "prepend_scheme": "never"}
    return _with(
        unigram(False),
        sequence("normalizers", {"type": "Nmt"}, {"type": "NFKC"}),
        sequence("pretokenizers", DIGITS, never),
        never,
    )


def _clip_whole() -> Parts:
    normalizer = sequence(
        "normalizers", {"type": "NFC"}, replace({"Regex": r"\s+"}, " "), {"type": "Lowercase"}
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    return _with(
        clip(), normalizer, split(words, "Removed", True), {"type": "BPEDecoder", "suffix": "</w>"}
    )


def _single_words() -> Parts:
    """Added tokens that are words, and some that strip spaces."""
    parts = _with(byte_level(), None, WITH_WORDS, WITH_WORDS)
    vocabulary = parts["model"]["vocab"]
    tokens: dict[str, dict[str, bool]] = {
        "don't": {},
        "café": {},
        "123": {"lstrip": True, "normalized": True},
        "中文": {"rstrip": True, "special": True},
    }
    assert not vocabulary.keys() & tokens.keys()
    parts["added_tokens"] = [
        added_token(number, content, single_word=True, **flags)
        for number, (content, flags) in enumerate(tokens.items(), len(vocabulary))
    ]
    return parts


def _byte_level_of(*before: Parts, normalizer: Parts | None = None) -> Parts:
    pre_tokenizer = sequence("pretokenizers", *before)
    return _with(byte_level(), normalizer, pre_tokenizer, WITH_WORDS)


def _with_split(name: str) -> Parts:
    normalizer = {"type": "NFC"} if name.startswith("qwen") else None
    return _byte_level_of(*SPLITS[name], BYTE_LEVEL, normalizer=normalizer)


def _llama_first_normalized() -> Parts:
    normalizer = sequence(
        "normalizers",
        CHARSMAP,
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Lowercase"},
    )
    pre_tokenizer = sequence(
        "pretokenizers",
        {"type": "Punctuation", "behavior": "Isolated"},
        {**METASPACE, "prepend_scheme": "first"},
    )
    return _with(byte_fallback(), normalizer, pre_tokenizer, LLAMA)


KINDS: Mapping[str, Callable[[], Parts]] = {
    "llama2": lambda: _with(
        byte_fallback(),
        sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, SPACE),
        None,
        LLAMA,
    ),
    "llama_first": lambda: _with(
        byte_fallback(), None, {**METASPACE, "prepend_scheme": "first", "split": False}, LLAMA
    ),
    "llama_first_normalized": _llama_first_normalized,
    "gemma": lambda: _with(
        byte_fallback(),
        SPACE,
        {**split("", "MergedWithPrevious"), "pattern": {"String": " "}},
        sequence("decoders", *LLAMA["decoders"][:3]),
    ),
    "no_fallback": lambda: _with(byte_fallback(), SPACE, None, LLAMA, byte_fallback=False),
    "no_fuse": lambda: _with(
        byte_fallback(), SPACE, None, None, byte_fallback=False, fuse_unk=False
    ),
    "partial_bytes": _partial_bytes,
    "t5": lambda: _t5(False),
    "t5_bytes": lambda: _t5(True),
    "xlmr": lambda: _xlmr(False),
    "xlmr_bytes": lambda: _xlmr(True),
    "albert": _albert,
    "nmt": _nmt,
    "bert_uncased": _bert,
    "bert_cased": lambda: _bert(lowercase=False, cleanup=False),
    "bert_raw": lambda: _bert(lowercase=False, clean_text=False, handle_chinese_chars=False),
    "bert_no_accents": lambda: _bert(lowercase=False, strip_accents=True),
    "bert_accents": lambda: _bert(strip_accents=False),
    **{name: functools.partial(_with_split, name) for name in SPLITS},
    "falcon": lambda: _byte_level_of(
        {"type": "Punctuation", "behavior": "Contiguous"},
        WITH_WORDS,
        {**DIGITS, "individual_digits": False},
        split("[0-9][0-9][0-9]"),
    ),
    "starcoder": lambda: _byte_level_of(DIGITS, WITH_WORDS),
    "byte_normalizer": lambda: _with(
        byte_level(),
        sequence("normalizers", {"type": "NFKC"}, {"type": "ByteLevel"}),
        None,
        WITH_WORDS,
    ),
    "decomposed": lambda: _byte_level_of(WITH_WORDS, normalizer={"type": "NFD"}),
    "delimiter": lambda: _byte_level_of(
        {"type": "CharDelimiterSplit", "delimiter": "-"}, WITH_WORDS
    ),
    "fixed_length": lambda: _byte_level_of({"type": "FixedLength", "length": 3}, WITH_WORDS),
    "clip": _clip_whole,
    "word_level": lambda: _with(word_level(), None, {"type": "Whitespace"}, None),
    "single_words": _single_words,
}
