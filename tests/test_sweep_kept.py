"""Sweeps that meet: equal ones at once, one after an interruption, one whose cache is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import random_checkpoint
from ssmpress import sweep as sweeps
from ssmpress import validate
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import WriteError, notes_of
from ssmpress.formats import Values
from ssmpress.pipeline import GOES_ON, Watch
from ssmpress.prune import resume
from ssmpress.prune.training import Training
from ssmpress.recipe.sweep import Sweep
from ssmpress.stages.source import load
from ssmpress.sweep import run_sweep
from tiny_run import CONFIG, tiny_recipe

POINTS = {"s40-fp16", "s60-fp16"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of its own, and nothing is timed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(validate, "measure_latency", lambda *_: {})
    return tmp_path / "cache" / "ssmpress"


def two_points(folder: Path) -> Sweep:
    return Sweep(tiny_recipe(folder), (0.4, 0.6), (Values.FP16,))


def at_second_point(action: Callable[[], object]) -> Watch:
    def note(text: str) -> None:
        if text == "s60-fp16, 2 of 2":
            action()

    return Watch(note=note)


def whole(out: Path) -> None:
    """A sweep's folder, complete, with nothing left beside it."""
    assert {path.name for path in out.iterdir()} >= {*POINTS, "sweep.json"}
    for name in POINTS:
        verify_manifest(out / name)
    assert not list(out.parent.glob(f".{out.name}*"))


def test_two_equal_sweeps_at_once_both_succeed(tmp_path: Path, cache: Path) -> None:
    """One begins and ends while the other is between its points."""
    sweep, worked = two_points(tmp_path), list[Path]()

    def run_another() -> None:
        run_sweep(sweep, at_second_point(lambda: worked.extend(cache.iterdir())))
        verify_manifest(sweep.recipe.out / "s60-fp16")

    run_sweep(sweep, at_second_point(run_another))
    whole(sweep.recipe.out)
    assert len(worked) == 2, "each in a folder of its own"
    assert not list(cache.iterdir())


def test_an_interrupted_sweep_makes_nothing_twice(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the proof of the last point, then while the points are put together."""
    sweep = two_points(tmp_path)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def expect_stop(watch: Watch | None = None) -> None:
        with pytest.raises(KeyboardInterrupt) as stopped:
            run_sweep(sweep, watch)
        assert notes_of(stopped.value) == [GOES_ON]
        assert not sweep.recipe.out.exists()

    with monkeypatch.context() as patch:
        expect_stop(at_second_point(lambda: patch.setattr(sweeps, "make_bundle", stop)))
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", stop)
        patch.setattr(sweeps, "_collect", stop)
        expect_stop(at_second_point(lambda: patch.setattr(sweeps, "_prune", stop)))
    monkeypatch.setattr(sweeps, "make_bundle", stop)
    run_sweep(sweep)
    whole(sweep.recipe.out)
    assert not list(cache.iterdir())


def test_a_full_cache_costs_nothing_but_going_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor bundles find room there."""
    sweep, notes = two_points(tmp_path), list[str]()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    plain = sweeps.make_bundle

    def no_room(path: Path, *_: object) -> None:
        raise WriteError(path, full)

    def make_bundle(*arguments: object) -> object:
        folder = arguments[2]
        assert isinstance(folder, Path)
        if folder.is_relative_to(cache):
            no_room(folder / "model.onnx")
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(resume, "save", no_room)
    monkeypatch.setattr(sweeps, "make_bundle", make_bundle)
    run_sweep(sweep, Watch(note=notes.append))
    whole(sweep.recipe.out)
    told = "\n".join(notes)
    assert "model.onnx: cannot be written: No space left on device." in told
    assert "s60-fp16 does without; after an interruption it is made again." in told
    assert "The sweep goes on; an interruption may cost these weights." in told
    assert "Recovery continues; if it is interrupted, it starts again." in told


def test_another_pruned_checkpoint_is_another_sweep(tmp_path: Path, cache: Path) -> None:
    recipe, names = replace(tiny_recipe(tmp_path), pruned=tmp_path / "pruned"), set()
    for seed in (1, 2, 1):
        write_checkpoint(CONFIG, random_checkpoint(CONFIG, seed).tensors, tmp_path / "pruned")
        names.add(sweeps._name(Sweep(recipe, (0.7,), (Values.INT8, Values.FP16)), load(recipe)))
    assert len(names) == 2
