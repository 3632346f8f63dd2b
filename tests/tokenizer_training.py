# ruff: noqa: RUF001 - characters that look like others are the point
"""Small models of every kind, trained in a moment: the vocabularies of the tests' tokenizers."""

from __future__ import annotations

import functools
import json
from typing import Any

from tokenizers import Tokenizer, models, trainers
from tokenizers import normalizers as nm
from tokenizers import pre_tokenizers as pt

from paths import ROOT
from tokenizer_parts import Parts

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
HARD = (
    "naïve café e\u0301 한국어 조합 中文測試，标点。 ひらがなカタカナ ไทยไม่มีช่องว่าง עברית العربية "
    "हिन्दी क्षत्रिय 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👍🏽👨‍👩‍👧‍👦🇩🇪 don't I'LL ½ ² Ⅷ 123456 \u00a0 x\ty\n"
)


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
def byte_fallback() -> Parts:
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL + BYTES, limit_alphabet=80, show_progress=False
    )
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    parts = _train(model, trainer, pre_tokenizer=pt.Metaspace(split=True))
    parts["model"] |= {"fuse_unk": True, "byte_fallback": True}
    return parts


@functools.cache
def byte_level() -> Parts:
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pt.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _train(models.BPE(), trainer, pre_tokenizer=pt.ByteLevel(add_prefix_space=False))


@functools.cache
def unigram(byte_fallback: bool) -> Parts:
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
def word_piece() -> Parts:
    trainer = trainers.WordPieceTrainer(
        vocab_size=800, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    model = models.WordPiece(unk_token="[UNK]")
    return _train(model, trainer, nm.BertNormalizer(), pt.BertPreTokenizer())


@functools.cache
def clip() -> Parts:
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<u>"], end_of_word_suffix="</w>", show_progress=False
    )
    model = models.BPE(unk_token="<u>", end_of_word_suffix="</w>")
    return _train(model, trainer, nm.Lowercase(), pt.Whitespace())


@functools.cache
def word_level() -> Parts:
    trainer = trainers.WordLevelTrainer(
        vocab_size=300, special_tokens=["<unk>"], show_progress=False
    )
    return _train(models.WordLevel(unk_token="<unk>"), trainer, pre_tokenizer=pt.Whitespace())
