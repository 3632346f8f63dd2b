"""Expressions that need exponential time end with a sentence; others need no process."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from changed_tokenizer import changed
from ssmpress.data import tokenizer_process
from ssmpress.data.tokenizer import decode_each, encode, encode_each, load_tokenizer
from ssmpress.data.tokenizer_process import is_linear, needs_process, working
from ssmpress.errors import BadInputError
from tokenizer_kinds import KINDS
from tokenizer_pair import read_kind
from tokenizer_parts import replace, split

EXPONENTIAL = "(a+)+$"
HOSTILE = ("a" * 19 + "!") * 500
"""10 kB: an attempt that fails takes 2^19 steps, and there are thousands of them."""


def demo(**parts: Any) -> str:
    return changed(lambda file: file.update(parts))


def written(folder: Path, text: str) -> Tokenizer:
    (folder / "tokenizer.json").write_text(text)
    return load_tokenizer(folder / "tokenizer.json")


def encode_one(tokenizer: Tokenizer, text: str, **sizes: int) -> Any:
    return encode_each(tokenizer, [text], **sizes)


@pytest.mark.parametrize(
    ("parts", "way"),
    [
        ({"pre_tokenizer": split(EXPONENTIAL)}, encode),
        ({"normalizer": replace({"Regex": EXPONENTIAL}, "x")}, encode_one),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(EXPONENTIAL)]}}, encode),
    ],
)
def test_exponential_expressions_end_with_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parts: dict[str, Any],
    way: Callable[..., Any],
) -> None:
    """By the processor time of the process, so that a busy machine changes nothing."""
    monkeypatch.setattr(tokenizer_process, "SECONDS", 1)
    monkeypatch.setattr(tokenizer_process, "CHARACTERS_PER_SECOND", 1 << 30)
    tokenizer = written(tmp_path, demo(**parts))
    assert needs_process(tokenizer)
    with pytest.raises(BadInputError, match=r"10,000 characters took more than 1 s of processor"):
        way(tokenizer, HOSTILE, vocab_size=1024)
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY


def test_an_unknown_expression_gives_the_same_tokens(tmp_path: Path) -> None:
    """In a process of its own, which also decodes, and says what the library says."""
    tokenizer = written(tmp_path, demo(pre_tokenizer=split(r"\w+|\W")))
    assert needs_process(tokenizer)
    texts = ["The list of words.", "naïve 東京 👍", "x"]
    ids = [tokenizer.encode(text).ids for text in texts]
    for got, wanted in zip(encode_each(tokenizer, texts, vocab_size=1024), ids, strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(encode(tokenizer, texts[0], vocab_size=1024), ids[0])
    assert decode_each(tokenizer, ids) == tokenizer.decode_batch(ids, skip_special_tokens=False)
    with pytest.raises(BadInputError, match="text 2: expected at least one token"):
        encode_each(tokenizer, ["a", ""], vocab_size=1024)
    with pytest.raises(BadInputError, match="the model's embedding 3 rows"):
        encode(tokenizer, "word", vocab_size=3)


def test_what_the_library_says_comes_through(tmp_path: Path) -> None:
    parts = json.loads(demo(pre_tokenizer=split(r"\w+|\W")))
    parts["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "missing"}
    tokenizer = written(tmp_path, json.dumps(parts))
    with pytest.raises(BadInputError, match=r"the tokenizer cannot encode the text: .*UNK"):
        encode(tokenizer, "word", vocab_size=1024)


@pytest.mark.parametrize("name", KINDS)
def test_published_tokenizers_need_no_process(name: str) -> None:
    assert not needs_process(read_kind(name)[1])


def test_no_process_is_started_for_them() -> None:
    with working(Tokenizer.from_str(demo())) as work:
        assert work("encode", ["a"]) == [Tokenizer.from_str(demo()).encode("a").ids]


@pytest.mark.parametrize(
    "expression",
    [r"\w+", "(a|aa)+", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s*[\r\n]+|\p{N}", ""],
)
def test_expressions_that_may_take_longer(expression: str) -> None:
    """Some are known, and linear only beside another one."""
    assert not is_linear(expression)
    assert is_linear(r"\s*[\r\n]+|\s+(?!\S)|\s+")
