"""A hostile tokenizer.json is one sentence, in bounded memory; real ones keep their ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from changed_tokenizer import Change, added_token, changed
from paths import DEMO
from ssmpress.data.tokenizer import encode, load_tokenizer
from ssmpress.errors import BadInputError


def write(folder: Path, change: Change) -> Path:
    (folder / "tokenizer.json").write_text(changed(change))
    return folder / "tokenizer.json"


def added(content: str, number: int = 5, **flags: bool) -> Change:
    token = added_token(number, content, **flags)
    return lambda parts: parts.update(added_tokens=[token])


def doubling(times: int) -> Change:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return lambda parts: parts.update(
        normalizer={"type": "Sequence", "normalizers": [step] * times}
    )


REFUSED: list[tuple[Change, str]] = [
    (lambda p: p["model"]["vocab"].update(zzz=2**31), "model.vocab: ids from 0 to 4194303; got 21"),
    (lambda p: p["model"]["vocab"].update(zzz=2**22), "model.vocab: ids from 0 to"),
    (lambda p: p["model"]["vocab"].update(zzz=10**400), "is beyond every float"),
    (added("<x>", 2**31), "added_tokens: a content and an id from 0"),
    (added("x" * 257), "added_tokens: at most 256 bytes a token; got 257"),
    (added(" ", rstrip=True), "no space at an end where ' ' strips them"),
    (added("x ", lstrip=True), "no space at an end where 'x ' strips them"),
    (doubling(40), "normalizer: replacements that make a text at most 1000 times as long"),
    (
        lambda p: p.update(
            model={
                "type": "WordPiece",
                "vocab": {"a": 0},
                "unk_token": "a",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 2**40,
            }
        ),
        "max_input_chars_per_word",
    ),
    (lambda p: p.update(model=[]), "of the tokenizers library; got"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_exhausts_memory_or_time_is_refused(
    tmp_path: Path, change: Change, message: str
) -> None:
    path = write(tmp_path, change)
    with pytest.raises(BadInputError, match=message) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(f"{path}: expected ")


def test_a_template_that_leaves_the_text_out_leaves_its_tokens(tmp_path: Path) -> None:
    template = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    path = write(tmp_path, lambda parts: parts.update(post_processor=template))
    plain = load_tokenizer(DEMO / "tokenizer.json")
    for text in ("The river", "", "é\n\n x"):
        ids = encode(load_tokenizer(path), text, vocab_size=1024)
        assert ids.tolist() == plain.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "change", [added("<mask>", lstrip=True), added("<x>", rstrip=True), added("   "), doubling(3)]
)
def test_what_real_tokenizers_have_is_let_through(tmp_path: Path, change: Change) -> None:
    assert load_tokenizer(write(tmp_path, change)).encode("a <mask> b").ids
