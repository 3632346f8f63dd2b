"""Where a text ends, by the files beside a checkpoint; what they may not say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from changed_tokenizer import added_token
from conftest import random_checkpoint, small_config
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.checkpoint.text_side import TextSide, read_text_side
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import BadInputError
from ssmpress.tasks import Classification
from thoroughness import examples
from tokenizer_kinds import KINDS

CONFIG = small_config()

TEXT = "<0x02>"
"""Of token 5, which is no special one."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer with special tokens 0, 1 and 2, a plain added token, and one without a row."""
    parts = KINDS["llama2"]()
    size, written = len(parts["model"]["vocab"]), {v: k for k, v in parts["model"]["vocab"].items()}
    assert written[5] == TEXT
    parts["added_tokens"] += [added_token(5, TEXT), added_token(size, "<far>", special=True)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts))
    return tmp_path


def put(folder: Path, **files: Any) -> None:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def read(folder: Path, tokenizer: Path | None = None) -> tuple[TextSide, list[str]]:
    notes: list[str] = []
    side = read_text_side(folder, tokenizer or folder / "tokenizer.json", CONFIG, notes.append)
    assert side is not None
    return side, notes


def ends(folder: Path) -> list[tuple[int, str, str]]:
    tokens = read(folder)[0].end_tokens
    assert tokens is not None
    return [(token.id, token.text, token.source) for token in tokens]


def test_every_file_that_says_where_a_text_ends(folder: Path) -> None:
    """Together; each token once, with all that say so."""
    assert ends(folder) == []
    put(folder, config={"eos_token_id": 2})
    assert ends(folder) == [(2, "</s>", "config.json eos_token_id")]
    put(folder, generation_config={"eos_token_id": [1, 2]})
    put(folder, tokenizer_config={"eos_token": "</s>"})
    put(folder, special_tokens_map={"eos_token": {"content": "<unk>", "lstrip": False}})
    assert ends(folder) == [
        (1, "<s>", "generation_config.json eos_token_id"),
        (
            2,
            "</s>",
            "generation_config.json eos_token_id, config.json eos_token_id, "
            "tokenizer_config.json eos_token",
        ),
        (0, "<unk>", "special_tokens_map.json eos_token"),
    ]
    (_, notes) = read(folder)
    assert "a text ends at token 1, '<s>': generation_config.json eos_token_id" in notes


def test_the_tokenizer_may_lie_elsewhere(folder: Path, tmp_path_factory) -> None:
    """`--tokenizer FILE`: what stands beside it counts, not what stands beside the weights."""
    model = tmp_path_factory.mktemp("model")
    put(model, config={"eos_token_id": 1}, tokenizer_config={"eos_token": "</s>"})
    side, _ = read(model, folder / "tokenizer.json")
    assert [token.id for token in side.end_tokens or ()] == [1]
    put(folder, tokenizer_config={"eos_token": "<unk>"})
    side, _ = read(model / "pytorch_model.bin", folder / "tokenizer.json")
    assert [token.id for token in side.end_tokens or ()] == [1, 0]


@pytest.mark.parametrize("claim", [5, -1, 60, 10**9, 2**63])
def test_only_special_tokens_within_the_vocabulary(folder: Path, claim: int) -> None:
    """A token that is text may stand in the middle of any."""
    put(folder, config={"eos_token_id": [claim, 2]})
    side, notes = read(folder)
    assert [token.id for token in side.end_tokens or ()] == [2]
    assert any(
        note == f"config.json eos_token_id {claim!r} ends no text: tokenizer.json has no special "
        "token of it within the vocabulary"
        for note in notes
    )


@pytest.mark.parametrize("text", [TEXT, "<far>", "the", "<none>", ""])
def test_texts_that_are_no_special_tokens(folder: Path, text: str) -> None:
    put(folder, tokenizer_config={"eos_token": text}, special_tokens_map={"eos_token": text})
    side, notes = read(folder)
    assert side.end_tokens == ()
    assert f"tokenizer_config.json eos_token {text!r} ends no text" in notes[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(by_id=JSON, by_text=JSON)
def test_any_value_is_a_token_nothing_or_one_sentence(
    folder: Path, by_id: Any, by_text: Any
) -> None:
    put(folder, generation_config={"eos_token_id": by_id}, tokenizer_config={"eos_token": by_text})
    try:
        found = ends(folder)
    except BadInputError as error:
        assert str(error).startswith(str(folder))
        assert "\n" not in str(error)
        return
    assert {number for number, _, _ in found} <= {0, 1, 2}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": {"eos_token_id": "2"}}, "config.json: eos_token_id: expected an integer, at m"),
        ({"config": {"eos_token_id": [True]}}, "eos_token_id: expected an integer"),
        ({"config": {"eos_token_id": 2**70}}, "eos_token_id: expected an integer"),
        ({"config": {"eos_token_id": 2.0}}, "eos_token_id: expected an integer"),
        ({"config": {"eos_token_id": list(range(65))}}, "at most 64 of them, or null; got"),
        ({"tokenizer_config": {"eos_token": 3}}, "eos_token: expected a text, or an object with"),
        ({"tokenizer_config": [1]}, "expected a tokenizer_config.json, a JSON object; got list"),
    ],
)
def test_damage_is_named(folder: Path, files: dict[str, Any], message: str) -> None:
    put(folder, **files)
    with pytest.raises(BadInputError, match=message):
        read(folder)


def test_a_classifier_generates_nothing(folder: Path) -> None:
    task = Classification(classes=("a", "b"), max_length=8)
    put(folder, config={"eos_token_id": 2})
    side = read_text_side(
        folder, folder / "tokenizer.json", small_config(task=task), lambda note: None
    )
    assert side == TextSide(None, None)


def test_no_tokenizer_no_text() -> None:
    assert read_text_side(Path("x"), None, CONFIG, lambda note: None) is None


def test_a_trained_models_end(shared: Callable[[str], Path]) -> None:
    """generation_config.json of a published layout, and the tokenizer that was trained with it."""
    folder = shared("models/granite-hybrid-14m")
    notes: list[str] = []
    side = read_text_side(folder, folder / "tokenizer.json", CONFIG, notes.append)
    assert side is not None
    assert side.ssmrun_lacks is None
    assert [(t.id, t.text) for t in side.end_tokens or ()] == [(0, "<|endoftext|>")]


@pytest.mark.parametrize("layout", ["mamba-ssm", "huggingface"])
def test_a_written_checkpoint_keeps_its_ends(folder: Path, tmp_path: Path, layout: str) -> None:
    checkpoint = random_checkpoint(CONFIG)
    out = tmp_path / "out"
    tokenizer = folder / "tokenizer.json"
    write_checkpoint(CONFIG, checkpoint.tensors, out, layout, tokenizer, end_tokens=(2, 0))
    assert [number for number, _, _ in ends(out)] == [2, 0]
    assert read_checkpoint(out).config == CONFIG
    write_checkpoint(CONFIG, checkpoint.tensors, out, layout, tokenizer)  # over the earlier one
    assert ends(out) == []
