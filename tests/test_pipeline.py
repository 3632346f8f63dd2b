"""What was trained is kept until the bundle is in place, and what is said about going on is so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ssmpress import pipeline, preflight, validate
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.errors import BadInputError, ParityError, UsageError, WriteError, notes_of
from ssmpress.pipeline import GOES_ON, Watch, compress
from ssmpress.prune.training import Training
from ssmpress.recipe.settings.deploy import DeploySettings
from tiny_run import tiny_recipe


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssmpress"


def train_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a step was trained again")

    monkeypatch.setattr(Training, "step", fail)


def test_finished_training_outlives_every_later_failure(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path)
    full = WriteError(tmp_path / "file", OSError(28, "No space left on device"))
    for failure in (KeyboardInterrupt(), full, ParityError("a defect"), ValueError("another")):

        def fail(*_: object, failure: BaseException = failure) -> None:
            raise failure

        with monkeypatch.context() as patch, pytest.raises(type(failure)) as stopped:
            patch.setattr(pipeline, "validate", fail)
            compress(recipe)
        assert notes_of(stopped.value) == [GOES_ON]
        assert not recipe.out.exists()
        train_no_more(monkeypatch)
    monkeypatch.setattr(validate, "measure_latency", lambda *_: {})
    told: list[str] = []
    compress(recipe, Watch(progress=lambda what, *_: told.append(what)))
    assert "recovery: was finished before" in told
    assert "perplexity, compressed" in told
    assert "perplexity, dense" not in told, "it was measured before the first interruption"
    verify_manifest(recipe.out)
    assert not list(cache.iterdir()), "it goes when the bundle is in place"


@pytest.mark.parametrize(("saved", "notes"), [(1e9, []), (0.0, [GOES_ON])])
def test_an_interruption_says_whether_anything_was_saved(
    tmp_path: Path, cache: Path, saved: float, notes: list[str]
) -> None:
    recipe = tiny_recipe(tmp_path)
    recipe = replace(recipe, recover=replace(recipe.recover, checkpoint_seconds=saved))

    def interrupt_second_step(what: str, done: int, total: int) -> None:
        if what.startswith("recovery: loss") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        compress(recipe, Watch(progress=interrupt_second_step))
    assert notes_of(stopped.value) == notes
    assert len(list(cache.iterdir())) == len(notes), "no more is left than is said"
    assert not recipe.out.exists()


def test_a_damaged_state_promises_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path)
    monkeypatch.setattr(pipeline, "make_bundle", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compress(recipe)
    (state,) = cache.rglob("*.pt")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(BadInputError, match="Delete it to start again") as refused:
        compress(recipe)
    assert notes_of(refused.value) == []


def test_a_bundle_is_there_though_its_archive_is_not(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path, deploy=DeploySettings(archive=True))
    archive = tmp_path / "out.tar.gz"

    def fill(*_: object) -> dict[str, object]:
        archive.mkdir()
        return {"verdict": {"exit_code": 0}}

    monkeypatch.setattr(pipeline, "make_bundle", fill)
    with pytest.raises(WriteError, match=r"out\.tar\.gz: cannot be written") as stopped:
        compress(recipe)
    assert notes_of(stopped.value) == [f"the bundle {recipe.out} is complete"]
    assert recipe.out.is_dir()
    assert not list(cache.iterdir())


def test_what_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "load", lambda *_: 1 / 0)
    recipe = tiny_recipe(tmp_path)
    long = tmp_path / ("n" * 240)  # out itself fits, with .tar.gz and a random part it does not
    with pytest.raises(UsageError, match=r"--out .*: expected names of at most \d+ bytes"):
        compress(replace(recipe, out=long, deploy=DeploySettings(archive=True)))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*/file/out: cannot write there: .* is a file"):
        compress(replace(recipe, out=tmp_path / "file" / "out"))
    shutil.rmtree(cache, ignore_errors=True)
    cache.parent.mkdir(exist_ok=True)
    cache.touch()
    with pytest.raises(BadInputError, match="expected a folder for unfinished work"):
        compress(recipe)
