"""Tokenizers that ssmrun does not have: refused by name, and known when packing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import ssmpress
import ssmrun_bundle as sb
from changed_tokenizer import ADDED, CHANGES, Change, added_token, changed, plain
from conftest import small_config
from ssmpress.checkpoint.text_side import read_text_side
from ssmpress.data import tokenizer_bounds
from ssmpress.data.device_tokenizer import missing_part
from tokenizer_kinds import KINDS
from tokenizer_pair import bundle_with
from tokenizer_parts import split

REGEX = r"\w+"
REFUSED: list[tuple[Change, str]] = [
    (
        lambda p: p["model"].update(type="Other"),
        'model.type: expected a kind that ssmrun has; got "Other"',
    ),
    (lambda p: p.update(model=None), "model.type: expected a kind; got none"),
    (lambda p: p.update(pre_tokenizer={"type": "UnicodeScripts"}), "pre_tokenizer.type: expected"),
    (lambda p: p.update(pre_tokenizer=split(REGEX)), "pre_tokenizer.pattern: expected a regular"),
    (
        lambda p: p.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split(REGEX)]}),
        "pre_tokenizer.pretokenizers[0].pattern: expected a regular expression that ssmrun has",
    ),
    (lambda p: p.update(decoder={"type": "CTC"}), "decoder.type: expected"),
    (lambda p: p.update(normalizer={"type": "Other"}), "normalizer.type: expected"),
    (lambda p: p["model"].update(dropout=0.1), "model.dropout: expected none; got 0.1"),
    (lambda p: p["model"].update(ignore_merges=3), "ignore_merges: expected true or false; got 3"),
    (lambda p: p["model"].update(byte_fallback=3), "byte_fallback: expected true or false; got 3"),
    (lambda p: p["model"].update(vocab=[]), "model.vocab: expected an object"),
    (lambda p: p["model"]["vocab"].update(a=-1), "model.vocab: expected ids below"),
    (lambda p: p["model"]["vocab"].update(a=1.5), "got 1.5"),
    (lambda p: p["model"]["vocab"].update(a=2**22), "model.vocab: expected ids below 4194304"),
    (lambda p: p["model"].update(merges={}), "model.merges: expected a list"),
    (lambda p: p["model"]["merges"].append(["a"]), "model.merges: expected pairs of tokens"),
    (lambda p: p["model"]["merges"].append("abc"), "model.merges: expected pairs of tokens"),
    (lambda p: p["model"]["merges"].append(["a", 3]), "model.merges: expected tokens of"),
    (lambda p: p["model"]["merges"].append(["q", "q"]), "model.merges: expected tokens of"),
    (lambda p: p.update(added_tokens={}), "added_tokens: expected a list"),
    (lambda p: p.update(added_tokens=[{"id": 0}]), "added_tokens: expected content and id"),
    (lambda p: p.update(added_tokens=[{"id": 2**40, "content": "x"}]), "expected content and id"),
    (lambda p: p.update(added_tokens=[{"id": 7, "content": "a"}]), "expected id 64 as in"),
    (
        lambda p: p.update(added_tokens=[{"id": 2000, "content": "zz", "single_word": 3}]),
        "expected id 1024; got 2000",
    ),
    (
        lambda p: p.update(added_tokens=[{"id": 1024, "content": "zz", "single_word": 3}]),
        "single_word: expected true or false; got 3",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_other_tokenizers_are_refused_by_name(
    tmp_path: Path, library: Path, change: Change, message: str
) -> None:
    folder = bundle_with(tmp_path / "b", library, changed(change))
    code, text = sb.failure(
        sb.ssmrun("generate", folder, "--prompt", "x", "--runtime", sb.runtime())
    )
    assert code == 6
    assert message in text
    assert f"{folder}/tokenizer.json: " in text


# What the library reads and ssmrun may not have: packing must know which.
STRIP = {"type": "Strip", "strip_left": True, "strip_right": True}
NORMALIZED = {**ADDED[0], "normalized": True}
LIBRARY_ONLY: list[Change] = [
    lambda p: p.update(pre_tokenizer={"type": "UnicodeScripts"}),
    lambda p: p.update(pre_tokenizer=split(REGEX)),
    lambda p: p.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split(REGEX)]}),
    lambda p: p.update(normalizer={"type": "Replace", "pattern": {"Regex": REGEX}, "content": ""}),
    lambda p: p.update(
        decoder={"type": "CTC", "pad_token": "x", "word_delimiter_token": "|", "cleanup": True}
    ),
    lambda p: p["model"].update(dropout=0.1),
    lambda p: p.update(added_tokens=[{**ADDED[0], "id": 2000}]),
    lambda p: p.update(decoder={"type": "BPEDecoder", "suffix": ""}),
    lambda p: p.update(normalizer={"type": "Prepend", "prepend": ""}),
    lambda p: p.update(normalizer=STRIP, added_tokens=[{**NORMALIZED, "content": " "}]),
    lambda p: p.update(
        normalizer={"type": "Lowercase"},
        added_tokens=[
            {**NORMALIZED, "content": "<Mark>"},
            {**NORMALIZED, "content": "<mark>", "id": 1025},
        ],
    ),
]


@pytest.mark.parametrize("number", range(len(LIBRARY_ONLY)))
def test_packing_knows_what_ssmrun_refuses(tmp_path: Path, library: Path, number: int) -> None:
    """The same place, expectation and finding in both languages."""
    file = changed(LIBRARY_ONLY[number])
    Tokenizer.from_str(file)
    missing = missing_part(file)
    assert missing is not None
    folder = bundle_with(tmp_path / "b", library, file)
    code, text = sb.failure(
        sb.ssmrun("generate", folder, "--prompt", "x", "--runtime", sb.runtime())
    )
    assert code == 6
    assert missing.split("; got ")[0] in text


def notes_of(folder: Path, file: str) -> list[str]:
    path = folder / "tokenizer.json"
    path.write_text(file)
    notes: list[str] = []
    side = read_text_side(path, path, small_config(), notes.append)
    assert side is not None
    assert (side.ssmrun_lacks is None) == (notes == [])
    return notes


def test_packing_says_that_ssmrun_lacks_a_part(tmp_path: Path) -> None:
    assert notes_of(tmp_path, changed(plain)) == []
    (note,) = notes_of(tmp_path, changed(LIBRARY_ONLY[0]))
    assert note.startswith(f"{tmp_path}/tokenizer.json: pre_tokenizer.type: expected a kind")
    assert note.endswith("run in Python only, not in ssmrun")


def unused(parts: dict[str, Any]) -> None:
    """Members that a kind without members does not have: neither side reads them."""
    parts["pre_tokenizer"] = {"type": "Whitespace", "pretokenizers": [split(REGEX)]}


def test_packing_knows_what_ssmrun_takes() -> None:
    assert missing_part(changed(unused)) is None
    for change in CHANGES:
        assert missing_part(changed(change)) is None, change.__name__
    for name, kind in KINDS.items():
        assert missing_part(json.dumps(kind())) is None, name


def test_info_says_what_ssmrun_lacks(
    tmp_path_factory: pytest.TempPathFactory, library: Path
) -> None:
    """In ssmrun and in Python, and neither fails; of a tokenizer that ssmrun has, nothing."""
    sb.runner()
    folder = sb.make_bundle(
        tmp_path_factory.mktemp("info") / "b", sb.packed_model(None), library=library
    )
    info = sb.reply(sb.ssmrun("info", folder, "--json"))
    assert info["ssmrun_lacks"] is None
    assert ssmpress.open_bundle(folder, threads=1).ssmrun_lacks is None
    file = changed(LIBRARY_ONLY[0])
    (folder / "tokenizer.json").write_text(file)
    sb.remake_manifest(folder)
    missing = missing_part(file)
    info = sb.reply(sb.ssmrun("info", folder, "--json"))
    assert info["ssmrun_lacks"].startswith(f"{folder}/tokenizer.json: {missing}")
    assert "texts: not here, in Python only: " in sb.ssmrun("info", folder).stdout.decode()
    model = ssmpress.open_bundle(folder, threads=1)
    assert model.ssmrun_lacks == missing
    assert "".join(model.stream("The list of", 4))


# ---- one function decides what ssmrun has: against what ssmrun does ----

DROPPED = ("type", "pattern", "vocab", "merges", "content", "precompiled_charsmap")
ODD: dict[str, list[Any]] = {
    "suffix": ["", "</w>"],
    "prepend": ["", "▁", "ab"],
    "length": [0, 1, 3],
    "pattern": [{"String": ""}, {"String": "a"}, {"Regex": r"\s+"}, {"Regex": REGEX}],
    "type": ["UnicodeScripts", "CTC", "Whitespace", "Lowercase", "Fuse", "NFC"],
    "content": ["", "x", "\u0301"],
    "normalized": [True],
    "dropout": [None, 0.0, 0.1],
    "continuing_subword_prefix": [None, "", "##"],
    "start": [0, 2],
    "delimiter": ["-", "é"],
}


def parts_of(value: Any) -> list[dict[str, Any]]:
    """Every object inside, but vocabularies."""
    if isinstance(value, list):
        return [part for item in value[:40] for part in parts_of(item)]
    if not isinstance(value, dict):
        return []
    return [value, *(p for key, item in value.items() if key != "vocab" for p in parts_of(item))]


def mixed(random_: random.Random) -> str:
    """A model with the normalizer, splitter and decoder of others, and a field or two changed."""
    kinds = list(KINDS.values())
    parts = json.loads(json.dumps(random_.choice(kinds)()))
    for room in ("normalizer", "pre_tokenizer", "decoder"):
        parts[room] = json.loads(json.dumps(random_.choice(kinds)()[room]))
    if random_.random() < 0.5:
        size = len(parts["model"]["vocab"])
        content = random_.choice(["É", "e\u0301", " ", "x", "\u0301"])
        parts["added_tokens"].append(added_token(size, content, normalized=True))
    for part in random_.sample(found := parts_of(parts), min(3, len(found))):
        key = random_.choice(list(part) or ["type"])
        if key in ODD and random_.random() < 0.8:
            part[key] = json.loads(json.dumps(random_.choice(ODD[key])))
        elif key not in DROPPED and key not in parts and random_.random() < 0.3:
            del part[key]
    return json.dumps(parts)


def loadable(text: str) -> bool:
    """Whether the library reads it, and encodes with it."""
    try:
        Tokenizer.from_str(text).encode("x é\n", add_special_tokens=False)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return False
    return True


def encodes(folder: Path, text: str) -> bool:
    """Whether ssmrun encodes with it; a refusal names the file."""
    (folder / "tokenizer.json").write_text(text)
    sb.remake_manifest(folder)
    with sb.Worker(folder, "--runtime", str(sb.runtime())) as worker:
        answer = worker.send(json.dumps({"do": "encode", "text": "x"}).encode())
    if "error" in answer:
        assert "expected" in answer["error"], answer
        return False
    return True


@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_one_function_decides(tmp_path: Path, library: Path, count: int) -> None:
    """Of any tokenizer that the library reads, packing says what ssmrun does."""
    sb.runner()
    folder, random_ = bundle_with(tmp_path / "b", library, changed(plain)), random.Random(count)
    seen = {True: 0, False: 0}
    while sum(seen.values()) < count:
        text = mixed(random_)
        if not loadable(text) or tokenizer_bounds.problem_of(json.loads(text)):
            continue
        missing = missing_part(text)
        assert encodes(folder, text) == (missing is None), (missing, text[:3000])
        seen[missing is None] += 1
    assert min(seen.values()) > count // 20
