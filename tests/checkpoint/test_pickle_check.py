"""Pickles that torch's weights-only loader would hang on, crash on, or fill the memory with."""

from __future__ import annotations

import gc
import pickle
import signal
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssmpress.checkpoint.pickle_check import DEPTH_LIMIT, STEP_LIMIT, check_pickle
from ssmpress.checkpoint.weight_files import read_weights
from ssmpress.errors import BadInputError

PROTO, END = b"\x80\x02", b"."


def nested(depth: int, kind: bytes) -> bytes:
    """kind: what opens a level; each is put into the one around it."""
    key = b"X\x01\0\0\0a" if kind == b"}" else b""
    put = b"s" if kind == b"}" else b"a"
    return PROTO + (kind + key) * depth + kind + put * depth + END


def colliding(levels: int) -> bytes:
    """{t_n: 1} with t_n = (t_(n-1), t_(n-1)): some bytes a level, 2^n values to hash."""
    code = PROTO + b"}" + b")q\0"
    for level in range(levels):
        code += b"h" + bytes([level]) + b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    return code + b"K\x01s" + END


def one_hash(count: int) -> bytes:
    """{k (2^61 - 1): None}: all keys have the hash 0."""
    keys = (b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(count))
    return PROTO + b"}(" + b"".join(keys) + b"u" + END


def called(name: str, arguments: bytes) -> bytes:
    module, _, what = name.rpartition(".")
    return PROTO + f"c{module}\n{what}\n".encode() + arguments + b"R" + END


HOSTILE: list[tuple[bytes, str]] = [
    (nested(1_000, b"}"), "nested more than 64 deep"),
    (nested(100_000, b"}"), "nested more than 64 deep"),
    (nested(1_000, b"]"), "nested more than 64 deep"),
    (PROTO + b")" + b"\x85" * 1_000 + END, "nested more than 64 deep"),
    (colliding(100), "a key that is no text or number|more than|nested"),
    (colliding(40), "a key that is no text or number|more than"),
    (called("builtins.set", b"]\x8a\x09" + b"\0" * 8 + b"\1a\x85"), "a call of builtins.set"),
    (PROTO + b"]q\0(" + b"h\0" * 5 + b"e" + END, "a value that holds itself"),
    (PROTO + b"}q\0X\x01\0\0\0ah\0s" + END, "a value that holds itself"),
    (PROTO + b"]q\0\x85h\0K\x01a" + END, "a value that changes after it was used"),
    (called("builtins.bytearray", b"\x8a\x06" + b"\0\0\0\0\0\x10" + b"\x85"), "a call of builtins"),
    (called("collections.OrderedDict", b"]]a\x85"), "a call of collections.OrderedDict"),
    (called("builtins.set", b"])a\x85"), "a call of builtins.set"),
    (PROTO + b"s" + END, "instructions that find no value"),
    (PROTO + b"h\x07" + END, "instructions that find no value"),
    (PROTO + b"I1\n" + END, "the instruction INT"),
]


def archive_of(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize(("content", "message"), HOSTILE)
def test_hostile_pickles_are_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = archive_of(tmp_path / "weights.pt", content)
    with pytest.raises(BadInputError, match=message) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: expected a state dict")


def test_keys_of_one_hash_are_refused(tmp_path: Path) -> None:
    """torch would compare each of 100,000 with all before it, for minutes."""
    path = archive_of(tmp_path / "weights.pt", one_hash(100_000))
    with pytest.raises(BadInputError, match="a key that is an integer of more than 64 bits"):
        read_weights(path)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_signal_ends_the_check() -> None:
    """The longest that is followed: seconds, in which a signal's handler runs at once.

    Without garbage collection: hypothesis has a callback on it, and Python drops what is raised in
    one, so that an alarm in the middle of a collection would be lost.
    """
    content = PROTO + b"}" * (STEP_LIMIT - 2) + END
    before = signal.signal(signal.SIGALRM, interrupt)
    gc.disable()
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            check_pickle(content)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.enable()
        signal.signal(signal.SIGALRM, before)


def test_sharing_that_grows_by_itself_is_counted() -> None:
    """30 levels of twice the same: nothing is hashed, but a billion values would be printed."""
    value: Any = ()
    for _ in range(30):
        value = (value, value)
    with pytest.raises(ValueError, match="more than 16,777,216 values"):
        check_pickle(pickle.dumps(value, 2))


MODULE = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
REAL: list[Callable[[], Any]] = [
    MODULE.state_dict,
    lambda: {"model": MODULE.state_dict(), "step": 3, "best": 0.5, "name": "a", "more": None},
    lambda: {
        "state_dict": OrderedDict(MODULE.state_dict()),
        "optimizer": torch.optim.AdamW(MODULE.parameters()).state_dict(),
        "milestones": Counter([3, 3, 5]),
        "large": 1 << 70,
        "both": (True, [1, [2, (3,)]]),
    },
    lambda: {
        "p": torch.nn.Parameter(torch.ones(2)),
        "h": torch.ones(2, dtype=torch.bfloat16),
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "type": torch.float16,
    },
    lambda: {"sparse": torch.eye(3).to_sparse(), "shared": [torch.ones(2)] * 3},
]


@pytest.mark.parametrize("make", REAL)
def test_what_training_saves_is_let_through(tmp_path: Path, make: Callable[[], Any]) -> None:
    torch.save(make(), tmp_path / "weights.pt")
    assert read_weights(tmp_path / "weights.pt").keys() == make().keys()


def test_the_deepest_that_is_let_through() -> None:
    check_pickle(nested(DEPTH_LIMIT, b"]"))
    with pytest.raises(ValueError, match="nested"):
        check_pickle(nested(DEPTH_LIMIT + 1, b"]"))
