"""Bounds that both languages have: each has one place in either, and they are the same."""

from __future__ import annotations

import re

import pytest

from paths import ROOT
from ssmpress import files, formats, states, strict_json
from ssmpress.data import tokenizer_bounds
from ssmpress.runtime import pieces, text_stream
from ssmpress.tasks import block

RUNNER = ROOT / "runtimes" / "runner"
BOUNDS = [
    ("text/tokenizer.cc", "kTokenizerLimit", tokenizer_bounds.BYTES),
    ("text/vocabulary.h", "kTokenLimit", tokenizer_bounds.IDS),
    ("text/added_tokens.cc", "kMost", tokenizer_bounds.ADDED),
    ("text/added_tokens.cc", "kMostBytes", tokenizer_bounds.ADDED_BYTES),
    ("text/normalizer.cc", "kMostGrowth", tokenizer_bounds.GROWTH),
    ("text/text_stream.h", "kMostWaiting", text_stream.MOST_WAITING),
    ("json/json.h", "kJsonDepth", strict_json.DEPTH),
    ("model/manifest.cc", "kManifestLimit", files.JSON_LIMIT),
    ("model/fields.h", "kSizeLimit", formats.SIZE_LIMIT),
    ("model/fields.h", "kEndTokenLimit", formats.END_TOKEN_LIMIT),
    ("model/fields.h", "kTaskLimit", block.LIMIT),
    ("model/state_tensor.cc", "kCountLimit", states._COUNT_LIMIT),
    ("model/state_tensor.cc", "kRankLimit", states._RANK_LIMIT),
    ("model/state_tensor.cc", "kElementsLimit", states._ELEMENTS_LIMIT),
    ("model/session.h", "kPieceTokens", pieces.PIECE_TOKENS),
    ("model/session.cc", "kLastPiece", pieces._LAST_PIECE),
]
"""File of the runner, name there, value in Python."""


def value_in(name: str, source: str) -> int:
    """A constant's value; its initialiser is a product or a shift of integers."""
    (text,) = re.findall(rf"constexpr \w+ {name} = ([^;]+);", source)
    plain = re.sub(r"\w+\{(\d+)\}", r"\1", text.replace("'", ""))
    assert re.fullmatch(r"\d+( << \d+)?", plain), text
    number, _, shift = plain.partition(" << ")
    return int(number) << int(shift or 0)


@pytest.mark.parametrize(("path", "name", "value"), BOUNDS, ids=[b[1] for b in BOUNDS])
def test_both_languages_have_the_same_bound(path: str, name: str, value: int) -> None:
    assert value_in(name, (RUNNER / path).read_text()) == value


def test_the_page_says_them() -> None:
    """docs/ssmrun.md lists what a file may hold at most."""
    page = " ".join((ROOT / "docs" / "ssmrun.md").read_text().split())
    bounds = tokenizer_bounds
    for words in (
        f"`manifest.json` of {files.JSON_LIMIT >> 20} MiB",
        f"`tokenizer.json` of {bounds.BYTES >> 20} MiB",
        f"token ids from {bounds.IDS:,} on",
        f"{bounds.ADDED:,} added tokens",
        f"{bounds.ADDED_BYTES} bytes in one of them",
        f"JSON of {strict_json.DEPTH} levels",
    ):
        assert words in page, words
