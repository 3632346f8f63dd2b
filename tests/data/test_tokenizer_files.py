"""Tokenizers as people have them give the ids that the libraries they come from give."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ssmpress.data.device_tokenizer import missing_part
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.data.tokenizer_files import as_tokenizer_json, find_tokenizer
from ssmpress.errors import BadInputError

TEXTS = [
    "The quick brown fox doesn't jump over 12345 lazy dogs.",
    "Zwölf Boxkämpfer jagen Viktor, quer über den großen Sylter Deich!",
    "naïve café 한국어 中文 ½ \U0001f44d",
    "a  b   c\n\n\td ",
] * 20
SIZE = 320
ANY_TEXT = st.text(st.sampled_from("ab eE,.'é1\n\t<|>endoftxs/한中 ½\U0001f44d\u2581"), max_size=40)


def trained_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt alone, as GPT-2 was published."""
    folder = tmp_path_factory.mktemp("gpt2")
    trained_bpe().model.save(str(folder))
    return folder


def files_with(folder: Path, to: Path, **others: Any) -> Path:
    """A copy of the two files with others beside them."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    for name, content in others.items():
        (to / f"{name}.json").write_text(json.dumps(content))
    return to


KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "GPT-2": ({}, transformers.GPT2Tokenizer),
    "GPT-2, prefixed": (
        {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}},
        transformers.GPT2Tokenizer,
    ),
    "GPT-2, added": (
        {
            "special_tokens_map": {"eos_token": {"content": "<|endoftext|>"}, "pad_token": "<x>"},
            "added_tokens": {"<x>": SIZE + 1, "ab": SIZE},
        },
        transformers.GPT2Tokenizer,
    ),
    "Qwen 2": (
        {"tokenizer_config": {"tokenizer_class": "Qwen2Tokenizer"}},
        transformers.Qwen2Tokenizer,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_and_merges_give_the_ids_of_transformers(
    tmp_path: Path, gpt2: Path, kind: str
) -> None:
    others, library = KINDS[kind]
    folder = files_with(gpt2, tmp_path / "files", **others)
    reference = library.from_pretrained(folder)
    notes: list[str] = []
    path = as_tokenizer_json(folder / "vocab.json", notes.append)
    ours = load_tokenizer(path)
    assert path.name == "tokenizer.json" and "merges.txt" in notes[0]
    assert missing_part(path.read_text()) is None, "ssmrun has all of it"

    @settings(max_examples=60, deadline=None)
    @given(ANY_TEXT)
    def same(text: str) -> None:
        assert ours.encode(text, add_special_tokens=False).ids == reference.encode(
            text, add_special_tokens=False
        )

    same()
    assert as_tokenizer_json(folder / "merges.txt") == path, "made once, found by either name"
    assert ours.decode(ours.encode("The fox é").ids).strip() == "The fox é"


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "merges of another": (
        {"merges.txt": "#version: 0.2\nqq zz\n"},
        r"merges\.txt: line 2: expected two tokens of vocab\.json that make a third; got 'qq zz'",
    ),
    "three words": ({"merges.txt": "a b c\n"}, r"line 1: expected two tokens .*got 'a b c'"),
    "not UTF-8": ({"merges.txt": "\udcff"}, r"merges\.txt: expected UTF-8 text"),
    "CLIP": ({"vocab.json": '{"a</w>": 0}'}, r"pieces that end with </w>.*backend_tokenizer\.save"),
    "ids": ({"vocab.json": '{"a": 9999999999}'}, r"model\.vocab: ids from 0 to 4194303"),
    "no JSON": ({"vocab.json": "{"}, r"vocab\.json: it is not valid JSON"),
    "another class": (
        {"tokenizer_config.json": '{"tokenizer_class": "WhisperTokenizer"}'},
        r"tokenizer_class: expected GPT2Tokenizer or .*got WhisperTokenizer\. Convert it",
    ),
    "tiktoken": ({"a.tiktoken": "x"}, r"got tiktoken's ranks\. Convert it where transformers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused(tmp_path: Path, gpt2: Path, name: str) -> None:
    contents, message = REFUSED[name]
    folder = files_with(gpt2, tmp_path / "files")
    for file, text in contents.items():
        (folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    file = next((f for f in contents if f.endswith("tiktoken")), "vocab.json")
    with pytest.raises(BadInputError, match=message):
        as_tokenizer_json(folder / file)


def test_the_best_file_beside_the_weights_is_found(tmp_path: Path, gpt2: Path) -> None:
    assert find_tokenizer([tmp_path]) is None
    (tmp_path / "vocab.json").write_text("{}")
    assert find_tokenizer([tmp_path]) is None, "of another kind without merges.txt"
    (tmp_path / "tokenizer.model").touch()
    assert find_tokenizer([tmp_path, gpt2]) == tmp_path / "tokenizer.model"
    (tmp_path / "merges.txt").touch()
    assert find_tokenizer([tmp_path]) == tmp_path / "vocab.json"
    (tmp_path / "tokenizer.json").touch()
    assert find_tokenizer([tmp_path]) == tmp_path / "tokenizer.json"
    assert as_tokenizer_json(tmp_path) == tmp_path / "tokenizer.json"


def trained_model(path: Path, **options: Any) -> Any:
    """A small model of SentencePiece, and the library's own processor of it."""
    sentencepiece = pytest.importorskip(
        "sentencepiece", reason="needs the extra ssmpress[sentencepiece]"
    )
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=content,
        vocab_size=380,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    path.write_bytes(content.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


MODELS: dict[str, dict[str, Any]] = {
    "unigram": {"model_type": "unigram"},
    "unigram of bytes": {"model_type": "unigram", "byte_fallback": True},
    "Llama's": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "vocab_size": 420,
    },
    "BPE": {"model_type": "bpe", "user_defined_symbols": ["<sep>"], "vocab_size": 330},
    "no prefix": {"model_type": "bpe", "add_dummy_prefix": False},
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_of_sentencepiece_gives_its_ids(tmp_path: Path, kind: str) -> None:
    options = {"vocab_size": 380} | MODELS[kind]
    del options["vocab_size"]
    reference = trained_model(tmp_path / "tokenizer.model", **options)
    notes: list[str] = []
    path = as_tokenizer_json(tmp_path / "tokenizer.model", notes.append)
    ours = load_tokenizer(path)
    assert "a model of SentencePiece" in notes[0]
    assert missing_part(path.read_text()) is None, "ssmrun has all of it"
    texts = st.text(st.sampled_from("ab eEox,.'éü1 23\n\t한中½\U0001f44d"), max_size=30)

    @settings(max_examples=60, deadline=None)
    @given(texts)
    def same(text: str) -> None:
        assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text)

    same()
    for text in TEXTS[:4]:
        ids = reference.encode(text)
        assert ours.encode(text, add_special_tokens=False).ids == ids
        assert ours.decode(ids) == reference.decode(ids)


def test_without_the_package_the_line_to_install_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sentencepiece", "sentencepiece.sentencepiece_model_pb2"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e")
    with pytest.raises(BadInputError, match=r"pip install 'ssmpress\[sentencepiece\]'"):
        as_tokenizer_json(tmp_path / "tokenizer.model")


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="needs the extra ssmpress[sentencepiece]")
    for content in (b"\xff" * 30, b""):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(BadInputError, match=r"tokenizer\.model: expected"):
            as_tokenizer_json(tmp_path / "tokenizer.model")
