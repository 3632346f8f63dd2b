"""Folders appear whole or not at all; a lock tells whose they are, not a process number."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ssmpress import cache, folders, pipeline
from ssmpress.errors import WriteError
from ssmpress.preflight import preflight
from tiny_run import tiny_recipe

WORKER = """
import sys
from pathlib import Path
from ssmpress import folders
kind = {
    "replaced": lambda path: folders.replaced(path, lambda: None),
    "claimed": folders.claimed,
    "temporary": lambda path: folders.temporary(),
}
with kind[sys.argv[1]](Path(sys.argv[2])) as folder:
    (folder / "file").write_text(str(folder))
    print(folder, flush=True)
    sys.stdin.read()
"""


def start(kind: str, path: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process that fills `path`, and the folder that it works in."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, kind, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def fill(target: Path, name: str) -> None:
    with folders.replaced(target, lambda: None) as folder:
        (folder / name).touch()


def content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(params=["in one step", "in two steps"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As on a file system that can exchange two names, and on one that cannot."""
    if request.param == "in two steps":
        monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    return str(request.param)


def test_an_earlier_folder_is_replaced_whole(tmp_path: Path, steps: str) -> None:
    for name in ("one", "two"):
        fill(tmp_path / "out", name)
        assert content(tmp_path / "out") == {name}
        assert content(tmp_path) == {"out"}


def test_in_one_step_there_is_no_moment_without_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "one")
    monkeypatch.delattr(Path, "rename")
    fill(tmp_path / "out", "two")
    assert content(tmp_path / "out") == {"two"}


def test_a_kill_between_two_steps_is_mended(
    tmp_path: Path, steps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process leaves its scratch folder and no lock; here one that has moved `out`."""
    out = tmp_path / "out"
    fill(out, "earlier")
    process, new = start("replaced", out)
    process.kill()
    process.communicate()
    out.rename(new.parent / "old")
    folders.mend(out)
    assert content(out) == {"earlier"}
    assert content(tmp_path) == {"out"}


def test_what_a_living_process_fills_is_left_alone(tmp_path: Path, steps: str) -> None:
    out = tmp_path / "out"
    killed, living = start("replaced", out), start("replaced", out)
    killed[0].kill()
    killed[0].communicate()
    assert len(content(tmp_path)) == 2
    fill(out, "mine")
    assert content(tmp_path) == {"out", living[1].parent.name}
    living[0].communicate("")
    assert content(out) == {"file"}
    assert content(tmp_path) == {"out"}


def test_temporary_folders_of_killed_processes_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of living ones, nor what only has such a name."""
    place = tmp_path / "tmp"
    (place / "ssmpress-mine1234").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".lock").touch()
    (place / "ssmpress-link1234").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    killed, living = start("temporary", place), start("temporary", place)
    killed[0].kill()
    killed[0].communicate()
    assert killed[1].is_dir()
    with folders.temporary() as mine:
        folders.clear_temporary()
        left = {"ssmpress-mine1234", "ssmpress-link1234", living[1].name, mine.name}
        assert content(place) == left
    assert content(tmp_path / "elsewhere") == {".lock"}
    living[0].communicate("")
    assert content(place) == {"ssmpress-mine1234", "ssmpress-link1234"}


def aged(folder: Path, days: float) -> Path:
    """Unfinished work that was claimed and written so many days ago."""
    with folders.claimed(folder) as place:
        (place / "state.pt").write_bytes(b"state")
    age(folder, days)
    return folder


def age(folder: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


def test_unfinished_work_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from the last time that a command went on with it or wrote; only what is nobody's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = cache.cache_folder()
    for name, days in (("recovery-1", 31), ("sweep-1", 31), ("recovery-2", 29), ("other-1", 99)):
        aged(home / name, days)
    with folders.claimed(aged(home / "recovery-3", 99)):
        pass
    worker, place = start("claimed", home / "sweep-2")
    age(place, 99)
    cache.remove_expired()
    assert content(home) == {"recovery-2", "other-1", "recovery-3", "sweep-2"}
    worker.kill()
    worker.communicate()
    cache.remove_expired()
    assert content(home) == {"recovery-2", "other-1", "recovery-3"}


def test_a_run_begins_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    work = aged(cache.cache_folder() / "recovery-1", 31)
    killed, left = start("temporary", tmp_path)
    killed.kill()
    killed.communicate()
    recipe = tiny_recipe(tmp_path)
    ready = preflight(recipe, [recipe], lambda note: None)
    assert work.exists() and left.exists(), "a dry run asks this much, and changes nothing"
    pipeline.check(recipe, ready)
    assert not work.exists() and not left.exists()


def test_no_home_and_no_cache_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "absent"))
    cache.remove_expired()
    assert not content(tmp_path)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.remove_expired()
    assert content(tmp_path) == {"file"}
    assert (tmp_path / "file").read_text() == "no folder"


def test_folders_of_the_user_are_no_leftovers(tmp_path: Path) -> None:
    mine = {".out.partial-", ".out.partial-of mine", ".out.partial-abcdefghi", ".other.partial-1"}
    for name in mine:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.partial-abcdefgh").symlink_to(tmp_path / ".out.partial-of mine")
    (tmp_path / ".out.partial-1234").mkdir()  # of an earlier version, named after a process
    fill(tmp_path / "out", "one")
    assert content(tmp_path) == {*mine, "out", ".out.partial-abcdefgh"}
    assert not content(tmp_path / ".out.partial-of mine"), "nothing is followed out of the place"


def test_a_check_that_fails_leaves_the_earlier_folder(tmp_path: Path, steps: str) -> None:
    fill(tmp_path / "out", "one")

    def refuse() -> None:
        raise ValueError("came in between")

    with pytest.raises(ValueError, match="came"), folders.replaced(tmp_path / "out", refuse):
        pass
    assert content(tmp_path / "out") == {"one"}
    assert content(tmp_path) == {"out"}


def test_a_folder_that_cannot_be_replaced_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "one")
    monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(WriteError, match="out: cannot be written: Input/output error"):
        fill(tmp_path / "out", "two")
    assert content(tmp_path / "out") == {"one"}
    assert content(tmp_path) == {"out"}


def test_a_file_that_cannot_be_written_is_named_where_it_will_be(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(WriteError, match=r"/out/a/model\.onnx: cannot be written: No space left"),
        folders.replaced(tmp_path / "out", lambda: None) as folder,
    ):
        raise WriteError(folder / "a" / "model.onnx", full)
    with (
        pytest.raises(WriteError, match=r"cache/state\.pt: cannot be written: No space left"),
        folders.replaced(tmp_path / "out", lambda: None),
    ):
        raise WriteError(Path("cache/state.pt"), full)
    assert not content(tmp_path)


def test_a_clone_has_the_same_files_and_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "a" / "inside").mkdir(parents=True)
    for name in ("file", "inside/file"):
        (tmp_path / "a" / name).write_text(name)
    (tmp_path / "b").mkdir()
    folders.clone(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "file").unlink()
    assert (tmp_path / "b" / "file").read_text() == "file"
    assert (tmp_path / "b" / "inside" / "file").read_text() == "inside/file"


def test_two_processes_never_work_in_one_folder(tmp_path: Path) -> None:
    """The second takes a folder of its own; what a killed one leaves goes to the next."""
    place = tmp_path / "work"
    first, second = start("claimed", place), start("claimed", place)
    assert (first[1], second[1]) == (place, tmp_path / "work-2")
    second[0].kill()
    second[0].communicate()
    with folders.claimed(place) as mine:
        assert mine == tmp_path / "work-2"
        assert (mine / "file").read_text() == str(mine)
        (mine / "file").unlink()
    assert content(tmp_path) == {"work"}, "a folder without work goes"
    first[0].communicate("")
    assert content(place) == {"file", ".lock"}
    with folders.claimed(place) as mine:
        assert mine == place
