"""A program's answer is whole, or refused: never more than its limit in memory."""

from __future__ import annotations

import subprocess

import pytest

from ssmpress.errors import DeviceError
from ssmpress.measure.bounded import run_bounded


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
