"""Faults of the disk, injected into real runs: the library of faults.c, and the process under it.

A test calls `run_under_faults(action, folder, ...)`; `python faults.py` is the process that it
starts, which prepares the action once and then does it in a child of its own for every fault.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paths import TESTS

KILL = 0
STICKY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors that stay: a disk that is full is full for the next file too."""


@dataclass(frozen=True)
class Outcome:
    """What one fault led to.

    nth: operation that failed. number: the error, KILL for a kill. ended: class of the exception,
    "" where the action succeeded. code: its exit code. words: its message, or what the action said.
    """

    nth: int
    number: int
    ended: str
    code: int | None
    words: str

    def __str__(self) -> str:
        name = errno.errorcode.get(self.number, "kill")
        return f"operation {self.nth}, {name}: {self.ended or 'succeeded'}: {self.words}"


def build_faults(folder: Path) -> Path:
    """Compile faults.c; skips where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler: the library that injects faults cannot be built")
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, TESTS / "faults.c", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def run_under_faults(
    library: Path, action: str, folder: Path, errors: Iterable[int], every: int = 1
) -> tuple[int, list[Outcome]]:
    """Do an action once for each fault.

    Args:
        action: "module:function" among the tests. The function takes a folder, prepares what it
            needs there, and returns a function of a fresh folder, the only one where faults happen.
            That one prepares the folder, and returns the action itself, which may return words.
        errors: of which each operation gets one, in turn. every: only each such operation fails.

    Returns:
        The number of operations of the action, and the outcomes.
    """
    request = {"action": action, "folder": str(folder), "errors": list(errors), "every": every}
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(TESTS / "faults.py"), json.dumps(request)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count, *outcomes = map(json.loads, done.stdout.splitlines())
    return count, [Outcome(**outcome) for outcome in outcomes]


def main() -> None:
    """Count an action's operations, then do it once for each fault."""
    request = json.loads(sys.argv[1])
    module, _, function = request["action"].partition(":")
    folder = Path(request["folder"])
    begin = getattr(importlib.import_module(module), function)(folder)
    faults = ctypes.CDLL(None)
    faults.fault_disarm.restype = ctypes.c_long
    count = json.loads(_in_child(begin, faults, folder / "0", -1, KILL)["words"])
    print(json.dumps(count))
    errors = request["errors"]
    for turn, nth in enumerate(range(1, count + 1, request["every"])):
        number = errors[turn % len(errors)]
        answer = _in_child(begin, faults, folder / str(nth), nth, number)
        print(json.dumps({"nth": nth, "number": number, **answer}), flush=True)


def _in_child(
    begin: Callable[[Path], Callable[[], Any]],
    faults: ctypes.CDLL,
    folder: Path,
    nth: int,
    number: int,
) -> dict[str, Any]:
    """Do an action in a forked process, with one fault; what came of it."""
    folder.mkdir()
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with os.fdopen(read) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        return json.loads(text) if text else {"ended": "killed", "code": None, "words": ""}
    try:
        act = begin(folder)
        faults.fault_arm(os.fsencode(folder), ctypes.c_long(nth), number, int(number in STICKY))
        try:
            words, ended, code = act(), "", 0
        except BaseException as error:
            code = getattr(error, "exit_code", None)
            ended, words = type(error).__name__, str(error)
            if code is None:
                words += "".join(traceback.format_exception(error))[-1500:]
        count = faults.fault_disarm()
        words = json.dumps(count) if nth < 0 and not ended else words
        with os.fdopen(write, "w") as answer:
            json.dump({"ended": ended, "code": code, "words": str(words or "")}, answer)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
