"""The load beside `make test-loaded` is there while the command runs, and never after it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import loaded
from processes import wait_for

LOADED = [sys.executable, loaded.__file__, "--loops", "2", "--"]


def loops_of(parent: int) -> list[int]:
    """Process numbers of the busy loops that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if loaded.LOOP.encode() in words and str(parent).encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    """A command beside two loops, which run."""
    process = subprocess.Popen([*LOADED, "sleep", "600"])
    assert wait_for(lambda: len(loops_of(process.pid)) == 2)
    return process


def test_the_exit_code_is_the_commands() -> None:
    process = subprocess.Popen([*LOADED, "sh", "-c", "exit 3"])
    assert process.wait() == 3
    assert not loops_of(process.pid)


def test_a_signal_ends_the_command_and_the_load(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.terminate()
    assert sleeper.wait() == 128 + signal.SIGTERM
    assert not loops_of(sleeper.pid)


def test_a_kill_leaves_no_load(sleeper: subprocess.Popen[bytes]) -> None:
    children = Path(f"/proc/{sleeper.pid}/task/{sleeper.pid}/children").read_text().split()
    (command,) = {int(child) for child in children} - set(loops_of(sleeper.pid))
    sleeper.kill()
    sleeper.wait()
    assert wait_for(lambda: not loops_of(sleeper.pid))
    subprocess.run(["kill", str(command)], check=True)
