"""Every kind of tokenizer that ssmrun has: the ids and texts of the tokenizers library."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import ssmrun_bundle as sb
from ssmpress.data import device_tokenizer
from ssmpress.runtime.text_stream import TextStream
from tokenizer_kinds import KINDS
from tokenizer_pair import NASTY, Pair, check_random, open_pair, read_kind


def test_every_listed_part_is_compared() -> None:
    """No part is on the list without a tokenizer here that has it."""
    files = [json.dumps(kind()) for kind in KINDS.values()]
    found = {part for file in files for part in re.findall(r'"type": "(\w+)"', file)}
    assert {kind for kinds in device_tokenizer.KINDS.values() for kind in kinds} <= found


@pytest.fixture(scope="module", params=KINDS)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[Pair]:
    text, _ = read_kind(request.param)
    with open_pair(tmp_path_factory.mktemp("kind") / "b", library, text) as pair:
        yield pair


def test_nasty_texts_of_every_kind(kind: Pair) -> None:
    for text in NASTY:
        kind.check(text)
    check_random(kind, seed=0, texts=120)


@pytest.fixture(scope="module")
def model_bundle(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    sb.runner()
    return sb.make_bundle(
        tmp_path_factory.mktemp("model") / "b", sb.packed_model(None), library=library
    )


STREAMED = ["llama2", "llama_first", "t5_bytes", "no_fallback", "bert_cased", "llama3", "clip"]


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_text_goes_on_where_the_prompt_ends(
    tmp_path: Path, model_bundle: Path, name: str
) -> None:
    """Token by token what decoding all of them at once adds to the prompt.

    But for bytes that are no character: those of a run are all given up when decoded at once, while
    a character that was written cannot be taken back. The tokenizers are trained anew each time.
    """
    text = json.dumps(KINDS[name]())
    folder = sb.twin(model_bundle, tmp_path / "b")
    (folder / "tokenizer.json").write_text(text)
    sb.remake_manifest(folder)
    tokenizer = Tokenizer.from_str(text)
    for seed in ("1", "2"):
        options = ["--prompt", "Hello wörld", "--max-tokens", "40", "--temperature", "3"]
        options += ["--seed", seed, "--threads", "1"]
        found = sb.reply(sb.ssmrun("generate", folder, *options, "--json"))
        prompt = tokenizer.encode("Hello wörld", add_special_tokens=False).ids
        assert found["prompt_tokens"] == prompt
        stream = TextStream(tokenizer, prompt)
        assert found["text"] == "".join(map(stream.add, found["tokens"])) + stream.finish()
        before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + found["tokens"])
        assert before + found["text"] == whole or "\ufffd" in whole
        streamed = sb.ssmrun("generate", folder, *options)
        assert streamed.stdout.decode() == found["text"] + "\n"


@pytest.mark.slow
def test_any_text_of_every_kind(kind: Pair) -> None:
    check_random(kind, seed=1, texts=4000)


@pytest.mark.slow
def test_every_character_of_every_kind(kind: Pair) -> None:
    """By itself, all there are; beside a mark, a sign, a letter and a number, those that Unicode
    describes, but of the thousands of one class (ideographs, Hangul) some."""
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    several = [c for c in everything if unicodedata.category(c) not in ("Co", "Cn")]
    varied = [c for c in several if unicodedata.category(c) != "Lo" or ord(c) < 0x3400]
    varied += several[::61]
    check_blocks(kind, everything, "", " ")
    for before, after in (("", "\u0301"), ("'", ""), ("a", "1")):
        check_blocks(kind, varied, before, after)


def check_blocks(kind: Pair, characters: list[str], before: str, after: str) -> None:
    for begin in range(0, len(characters), 500):
        kind.check("".join(f"{before}{c}{after}" for c in characters[begin : begin + 500]))
