"""How much of the evaluation data the calibration holds, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmpress.data.default_text import default_text
from ssmpress.data.labelled import from_lists
from ssmpress.data.overlap import LEAK, check_unseen, every_run, part_in, run_keys, same_files
from ssmpress.data.series import SeriesWindows
from ssmpress.errors import UsageError
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.recover import RecoverSettings

SMALL = st.integers(0, 2)


def by_hand(evaluation: list[int], calibration: list[int], span: int) -> float:
    """The definition, with no code in common: runs as tuples."""
    runs = [tuple(evaluation[i : i + span]) for i in range(0, len(evaluation), span)]
    runs = [run for run in runs if len(run) == span and (span == 1 or len(set(run)) > 1)]
    known = {tuple(calibration[i : i + span]) for i in range(len(calibration) - span + 1)}
    return sum(run in known for run in runs) / len(runs) if runs else 0.0


@given(st.lists(SMALL, max_size=60), st.lists(SMALL, max_size=60), st.integers(1, 9))
def test_runs_are_found_wherever_they_stand(
    evaluation: list[int], calibration: list[int], span: int
) -> None:
    keys = run_keys(np.array(evaluation, np.int32), span)
    found = part_in(keys, every_run(np.array(calibration, np.int32), span))
    assert found == by_hand(evaluation, calibration, span)


def test_chunks_hide_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.default_rng(0).integers(0, 9, 300)
    for chunk in (1, 7, 64, 1000):
        monkeypatch.setattr("ssmpress.data.overlap._CHUNK", chunk)
        chunks = list(every_run(tokens, 10))
        assert np.concatenate(chunks).shape == (291,)
        assert part_in(run_keys(tokens, 10), chunks) == 1.0


def test_a_copy_is_found_and_other_text_is_not() -> None:
    random = np.random.default_rng(0)
    mine, other = random.integers(0, 1000, (2, 64 * 20)).astype(np.int32)
    half = np.concatenate([mine[: 64 * 10], other[64 * 10 :]])
    for evaluation, part in ((mine, 1.0), (half, 0.5), (other, 0.0)):
        moved = np.concatenate([other[:13] + 1, mine])  # not at the same places
        assert part_in(run_keys(evaluation, 64), every_run(moved, 64)) == part


def test_the_default_text_shares_nothing() -> None:
    parts = (np.frombuffer(t.encode(), np.uint8).astype(np.int32) for t in default_text())
    calibration, evaluation = parts
    assert part_in(run_keys(evaluation, 64), every_run(calibration, 64)) < LEAK / 2


def test_texts_and_series_are_compared_by_their_contents() -> None:
    texts = [np.array([1, 2, 3]), np.array([1, 2]), np.array([7])]
    mine = from_lists(texts, [0, 1, 0], 9)
    other = from_lists([*texts[1:], np.array([1, 2, 4])], [1, 1, 1], 9)
    assert mine.part_in(other) == 2 / 3
    values = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    series = SeriesWindows(values[20:80], lookback=10, horizon=5)
    assert series.part_in(SeriesWindows(values, 10, 5)) == 1.0
    assert series.part_in(SeriesWindows(values + 1, 10, 5)) == 0.0
    still = SeriesWindows(np.ones((40, 2), np.float32), 10, 5)
    assert still.part_in(still) == 0.0, "a sensor that stands still says nothing"


def recipe(tmp_path: Path, *, steps: int | None = None, **changes: object) -> Recipe:
    data = DataSettings(allow_leak=bool(changes.pop("allow_leak", False)), **changes)
    return Recipe(tmp_path, tmp_path / "out", recover=RecoverSettings(steps=steps), data=data)


def test_training_on_the_evaluation_data_is_refused(tmp_path: Path) -> None:
    notes: list[str] = []
    check_unseen(recipe(tmp_path), LEAK - 0.01, notes.append)
    assert notes == []
    with pytest.raises(UsageError, match=r"--evaluation 60% of it is in --calibration too, which"):
        check_unseen(recipe(tmp_path), 0.6)
    for allowed in (recipe(tmp_path, steps=0), recipe(tmp_path, allow_leak=True)):
        check_unseen(allowed, 0.6, notes.append)
    check_unseen(Recipe(tmp_path, tmp_path / "out", pruned=tmp_path), 0.6, notes.append)
    assert len(notes) == 3
    assert "on unseen data quality may be lower" in notes[0]


def test_the_same_file_is_one_however_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "link.txt").symlink_to("a.txt")
    same = recipe(tmp_path, calibration=tmp_path / "a.txt", evaluation=tmp_path / "link.txt")
    assert same_files(same) == [str(tmp_path / "link.txt")]
    with pytest.raises(UsageError, match=r"link\.txt: is --calibration too, which recovery trains"):
        check_unseen(same, 0.0)
