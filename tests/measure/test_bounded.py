"""A program's answer is whole, or refused: never more than its limit in memory."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

import pytest

from ssmpress.errors import DeviceError
from ssmpress.measure.bounded import Tail, run_bounded


def test_both_outputs_and_the_code_come_back() -> None:
    done = run_bounded(["sh", "-c", "printf a; printf b >&2; exit 3"], 20, "pi")
    assert (done.stdout, done.stderr, done.returncode) == ("a", "b", 3)


@pytest.mark.parametrize("flood", ["yes", "yes >&2", "head -c 17000000 /dev/zero"])
def test_a_flood_is_one_sentence(flood: str) -> None:
    with pytest.raises(DeviceError, match="pi: its answer is longer than 16,777,216 bytes"):
        run_bounded(["sh", "-c", f"exec {flood}"], 60, "pi")


def test_silence_has_an_end() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_bounded(["sleep", "60"], 0.2, "pi")


@pytest.mark.parametrize("flood", ["yes >&2", "exec yes >&2", "yes >&2 & exec sleep 60"])
def test_a_flooding_log_ends_its_process(flood: str) -> None:
    with subprocess.Popen(
        ["sh", "-c", flood], stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        log = Tail(process)
        try:
            process.wait(60)
            assert log.flooded
            assert log.text() == "its log is longer than 16,777,216 bytes."
        finally:
            with suppress(ProcessLookupError):  # what the shell had started has ended too
                os.killpg(process.pid, signal.SIGKILL)


def test_of_a_long_log_the_end_is_kept() -> None:
    script = "seq 1 1000000 >&2; echo the end >&2"
    with subprocess.Popen(["sh", "-c", script], stderr=subprocess.PIPE) as process:
        log = Tail(process)
        process.wait(60)
        lines = log.text().splitlines()
    assert (lines[-2], lines[-1]) == ("1000000", "the end")
    assert len(lines) < 10_000
