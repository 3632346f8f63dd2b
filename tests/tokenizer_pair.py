# ruff: noqa: RUF001 - characters that look like others are the point
"""A tokenizer.json read by ssmrun and by the tokenizers library, and texts that hurt both."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tokenizers
from tokenizers import Tokenizer

import ssmrun_bundle as sb
from tokenizer_kinds import KINDS

NASTY = (
    "",
    " ",
    "\n",
    "a",
    " a",
    "a ",
    "  a",
    "   a  b   ",
    "\t\ta\n\n\nb",
    "a\r\nb\r\n",
    "don't",
    "DON'T 'tis 've'll'd're'm's",
    "'",
    "''s",
    " 's",
    "'\u017f",
    "it’s",
    "1234567890",
    "a1b22c333",
    "x²½Ⅷ௧",
    "٣٤٥ १२३",
    "naïve café",
    "cafe\u0301",
    "e\u0301\u0327\u0308 o\u0302",
    "\u1e9b\u0323",
    "한국어 조합 \u1112\u1161\u11ab",
    "中文測試，标点。",
    "ひらがなカタカナ",
    "ไทยไม่มีช่องว่าง",
    "עברית \u05e9\u05c1",
    "العربية",
    "हिन्दी",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "👍🏽👨‍👩‍👧‍👦🇩🇪",
    "☃️",
    "\u200b\u200d\ufeff",
    "\u00a0a\u2003b\u3000c",
    "\u2028\u2029\x85x",
    "\x1c\x1d a",
    "\x00\x01\x7f",
    "Ⓐ\u0345",
    "ﬁ ﬀ",
    "ǅ",
    "\U0010ffff",
    "\ufffd",
    "<|endoftext|>",
    "a<|endoftext|>b <|pad|>   c",
    "x   <mask>  y",
    "<|pad|> <mask>",
    " <mask>",
    "<|endoftext",
    "&amp; && &",
    "é€é",
    "for i in range(3):\n        x += 1  # done\n",
    "http://a.b/c?d=e&f=g#h",
    "X" * 3000,
    " " * 777,
    "\n" * 50 + "x",
    "aXbX XX ÃX",
    "lol" * 500,
    "Ġ Ċ ĉ",
)

MORE_PIECES = (
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "'s",
    "'S",
    "'",
    "’",
    "a",
    "Z",
    "Ab",
    "7",
    "12",
    "½",
    "é",
    "e\u0301",
    "\u0323",
    "\u0301",
    "中",
    "👍",
    "🏽",
    "\u200d",
    "\u00a0",
    "\u3000",
    "<s>",
    "</s>",
    "<unk>",
    "X",
    "Ã",
    "\u1112",
    "\u1161",
    "\u11ab",
    "가",
    "_",
    "-",
    "…",
    "▁",
    "##",
    "<0xE2>",
    ".",
    "!",
    "``",
    "''",
    "ß",
    "İ",
    "ﬁ",
    "²",
    "Ⅷ",
    "\u0600",
    "©",
    "क",
    "्",
    "\u0b95",
    "\ufeff",
    "\x00",
    "\x01",
    "\u200b",
    "ǅ",
    "ſ",
    "don't",
    "[UNK]",
    "n't",
    "\ufffd",
    "\u0340",
    "\ufb1d",
    "/",
    "\\",
    "don",
    "ab",
    "\u0e33",
    "\u0345",
    "🇩",
    "🇪",
)
"""Pieces of random texts; the first 20 are short ones that split rules are about."""


NEWER = ("fixed_length",)
"""Kinds that the lowest version of the tokenizers library that is declared does not read."""


def read_kind(name: str) -> tuple[str, Tokenizer]:
    """One of KINDS as its file and as the library reads it; skips where that is too old."""
    text = json.dumps(KINDS[name]())
    try:
        return text, Tokenizer.from_str(text)
    except Exception:
        if name not in NEWER:
            raise
        pytest.skip(f"tokenizers {tokenizers.__version__} does not know {name} yet")


class Pair:
    """One tokenizer.json, read by ssmrun and by the library."""

    def __init__(self, worker: sb.Worker, tokenizer: Tokenizer) -> None:
        self.worker, self.tokenizer = worker, tokenizer

    def check(self, text: str) -> None:
        wanted = self.tokenizer.encode(text, add_special_tokens=False).ids
        assert self.worker.ask("encode", text=text)["tokens"] == wanted, ascii(text)
        self.check_decode(wanted)

    def check_decode(self, tokens: list[int]) -> None:
        wanted = self.tokenizer.decode(tokens)
        assert self.worker.ask("decode", tokens=tokens)["text"] == wanted, tokens


def bundle_with(folder: Path, library: Path, text: str) -> Path:
    """A bundle that is only good for its tokenizer."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"no model")
    shutil.copyfile(library, folder / "libssmpress_ops.so")
    (folder / "tokenizer.json").write_text(text)
    sb.remake_manifest(folder)
    return folder


@contextmanager
def open_pair(folder: Path, library: Path, text: str) -> Iterator[Pair]:
    """A tokenizer.json of that text, in a bundle in the folder, which is new."""
    sb.runner()
    bundle = bundle_with(folder, library, text)
    with sb.Worker(bundle, "--runtime", str(sb.runtime())) as worker:
        yield Pair(worker, Tokenizer.from_str(text))


def random_text(random_: random.Random) -> str:
    """Of hard pieces, of any characters, or of both."""
    share = random_.choice([1, 0.6, 0])

    def character() -> str:
        end = random_.choice([0x80, 0x3000, 0xD800, 0x110000])
        code = random_.randrange(end)
        return chr(code if not 0xD800 <= code < 0xE000 else 0xFFFD)

    pieces = random_.choice([MORE_PIECES, MORE_PIECES[:20]])
    return "".join(
        random_.choice(pieces) if random_.random() < share else character()
        for _ in range(random_.randint(0, 25))
    )


def check_random(pair: Pair, seed: int, texts: int) -> None:
    """Texts, their tokens, and tokens that no text has."""
    random_ = random.Random(seed)
    for _ in range(texts):
        pair.check(random_text(random_))
    end = pair.tokenizer.get_vocab_size() + 5
    for _ in range(texts // 3):
        pair.check_decode([random_.randrange(end) for _ in range(random_.randint(0, 30))])
