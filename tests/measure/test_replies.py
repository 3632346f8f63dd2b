"""A worker's answers are checked before they are used: wherever it runs, it may be anything."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import numpy as np
import pytest

from ssmpress import replies
from ssmpress.errors import DeviceError
from ssmpress.measure import worker_process
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.report.schema import json_types

HUGE = 10**400
BAD_NUMBERS = [None, "1", True, -1, -0.5, float("nan"), float("inf"), HUGE, [], {}]


def encoded(values: list[float]) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


@pytest.mark.parametrize("value", BAD_NUMBERS)
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(DeviceError, match="load_ms: expected"):
        replies.number({"load_ms": value}, "load_ms")
    with pytest.raises(DeviceError, match="bytes: expected"):
        replies.integer({"bytes": value}, "bytes")
    with pytest.raises(DeviceError):
        replies.numbers({"decode_ms": [1.0, value]}, "decode_ms", 2)
    with pytest.raises(DeviceError):
        replies.turn({"prefill_ms": 1.0, "decode_ms": value}, 2, warmup=False)


def test_numbers_are_as_many_as_asked_for() -> None:
    assert replies.numbers({"a": [1, 2.5]}, "a", 2) == (1.0, 2.5)
    for count in (1, 3):
        with pytest.raises(DeviceError, match=f"a list of {count} numbers"):
            replies.numbers({"a": [1, 2.5]}, "a", count)
    with pytest.raises(DeviceError, match="an integer"):
        replies.integer({"a": 1.5}, "a")


def test_an_array_comes_back() -> None:
    reply = {"shape": [2, 2], "logits": encoded([1, -2, 3.5, 0])}
    found = replies.array(reply, "logits", (2, 2))
    assert found.tolist() == [[1, -2], [3.5, 0]]
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    "reply",
    [
        None,
        {},
        {"shape": [2, 2]},
        {"shape": [4], "logits": encoded([1, 2, 3, 4])},
        {"shape": [2, 2], "logits": encoded([1, 2, 3])},
        {"shape": [2, 2], "logits": encoded([1, 2, 3, 4])[:-3]},
        {"shape": [2, 2], "logits": "\u00e9" * 8},
        {"shape": [2, 2], "logits": [1, 2, 3, 4]},
    ],
)
def test_another_array_is_refused(reply: Any) -> None:
    with pytest.raises(DeviceError, match="logits: expected"):
        replies.array(reply, "logits", (2, 2))


def test_facts_are_cut_to_a_size() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50):
        deep = {"x": deep}
    facts = {
        "text": "x" * 10_000,
        "deep": deep,
        "list": [1] * 10_000,
        "number": HUGE,
        "nan": float("nan"),
        "fine": {"cpu": 48.25, "ok": True, "none": None},
    }
    found = replies.facts({"environment": facts}, "environment")
    assert len(json.dumps(json_types(found))) < 10_000
    assert found["number"] is None
    assert found["fine"] == facts["fine"]
    with pytest.raises(DeviceError, match="environment: expected an object"):
        replies.facts({"environment": []}, "environment")


@pytest.mark.parametrize("said", ["[]", "7", "null", "nonsense", "[" * 100_000])
def test_a_reply_that_is_no_object_is_refused(said: str) -> None:
    command = (sys.executable, "-c", f"print({said!r})")
    text = "device: expected JSON from its worker"
    with WorkerProcess("device", 60, command) as worker, pytest.raises(DeviceError, match=text):
        worker.ask({"do": "memory"})


def test_an_endless_reply_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_REPLY_LIMIT", 1 << 20)
    endless = (sys.executable, "-c", "import sys\nwhile True: sys.stdout.write('x' * 65536)")
    text = "its reply is longer than"
    with WorkerProcess("device", 60, endless) as worker, pytest.raises(DeviceError, match=text):
        worker.ask({"do": "memory"})


MANY = [
    ("{'a': [0] * (1 << 21)}", "expected JSON from its worker"),
    ("[{}] * (1 << 21)", "expected JSON from its worker"),
]


@pytest.mark.parametrize(("value", "message"), MANY)
def test_a_reply_of_too_many_values_is_refused(value: str, message: str) -> None:
    """Each would take some 64 bytes of this host's memory, of 2 that came."""
    command = (sys.executable, "-c", f"import json; print(json.dumps({value}))")
    with WorkerProcess("device", 60, command) as worker, pytest.raises(DeviceError, match=message):
        worker.ask({"do": "memory"})
    with pytest.raises(DeviceError, match="eval: expected a JSON object"):
        replies.document(json.dumps({"a": [0] * (1 << 21)}), "eval")


def test_a_long_line_is_found_in_time_that_grows_with_it() -> None:
    """60 MB in pieces of 64 kB, each of which the whole line would have been searched for."""
    code = "print('{\"a\": \"' + 'x' * 60_000_000 + '\"}')"
    with WorkerProcess("device", 120, (sys.executable, "-c", code)) as worker:
        assert len(worker.ask({"do": "memory"})["a"]) == 60_000_000


def test_answers_come_one_by_one_however_they_were_sent() -> None:
    code = 'import sys; sys.stdin.readline(); print(\'{"a": 1}\\n{"a": 2}\'); sys.stdin.readline()'
    with WorkerProcess("device", 60, (sys.executable, "-c", code)) as worker:
        assert [worker.ask({"do": "memory"})["a"] for _ in range(2)] == [1, 2]


def test_a_log_without_end_is_one_sentence() -> None:
    code = "import sys\nwhile True: sys.stderr.write('x' * 65536)"
    text = "device: its log is longer than 16,777,216 bytes"
    command = (sys.executable, "-c", code)
    with WorkerProcess("device", 60, command) as worker, pytest.raises(DeviceError, match=text):
        worker.ask({"do": "memory"})


DEAF = "import time; time.sleep(60)"
DRIP = "import sys, time\nwhile True: sys.stdout.write('x'); sys.stdout.flush(); time.sleep(0.05)"


@pytest.mark.parametrize("code", [DEAF, DRIP])
def test_an_answer_has_an_end_however_slowly_it_comes(code: str) -> None:
    """Also where a long request is never read."""
    request = {"do": "nll", "windows": [0] * (1 << 20)}
    with WorkerProcess("device", 0.5, (sys.executable, "-c", code), grace_s=0.1) as worker:
        for asked in (request, {"do": "memory"}):
            with pytest.raises(DeviceError, match=r"no answer to .* within 0.5 seconds"):
                worker.ask(asked)
