"""Tokenizers that ssmrun does not have: refused by name, and known when packing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import ssmrun_bundle as sb
from changed_tokenizer import ADDED, CHANGES, Change, changed, plain
from conftest import small_config
from ssmpress.checkpoint.text_side import read_text_side
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


def test_packing_knows_what_ssmrun_takes() -> None:
    for change in CHANGES:
        assert missing_part(changed(change)) is None, change.__name__
    for name, kind in KINDS.items():
        assert missing_part(json.dumps(kind())) is None, name
