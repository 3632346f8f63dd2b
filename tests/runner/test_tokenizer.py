"""ssmrun's tokenizer: the ids and texts of the tokenizers library, on texts that hurt."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import NFD

import ssmrun_bundle as sb
from changed_tokenizer import CHANGES, changed, nfc, plain
from paths import ROOT
from thoroughness import examples
from tokenizer_pair import MORE_PIECES, NASTY, Pair, bundle_with, open_pair

PIECES = st.sampled_from([*MORE_PIECES, "<|endoftext|>", "<|pad|>", "<mask>", "&", "é€"])
TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    st.lists(PIECES, max_size=30).map("".join),
    st.lists(st.one_of(PIECES, st.characters(exclude_categories=["Cs"])), max_size=30).map("".join),
)


@pytest.fixture(scope="module", params=CHANGES, ids=lambda change: change.__name__)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("tokenizer") / "b"
    with open_pair(folder, library, changed(request.param)) as pair:
        yield pair


def test_nasty_texts(pair: Pair) -> None:
    for text in NASTY:
        pair.check(text)


@settings(max_examples=examples(400), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_any_text(pair: Pair, text: str) -> None:
    pair.check(text)


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 1100), max_size=40))
def test_any_tokens_decode_to_the_same_text(pair: Pair, tokens: list[int]) -> None:
    """Most are no UTF-8: the replacement characters must agree too."""
    pair.check_decode(tokens)


def run_bounds() -> list[str]:
    """The characters on either side of where the class changes."""
    text = (ROOT / "runtimes" / "runner" / "text" / "character_tables.h").read_text()
    runs = text[text.index("kPropertyRuns") :]
    starts = [int(run, 16) >> 8 for run in re.findall(r"0x[0-9a-f]+", runs)]
    return [chr(c) for start in starts for c in (start - 1, start) if 0 <= c < 0xD800 or c > 0xDFFF]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_classes_of_characters(tmp_path: Path, library: Path, every: bool) -> None:
    """After a letter, a number and a sign: the bounds of the classes, or all of Unicode."""
    file = changed(plain)
    tokenizer = Tokenizer.from_str(file)
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    characters = everything if every else run_bounds()
    assert len(characters) > 3000
    with sb.Worker(
        bundle_with(tmp_path / "b", library, file), "--runtime", str(sb.runtime())
    ) as worker:
        for begin in range(0, len(characters), 1000):
            block = characters[begin : begin + 1000]
            text = "".join(f"a{c}1{c}!{c}\t" for c in block)
            wanted = tokenizer.encode(text, add_special_tokens=False).ids
            assert worker.ask("encode", text=text)["tokens"] == wanted, ascii(block[0])


def test_a_trained_models_tokenizer(
    tmp_path: Path, library: Path, shared: Callable[[str], Path]
) -> None:
    text = shared("models/mamba-31m/tokenizer.json").read_text()
    sample = shared("data/wikitext103/valid.detok.txt").read_text()[:400_000]
    with open_pair(tmp_path / "b", library, text) as pair:
        pair.check(sample)
        for nasty in NASTY:
            pair.check(nasty)


def test_composition_of_all_characters(tmp_path: Path, library: Path) -> None:
    """Every character that decomposes, and its decomposition with marks in another order."""
    file = changed(nfc)
    tokenizer = Tokenizer.from_str(file)
    nfd = NFD().normalize_str
    texts = [c for c in map(chr, range(0x110000)) if not "\ud800" <= c <= "\udfff" and nfd(c) != c]
    assert len(texts) > 13_000
    texts = [c for c in texts if not "\uac00" <= c <= "\ud7a3"] + texts[::37]
    joined = "".join(f"{c} {nfd(c)} {nfd(c)[::-1]} {c}\u0323\u0301\u0334\n" for c in texts)
    folder = bundle_with(tmp_path / "b", library, file)
    with sb.Worker(folder, "--runtime", str(sb.runtime())) as worker:
        for begin in range(0, len(joined), 20_000):
            part = joined[begin : begin + 20_000]
            wanted = tokenizer.encode(part, add_special_tokens=False).ids
            assert worker.ask("encode", text=part)["tokens"] == wanted


def test_marks_are_put_in_order(tmp_path: Path, library: Path) -> None:
    """Every combining mark, before and after one of each class."""
    file = changed(nfc)
    tokenizer = Tokenizer.from_str(file)
    marks = {c: kind for c in map(chr, range(0x110000)) if (kind := unicodedata.combining(c))}
    some = {kind: c for c, kind in marks.items()}
    assert len(marks) > 900
    assert len(some) > 50
    folder = bundle_with(tmp_path / "b", library, file)
    with sb.Worker(folder, "--runtime", str(sb.runtime())) as worker:
        for mark in marks:
            text = "".join(f"a{mark}{other}a{other}{mark}" for other in some.values())
            wanted = tokenizer.encode(text, add_special_tokens=False).ids
            assert worker.ask("encode", text=text)["tokens"] == wanted, ascii(mark)


@pytest.mark.parametrize(
    ("generator", "table"),
    [
        pytest.param("generate_characters", "character_tables.h", marks=pytest.mark.slow),
        pytest.param("generate_graphemes", "grapheme_tables.h", marks=pytest.mark.slow),
        pytest.param("generate_normalization", "normalization_tables.h", marks=pytest.mark.slow),
        ("generate_known_parts", "known_parts.h"),
        ("generate_split_rules", "split_rules.h"),
    ],
)
def test_tables_are_what_their_generators_write(generator: str, table: str) -> None:
    folder = ROOT / "runtimes" / "runner" / "text"
    module = importlib.import_module(generator)
    without_version = [
        re.sub(" from tokenizers .*;", "", text)
        for text in (module.header(), (folder / table).read_text())
    ]
    assert without_version[0] == without_version[1]


def test_text_that_is_not_utf8(tmp_path: Path, library: Path) -> None:
    folder = bundle_with(tmp_path / "b", library, changed(plain))
    options = ["--runtime", sb.runtime(), "--max-tokens", "1"]
    for bad, offset in (
        (b"ab\xff", 2),
        (b"\xc3", 0),
        (b"x\xed\xa0\x80", 1),
        (b"\xc0\x80", 0),
        (b"aa\xf4\x90\x80\x80", 2),
        (b"\x80", 0),
        (b"a\xe2\x82", 1),
    ):
        done = sb.ssmrun("generate", folder, "--prompt-file=-", *options, stdin=bad)
        code, text = sb.failure(done)
        assert code == 6
        assert f"-: expected UTF-8 text; the byte at offset {offset} is not" in text


def test_the_stream_is_whole_characters(tmp_path: Path, library: Path) -> None:
    """What is printed of a text is never cut inside a character, whatever the tokens' bytes."""
    with sb.Worker(
        bundle_with(tmp_path / "b", library, changed(plain)), "--runtime", str(sb.runtime())
    ) as worker:
        tokens = worker.ask("encode", text="👍é")["tokens"]
        assert worker.ask("decode", tokens=tokens)["text"] == "👍é"
        assert worker.ask("decode", tokens=tokens[:-1])["text"] == "👍\ufffd"
