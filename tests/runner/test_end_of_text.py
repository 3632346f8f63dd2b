"""A text ends at the model's end token, in ssmrun and in Python, with the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import ssmpress
import ssmrun_bundle as sb
from changed_tokenizer import added_token
from ssmpress.formats import CONFIG_KEY, Values
from ssmpress.graph.export import export
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.runtime.loading import open_session
from ssmpress.stages.bundle import export_dense
from ssmpress.stages.packed import pack_weights
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import load

PROMPT = "The list of"
GREEDY = 12
"""Tokens of the greedy continuation that the demo model's end token is taken from."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    """A bundle as they were before: no end token, and no special one."""
    sb.runner()
    return sb.make_bundle(tmp_path_factory.mktemp("before") / "b", sb.packed_model(None))


@pytest.fixture(scope="module")
def greedy(before: Path) -> list[int]:
    tokens = generate(before, GREEDY)["tokens"]
    assert len(tokens) == GREEDY
    return list(tokens)


@pytest.fixture(scope="module")
def ending(greedy: list[int]) -> int:
    """A token that the model makes in the middle of its text, and not before."""
    return next(token for token in greedy[3:] if token not in greedy[:3])


@pytest.fixture(scope="module")
def bundle(before: Path, ending: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model; its tokenizer calls that token special, its metadata calls it an end."""
    folder = sb.twin(before, tmp_path_factory.mktemp("ends") / "b")
    make_special(folder, ending)
    export(replace(sb.packed_model(None), end_tokens=(ending, 7)), folder / "model.onnx")
    sb.remake_manifest(folder)
    return folder


def make_special(folder: Path, token: int) -> None:
    parts = json.loads((folder / "tokenizer.json").read_text())
    text = next(piece for piece, number in parts["model"]["vocab"].items() if number == token)
    parts["added_tokens"] = [added_token(token, text, special=True)]
    (folder / "tokenizer.json").write_text(json.dumps(parts))


def generate(folder: Path, max_tokens: int, *options: str) -> Any:
    command = ["--prompt", PROMPT, "--max-tokens", str(max_tokens), "--threads", "1", *options]
    found = sb.reply(sb.ssmrun("generate", folder, *command, "--json"))
    streamed = sb.ssmrun("generate", folder, *command)
    assert streamed.stdout.decode() == found["text"] + "\n"
    return found


def in_python(folder: Path, max_tokens: int, **options: Any) -> tuple[list[int], str]:
    model = ssmpress.open_bundle(folder, threads=1)
    show = options.pop("show_special", False)
    prompt = model.tokenizer.encode(PROMPT, add_special_tokens=False).ids
    tokens = list(model.session.generate(prompt, max_tokens, **options))
    return tokens, "".join(model.stream(PROMPT, max_tokens, show_special=show, **options))


def test_a_text_ends_at_its_end_token(bundle: Path, greedy: list[int], ending: int) -> None:
    """The end token is the last one, and no part of the text."""
    until = greedy.index(ending) + 1
    found = generate(bundle, GREEDY)
    assert found["tokens"] == greedy[:until]
    assert found["ended"] is True
    assert len(found["decode_ms"]) == until - 1
    assert in_python(bundle, GREEDY) == (found["tokens"], found["text"])
    exactly = generate(bundle, until)
    assert (exactly["tokens"], exactly["ended"]) == (greedy[:until], True)
    shorter = generate(bundle, until - 1)
    assert (shorter["tokens"], shorter["ended"]) == (greedy[: until - 1], False)


def test_a_text_goes_on_where_the_end_is_ignored(
    bundle: Path, greedy: list[int], ending: int
) -> None:
    found = generate(bundle, GREEDY, "--ignore-eos")
    assert (found["tokens"], found["ended"]) == (greedy, False)
    assert in_python(bundle, GREEDY, ignore_eos=True) == (greedy, found["text"])
    shown = generate(bundle, GREEDY, "--ignore-eos", "--show-special")
    options = {"ignore_eos": True, "show_special": True}
    assert in_python(bundle, GREEDY, **options) == (greedy, shown["text"])
    text = ssmpress.open_bundle(bundle, threads=1).end_tokens[ending]
    assert len(shown["text"]) == len(found["text"]) + len(text) * greedy.count(ending)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_drawn_texts_are_the_same(bundle: Path, seed: int) -> None:
    options = ["--temperature", "3", "--seed", str(seed), "--show-special"]
    found = generate(bundle, 40, *options)
    drawn = {"temperature": 3.0, "seed": seed, "show_special": True}
    assert in_python(bundle, 40, **drawn) == (found["tokens"], found["text"])


def test_the_worker_ends_a_text_too(bundle: Path, greedy: list[int], ending: int) -> None:
    prompt = ssmpress.open_bundle(bundle, threads=1).tokenizer.encode(PROMPT).ids
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1)
        request = {"tokens": prompt, "max_tokens": GREEDY}
        until = greedy.index(ending) + 1
        assert worker.ask("generate", **request)["tokens"] == greedy[:until]
        assert worker.ask("generate", ignore_eos=True, **request)["tokens"] == greedy
        hidden = worker.ask("decode", tokens=greedy)["text"]
        shown = worker.ask("decode", tokens=greedy, show_special=True)["text"]
        assert len(hidden) < len(shown)


def test_info_says_where_a_text_ends(bundle: Path, before: Path, ending: int) -> None:
    model = ssmpress.open_bundle(bundle, threads=1)
    assert set(model.end_tokens) == {ending, 7}
    info = sb.reply(sb.ssmrun("info", bundle, "--json"))
    assert {one["id"]: one["text"] for one in info["end_tokens"]} == model.end_tokens
    line = f"end tokens: {ending} {model.end_tokens[ending]} 7 {model.end_tokens[7]}\n"
    assert line in sb.ssmrun("info", bundle).stdout.decode()
    assert sb.reply(sb.ssmrun("info", before, "--json"))["end_tokens"] == []
    assert "end tokens: none known\n" in sb.ssmrun("info", before).stdout.decode()
    assert ssmpress.open_bundle(before, threads=1).end_tokens == {}


@pytest.mark.parametrize(
    "value",
    [3, "3", None, [1024], [-1], [True], [1.0], [3, 3], list(range(257)), {"a": 1}, [2**63]],
    ids=str,
)
def test_damaged_metadata_is_named(tmp_path: Path, before: Path, value: Any) -> None:
    folder = sb.twin(before, tmp_path / "b")
    model = onnx.load(folder / "model.onnx")
    (entry,) = (entry for entry in model.metadata_props if entry.key == CONFIG_KEY)
    entry.value = json.dumps(json.loads(entry.value) | {"end_tokens": value})
    onnx.save(model, folder / "model.onnx")
    sb.remake_manifest(folder)
    message = (
        f"{folder}/model.onnx: ssmpress.config: end_tokens: expected at most 256 different tokens "
        "from 0 to 1023; got"
    )
    with pytest.raises(ssmpress.BadInputError) as error:
        open_session(folder / "model.onnx", threads=1, library=None)
    assert str(error.value).startswith(message)
    code, text = sb.failure(sb.ssmrun("info", folder))
    assert code == 6
    assert text.startswith(message)


def test_compressing_keeps_the_ends_that_the_checkpoint_names(tmp_path: Path) -> None:
    """From the checkpoint's files to the metadata of the bundle and of the dense baseline."""
    model = sb.twin(sb.DEMO, tmp_path / "model")
    make_special(model, 5)
    (model / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    text = tmp_path / "text.txt"
    text.write_text("Some words of text, enough for a window of it. " * 40)
    data = DataSettings(calibration=(text,), evaluation=(text,), window=64, allow_leak=True)
    recipe = Recipe(model=model, out=tmp_path / "out", data=data, pack=PackSettings(Values.FP16))
    notes: list[str] = []
    source = load(recipe, notes.append)
    assert source.end_tokens == (5,)
    assert sum("ends no text" in note for note in notes) == 1
    described = source.describe()["text"]
    assert [one["id"] for one in described["end_tokens"]] == [5]
    assert described["ssmrun_lacks"] is None
    unpruned = Pruned(source.checkpoint.tensors, PruneResult((), 0.0, 0, 0, "cpu"))
    export(pack_weights(recipe, source, unpruned), tmp_path / "model.onnx")
    dense = export_dense(source, tmp_path / "dense")
    for path in (tmp_path / "model.onnx", dense.model):
        session = open_session(path, threads=1, library=sb.get_library_path())
        assert session.interface.end_tokens == (5,)
