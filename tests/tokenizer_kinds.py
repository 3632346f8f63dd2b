# ruff: noqa: RUF001 - characters that look like others are the point
"""Small tokenizers of every kind that ssmrun has, trained in a moment, as tokenizer.json has them.

Their parts are put together as published models have them; the names say which.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from charsmap_writer import write_charsmap
from tokenizers import Tokenizer, models, trainers
from tokenizers import normalizers as nm
from tokenizers import pre_tokenizers as pt

from paths import ROOT

Parts = dict[str, Any]

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
HARD = (
    "naïve café e\u0301 한국어 조합 中文測試，标点。 ひらがなカタカナ ไทยไม่มีช่องว่าง עברית العربية "
    "हिन्दी क्षत्रिय 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👍🏽👨‍👩‍👧‍👦🇩🇪 don't I'LL ½ ² Ⅷ 123456 \u00a0 x\ty\n"
)
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
_DIGITS: Parts = {"type": "Digits", "individual_digits": True}

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
        _DIGITS,
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


@functools.cache
def _corpus() -> tuple[str, ...]:
    text = (ROOT / "docs" / "ssmrun.md").read_text() + (ROOT / "docs" / "faq.md").read_text()
    return (*filter(None, text.split("\n")), *[HARD] * 5)


def _train(model: Any, trainer: Any, normalizer: Any = None, pre_tokenizer: Any = None) -> Parts:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(_corpus(), trainer)
    parts: Parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = [t for t in parts["added_tokens"] if t["content"] not in BYTES]
    return parts


@functools.cache
def _byte_fallback() -> Parts:
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL + BYTES, limit_alphabet=80, show_progress=False
    )
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    parts = _train(model, trainer, pre_tokenizer=pt.Metaspace(split=True))
    parts["model"] |= {"fuse_unk": True, "byte_fallback": True}
    return parts


@functools.cache
def _byte_level() -> Parts:
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pt.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _train(models.BPE(), trainer, pre_tokenizer=pt.ByteLevel(add_prefix_space=False))


@functools.cache
def _unigram(byte_fallback: bool) -> Parts:
    trainer = trainers.UnigramTrainer(
        vocab_size=500,
        special_tokens=SPECIAL + (BYTES if byte_fallback else []),
        unk_token="<unk>",
        show_progress=False,
    )
    parts = _train(models.Unigram(), trainer, nm.NFKC(), pt.Metaspace())
    parts["model"]["byte_fallback"] = byte_fallback
    return parts


@functools.cache
def _word_piece() -> Parts:
    trainer = trainers.WordPieceTrainer(
        vocab_size=800, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    model = models.WordPiece(unk_token="[UNK]")
    return _train(model, trainer, nm.BertNormalizer(), pt.BertPreTokenizer())


@functools.cache
def _clip() -> Parts:
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<u>"], end_of_word_suffix="</w>", show_progress=False
    )
    model = models.BPE(unk_token="<u>", end_of_word_suffix="</w>")
    return _train(model, trainer, nm.Lowercase(), pt.Whitespace())


@functools.cache
def _word_level() -> Parts:
    trainer = trainers.WordLevelTrainer(
        vocab_size=300, special_tokens=["<unk>"], show_progress=False
    )
    return _train(models.WordLevel(unk_token="<unk>"), trainer, pre_tokenizer=pt.Whitespace())


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
    parts = _with(_byte_fallback(), SPACE, None, LLAMA)
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
    return _with(_word_piece(), normalizer, {"type": "BertPreTokenizer"}, decoder)


def _t5(byte_fallback: bool) -> Parts:
    normalizer = sequence(
        "normalizers",
        CHARSMAP,
        {"type": "Strip", "strip_left": False, "strip_right": True},
        replace({"Regex": " {2,}"}, "▁"),
    )
    return _with(_unigram(byte_fallback), normalizer, METASPACE, METASPACE)


def _xlmr(byte_fallback: bool) -> Parts:
    pre_tokenizer = sequence("pretokenizers", {"type": "WhitespaceSplit"}, METASPACE)
    return _with(_unigram(byte_fallback), CHARSMAP, pre_tokenizer, METASPACE)


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
        _unigram(False),
        sequence("normalizers", {"type": "Nmt"}, {"type": "NFKC"}),
        sequence("pretokenizers", _DIGITS, never),
        never,
    )


def _clip_whole() -> Parts:
    normalizer = sequence(
        "normalizers", {"type": "NFC"}, replace({"Regex": r"\s+"}, " "), {"type": "Lowercase"}
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    return _with(
        _clip(), normalizer, split(words, "Removed", True), {"type": "BPEDecoder", "suffix": "</w>"}
    )


def _single_words() -> Parts:
    """Added tokens that are words, and some that strip spaces."""
    parts = _with(_byte_level(), None, WITH_WORDS, WITH_WORDS)
    vocabulary = parts["model"]["vocab"]
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokens = [
        {"content": "don't"},
        {"content": "café"},
        {"content": "123", "lstrip": True, "normalized": True},
        {"content": "中文", "rstrip": True, "special": True},
    ]
    assert not vocabulary.keys() & {token["content"] for token in tokens}
    parts["added_tokens"] = [
        {**plain, **token, "single_word": True, "id": len(vocabulary) + place}
        for place, token in enumerate(tokens)
    ]
    return parts


def _byte_level_of(*before: Parts, normalizer: Parts | None = None) -> Parts:
    pre_tokenizer = sequence("pretokenizers", *before)
    return _with(_byte_level(), normalizer, pre_tokenizer, WITH_WORDS)


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
    return _with(_byte_fallback(), normalizer, pre_tokenizer, LLAMA)


KINDS: Mapping[str, Callable[[], Parts]] = {
    "llama2": lambda: _with(
        _byte_fallback(),
        sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, SPACE),
        None,
        LLAMA,
    ),
    "llama_first": lambda: _with(
        _byte_fallback(), None, {**METASPACE, "prepend_scheme": "first", "split": False}, LLAMA
    ),
    "llama_first_normalized": _llama_first_normalized,
    "gemma": lambda: _with(
        _byte_fallback(),
        SPACE,
        {**split("", "MergedWithPrevious"), "pattern": {"String": " "}},
        sequence("decoders", *LLAMA["decoders"][:3]),
    ),
    "no_fallback": lambda: _with(_byte_fallback(), SPACE, None, LLAMA, byte_fallback=False),
    "no_fuse": lambda: _with(
        _byte_fallback(), SPACE, None, None, byte_fallback=False, fuse_unk=False
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
        {**_DIGITS, "individual_digits": False},
        split("[0-9][0-9][0-9]"),
    ),
    "starcoder": lambda: _byte_level_of(_DIGITS, WITH_WORDS),
    "byte_normalizer": lambda: _with(
        _byte_level(),
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
    "word_level": lambda: _with(_word_level(), None, {"type": "Whitespace"}, None),
    "single_words": _single_words,
}
