"""Parity fails closed and names the layer; staging replaces a bundle whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from paths import DEMO
from ssmpress import parity
from ssmpress.blocks.tensors import EMBEDDING, head_name, matrix_specs
from ssmpress.bundle.out_folder import check_out, staged
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.errors import BadInputError, ParityError, UsageError
from ssmpress.formats import Values
from ssmpress.pack.choose import matrix_format
from ssmpress.pack.layouts import sections_of
from ssmpress.pack.layouts.int4 import MAX_COLUMNS
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.pack import Head, PackSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.results.run import TextUse
from ssmpress.stages.bundle import Dense, export_bundle
from ssmpress.stages.packed import pack_weights
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import Source, load


def make_source() -> Source:
    """The demo model with random tokens for text."""
    checkpoint = read_checkpoint(DEMO)
    tokens = np.random.default_rng(0).integers(0, 1024, (1, 64)).astype(np.int32)
    use = TextUse((), default_text=True, tokens=tokens.size)
    return Source(checkpoint, DEMO / "tokenizer.json", tokens[0], tokens, use, use)


def bundle_of(source: Source, values: Values, folder: Path):
    """Packed without pruning, and the files written."""
    recipe = Recipe(model=DEMO, out=folder, pack=PackSettings(values))
    result = PruneResult((), 0.0, 0, 0, "cpu")
    pruned = Pruned(source.checkpoint.tensors, result)
    packed = pack_weights(recipe, source, pruned)
    dense = Dense(folder / "none")
    return recipe, packed, export_bundle(source, dense, packed, folder)


@pytest.mark.parametrize("values", list(Values))
def test_parity_holds(values, tmp_path):
    source = make_source()
    recipe, packed, bundle = bundle_of(source, values, tmp_path)
    assert parity.check_parity(source, packed, bundle, recipe).ok


@pytest.mark.parametrize("values", list(Values))
def test_parity_names_the_first_bad_layer(values, tmp_path):
    """PyTorch gets other weights in layer 2 than were exported: the layer's state shows it."""
    source = make_source()
    recipe, packed, bundle = bundle_of(source, values, tmp_path)
    name = "backbone.layers.2.mixer.in_proj.weight"
    matrix = packed.matrices[name]
    key = "scale" if "scale" in matrix.sections else sections_of(matrix.format)[-1]
    sections = dict(matrix.sections) | {key: 2 * matrix.sections[key]}
    matrices = dict(packed.matrices) | {name: dataclasses.replace(matrix, sections=sections)}
    other = dataclasses.replace(packed, matrices=matrices)
    with pytest.raises(ParityError, match=r"conv_state\.2: differs by .* expected at most"):
        parity.check_parity(source, other, bundle, recipe)


def test_int8_parity_allows_what_the_model_does_to_itself_and_no_more(tmp_path, monkeypatch):
    """Beyond the fixed bound, the model's own spread under rounding noise decides."""
    source = make_source()
    recipe, packed, bundle = bundle_of(source, Values.INT8, tmp_path)
    for values in (Values.INT8, Values.INT4):
        monkeypatch.setitem(parity.PARITY_TOLERANCE, values, 1e-7)
    result = parity.check_parity(source, packed, bundle, recipe)
    assert result.ok and 1e-7 < result.tolerance < parity.INT8_LIMIT
    monkeypatch.setattr(parity, "INT8_LIMIT", 1e-7)
    with pytest.raises(ParityError, match="expected at most 1e-07"):
        parity.check_parity(source, packed, bundle, recipe)


def format_of(config, name, *arguments):
    """The format of a matrix of a model."""
    spec, head = matrix_specs(config)[name], head_name(config)
    return matrix_format(spec, *arguments, scores_tokens=name == head)


@pytest.mark.parametrize(
    ("values", "head", "name"),
    [
        (Values.INT8, Head.AUTO, "dense-int4"),
        (Values.INT8, Head.INT8, "dense-int8"),
        (Values.FP16, Head.AUTO, "dense-fp16"),
        (Values.FP32, Head.INT4, "dense-int4"),
        (Values.INT4, Head.AUTO, "dense-int4"),
    ],
)
def test_the_head_and_the_embedding_that_shares_its_rows(values, head, name):
    config = make_source().checkpoint.config
    assert config.tie_embeddings
    settings = PackSettings(values, head)
    shape = (config.vocab_size, config.d_model)
    chosen, _ = format_of(config, EMBEDDING, shape, shape[0] * shape[1], settings)
    assert chosen.name == name
    untied = dataclasses.replace(config, tie_embeddings=False)
    arguments = (shape, shape[0] * shape[1], settings)
    assert format_of(untied, "lm_head.weight", *arguments)[0].name == name
    assert format_of(untied, EMBEDDING, *arguments)[0].name == f"dense-{values}"


def test_a_head_too_wide_for_int4_is_int8():
    config = make_source().checkpoint.config
    shape = (8, MAX_COLUMNS + 1)
    chosen, _ = format_of(config, EMBEDDING, shape, 8, PackSettings())
    assert chosen.name == "dense-int8"


def test_text_that_is_calibration_and_evaluation_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.arange(1500, dtype=np.int32) % 1024)
    notes: list[str] = []
    files = DataSettings(calibration=(Path("a.npy"),), evaluation=(tmp_path / "a.npy",))
    unheard = Recipe(DEMO, Path("out"), data=files, recover=RecoverSettings(steps=0))
    source = load(unheard, notes.append)
    assert [note for note in notes if "a.npy: is --calibration too" in note]
    assert source.seen == 1.0
    notes.clear()
    load(Recipe(DEMO, Path("out"), data=dataclasses.replace(files, calibration=())), notes.append)
    assert not [note for note in notes if "is --calibration" in note]


def test_recovery_does_not_train_on_the_evaluation_text_unasked(tmp_path):
    """Whatever the file is called: its contents are compared."""
    tokens = np.arange(1500, dtype=np.int32) % 1024
    for name in ("a.npy", "copy.npy"):
        np.save(tmp_path / name, tokens)
    for name, words in (("a.npy", "a.npy: is"), ("copy.npy", "100% of it is in")):
        files = DataSettings(calibration=tmp_path / "a.npy", evaluation=tmp_path / name)
        with pytest.raises(UsageError, match=rf"{words} --calibration too, which recovery trains"):
            load(Recipe(DEMO, tmp_path / "out", data=files))
        allowed = dataclasses.replace(files, allow_leak=True)
        assert load(Recipe(DEMO, tmp_path / "out", data=allowed)).seen == 1.0


@pytest.mark.parametrize(
    ("calibration", "evaluation", "words"),
    [
        (4, 1500, "--calibration has 4 tokens, one window needs 512"),
        (1500, 9, "--evaluation has 9 tokens, one window needs 1,024"),
    ],
)
def test_text_shorter_than_a_window_is_refused_before_the_work(
    tmp_path, calibration, evaluation, words
):
    random = np.random.default_rng(0)
    for name, count in (("c", calibration), ("e", evaluation)):
        np.save(tmp_path / f"{name}.npy", random.integers(0, 1024, count).astype(np.int32))
    files = DataSettings(calibration=tmp_path / "c.npy", evaluation=tmp_path / "e.npy")
    for steps in (0, None):
        recover = RecoverSettings(steps=steps)
        with pytest.raises(BadInputError, match=words):
            load(Recipe(DEMO, tmp_path / "out", recover=recover, data=files))


def write_bundle(folder: Path, *names: str) -> None:
    """A folder as a run leaves it: files, and a manifest that lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    (folder / "manifest.json").write_text(json.dumps({"files": {name: {} for name in names}}))


def test_staged_folder_replaces_an_earlier_bundle_whole(tmp_path):
    out = tmp_path / "out"
    for text in ("one", "two"):
        with staged(out) as folder:
            write_bundle(folder, text)
    assert {p.name for p in out.iterdir()} == {"manifest.json", "two"}
    assert list(tmp_path.iterdir()) == [out]


def test_failed_run_keeps_the_earlier_bundle(tmp_path):
    out = tmp_path / "out"
    with staged(out) as folder:
        write_bundle(folder, "model.onnx")
    with pytest.raises(RuntimeError), staged(out) as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert {p.name for p in out.iterdir()} == {"manifest.json", "model.onnx"}
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "manifest", ['{"manifest_version": 3, "name": "An extension of a browser"}', "[]", "{", ""]
)
def test_folder_with_the_manifest_of_another_program_is_not_replaced(tmp_path, manifest):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match=r"other files, such as manifest\.json"):
        check_out(tmp_path / "out")


def test_file_that_was_put_into_a_bundle_is_not_lost(tmp_path):
    write_bundle(tmp_path / "out", "model.onnx")
    check_out(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"other files, such as notes\.txt"):
        check_out(tmp_path / "out")


def test_file_that_came_during_the_run_is_not_lost(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="such as thesis"), staged(out):
        out.mkdir()
        (out / "thesis").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "thesis"]


def test_earlier_sweep_is_replaced_with_all_of_its_points(tmp_path):
    out = tmp_path / "out"
    write_bundle(out / "s50-int8", "model.onnx")
    (out / "s70-int8").mkdir()
    (out / "s70-int8" / "report.json").touch()  # of a point that was not picked
    points = [{"name": "s50-int8"}, {"name": "s70-int8"}]
    (out / "sweep.json").write_text(json.dumps({"points": points}))
    check_out(out)
    (out / "s70-int8" / "mine").touch()
    with pytest.raises(UsageError, match="such as s70-int8/mine"):
        check_out(out)


def test_folder_that_cannot_be_renamed_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (Path(), Path("..")):
        with pytest.raises(UsageError, match="got the one that this command runs in"):
            check_out(out)
    with pytest.raises(UsageError, match="got a mount point"):
        check_out(Path("/proc"))


def test_full_disk_is_said_in_one_sentence(tmp_path):
    with (
        pytest.raises(UsageError, match="out: cannot write there: No space left on device"),
        staged(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), staged(tmp_path / "out"):
        raise FileNotFoundError(errno.ENOENT, "a defect, not the disk")
    assert not list(tmp_path.iterdir())


def test_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("one", "two"):
        with staged(tmp_path / "link") as folder:
            write_bundle(folder, name)
    assert (tmp_path / "link").is_symlink()
    assert {p.name for p in (tmp_path / "real").iterdir()} == {"manifest.json", "two"}
    assert {p.name for p in tmp_path.iterdir()} == {"link", "real"}


def test_out_that_is_a_file_is_refused(tmp_path):
    out = tmp_path / "file"
    out.write_text("mine")
    with pytest.raises(UsageError, match="got a file"), staged(out):
        pass
    assert out.read_text() == "mine"
