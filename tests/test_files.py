"""Files appear whole or not at all, whoever is killed; what nobody writes any more goes."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmpress.errors import BadInputError, WriteError
from ssmpress.files import copy, replaced, sha256, write_bytes


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


WRITER = """
import sys
from pathlib import Path
from ssmpress.files import replaced
with replaced(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    """Another process, in the middle of writing `path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    killed, living = start_writer(path), start_writer(path)
    killed.kill()
    killed.communicate()
    assert len(names(tmp_path)) == 2
    write_bytes(path, b"whole")
    assert len(names(tmp_path)) == 2, "the killed one's is gone, the living one's is there"
    assert path.read_bytes() == b"whole"
    living.communicate("")
    assert living.returncode == 0
    assert path.read_bytes() == b"half"
    assert names(tmp_path) == {"report.json"}


def test_a_file_of_the_user_is_no_leftover(tmp_path: Path) -> None:
    mine = (".report.json.my own.tmp", ".report.json.tmp", ".report.json.abcdefghi.tmp", "report")
    for name in mine:
        (tmp_path / name).touch()
    (tmp_path / ".report.json.abcdefgh.tmp").symlink_to(tmp_path / "report")
    write_bytes(tmp_path / "report.json", b"")
    assert names(tmp_path) == {*mine, "report.json", ".report.json.abcdefgh.tmp"}


def test_the_block_that_fails_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"earlier")
    with pytest.raises(ValueError, match="mine"), replaced(path) as file:
        file.write(b"half")
        raise ValueError("mine")
    assert (path.read_bytes(), names(tmp_path)) == (b"earlier", {"file"})


def test_an_error_of_the_disk_is_said_whatever_the_library_says(tmp_path: Path) -> None:
    """torch.save tells of a file that is too large as a RuntimeError of its own."""
    path, before = tmp_path / "weights.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(WriteError) as said:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
            with replaced(path) as file:
                torch.save({"a": torch.zeros(100_000)}, file)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(said.value) == (
        f"{path}: cannot be written: File too large. Raise the limit of a file's size (ulimit -f), "
        "or write to another place."
    )
    assert isinstance(said.value.__cause__, RuntimeError)
    assert said.value.exit_code == 6
    assert not names(tmp_path)


def test_an_error_that_is_not_the_files_own_is_not_blamed_on_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replaced(tmp_path / "file"):
        raise FileNotFoundError(errno.ENOENT, "of another file")
    assert not names(tmp_path)


def test_too_many_open_files_is_one_sentence(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        with pytest.raises(WriteError, match=r"Too many open files\. Raise .* \(ulimit -n\)"):
            write_bytes(tmp_path / "file", b"")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_copy_says_which_of_the_two_files_is_at_fault(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    copy(tmp_path / "source", tmp_path / "copy", 0o755)
    assert (tmp_path / "copy").read_bytes() == b"content"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o755
    with pytest.raises(BadInputError, match="absent: cannot be read: No such file"):
        copy(tmp_path / "absent", tmp_path / "copy")
    with pytest.raises(WriteError, match="nowhere/copy: cannot be written: No such file"):
        copy(tmp_path / "source", tmp_path / "nowhere" / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"


@given(st.binary(max_size=3000))
def test_sha256_is_that_of_the_bytes(content: bytes) -> None:
    path = Path(os.environ["XDG_CACHE_HOME"]) / "digested"
    write_bytes(path, content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()
