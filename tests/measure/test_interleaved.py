"""Measuring in real worker processes: what they return, how they fail, that none stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import toy_onnx
from processes import accept_interrupts, wait_for
from ssmpress.errors import BadInputError, DeviceError, UsageError
from ssmpress.machine import get_library_path
from ssmpress.measure import worker_process
from ssmpress.measure.interleaved import (
    MeasureSettings,
    Variant,
    host_environment,
    measure_host,
)
from ssmpress.measure.worker import memory_bytes
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.report.schema import json_types

QUICK = MeasureSettings(prompt_tokens=16, decode_tokens=4, rounds=3, threads=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return toy_onnx.toy_model(tmp_path / "model.onnx")


def children() -> set[int]:
    """Process numbers of this process's children."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(number) for number in path.read_text().split()}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def load_request(model: Path, **changes: object) -> dict[str, object]:
    request = {"do": "load", "model": str(model), "library": None, "threads": 1, "seed": 0}
    return {**request, "cold": False, **changes}


def test_variants_are_measured_and_no_process_stays(tmp_path: Path) -> None:
    variants = {
        name: Variant(toy_onnx.toy_model(tmp_path / name, d=256, vocab=4000, repeats=n), None)
        for name, n in (("dense", 8), ("compressed", 1))
    }
    seen: list[tuple[int, int]] = []
    before = children()
    results = measure_host(variants, QUICK, lambda *at: seen.append(at))
    assert children() == before
    assert seen == [(i, 12) for i in range(1, 13)]
    assert list(results) == ["dense", "compressed"]
    for measured in results.values():
        assert [turn.warmup for turn in measured.rounds] == [True, False, False, False]
        assert all(len(turn.decode_ms) == 4 for turn in measured.rounds)
        assert all(sample > 0 for turn in measured.rounds for sample in turn.decode_ms)
        assert measured.prefill.tokens_per_s == pytest.approx(16_000 / measured.prefill.p50_ms)
        assert measured.decode.p50_ms <= measured.decode.p90_ms <= measured.decode.p99_ms
        assert 0 < measured.runtime_rss_bytes < measured.peak_rss_bytes
        assert measured.load_cold_ms > 0
        assert measured.load_warm_ms > 0
    fastest = {
        name: min(sample for turn in measured.rounds for sample in turn.decode_ms)
        for name, measured in results.items()
    }
    assert fastest["dense"] > 2 * fastest["compressed"], "undisturbed, on a busy machine too"


def test_the_warm_up_round_does_not_count(model: Path) -> None:
    measured = measure_host({"compressed": Variant(model, None)}, QUICK)["compressed"]
    counted = sorted(s for turn in measured.rounds[1:] for s in turn.decode_ms)
    assert measured.decode.p50_ms == pytest.approx((counted[5] + counted[6]) / 2)


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="rounds: expected at least 1; got 0"):
        MeasureSettings(rounds=0)


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(BadInputError, match=r"stock: .*none\.onnx: expected an ONNX model"):
        measure_host({"stock": Variant(tmp_path / "none.onnx", None)}, QUICK)
    assert children() == before


def test_a_crashed_worker_shows_its_last_output(model: Path) -> None:
    """A request that lacks an entry ends the worker with a traceback."""
    with WorkerProcess("dense", 60) as worker:
        worker.ask(load_request(model))
        text = r"(?s)dense: .*exited with code 1.*KeyError: 'prompt_tokens'"
        with pytest.raises(DeviceError, match=text):
            worker.ask({"do": "round"})


def test_a_killed_worker_is_told_from_a_crash(model: Path) -> None:
    with WorkerProcess("dense", 60) as worker:
        worker.ask(load_request(model))
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match=r"ended by signal 9 \(out of memory"):
            worker.ask({"do": "memory"})


def test_a_silent_worker_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = (sys.executable, "-c", "import time; time.sleep(60)")
    monkeypatch.setattr(worker_process, "_COMMAND", sleeper)
    text = r"no answer to 'memory' within 0\.2 seconds"
    with pytest.raises(DeviceError, match=text), WorkerProcess("dense", 0.2) as worker:
        worker.ask({"do": "memory"})
    with pytest.raises(KeyboardInterrupt), WorkerProcess("dense", 0.2) as worker:
        raise KeyboardInterrupt
    assert not alive(worker.pid)


def test_output_that_is_no_reply_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_COMMAND", (sys.executable, "-c", "print('hello')"))
    with WorkerProcess("dense", 60) as worker, pytest.raises(DeviceError, match="expected JSON"):
        worker.ask({"do": "memory"})


def test_prints_of_a_library_do_not_reach_the_replies() -> None:
    """Whatever writes to file descriptor 1 in the worker lands on its stderr."""
    code = (
        "import os, ssmpress.measure.worker as w\n"
        "old = w.Worker.answer\n"
        "def noisy(self, request): os.write(1, b'noise\\n'); print('more'); "
        "return old(self, request)\n"
        "w.Worker.answer = noisy\n"
        "w.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input='{"do": "memory"}\n',
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["peak_rss_bytes"] > 1 << 20
    assert "noise" in done.stderr
    assert "more" in done.stderr


_PARENT = """
import sys, time
from ssmpress.measure.worker_process import WorkerProcess
with WorkerProcess("dense", 60) as worker:
    worker.ask({"do": "load", "model": sys.argv[1], "library": None, "threads": 2, "seed": 0,
                "cold": False})
    print(worker.pid, flush=True)
    worker.ask({"do": "round", "prompt_tokens": 4, "decode_tokens": 10**6})
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_worker_dies_with_its_parent_in_the_middle_of_a_round(
    model: Path, sent: signal.Signals
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(model)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=accept_interrupts,
    )
    with parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        if sent is signal.SIGINT:
            os.killpg(parent.pid, sent)  # as a terminal's Ctrl-C: to all of them
        else:
            parent.send_signal(sent)
        parent.wait(timeout=120)
        assert wait_for(lambda: not alive(worker))


def test_memory_is_this_process() -> None:
    assert 1 << 20 < memory_bytes("VmRSS") <= memory_bytes("VmHWM")


def test_an_idle_worker_does_not_spin(model: Path) -> None:
    """After its reply a worker with 2 threads uses next to no processor time."""
    with WorkerProcess("dense", 60) as worker:
        worker.ask(load_request(model, threads=2))
        worker.ask({"do": "round", "prompt_tokens": 64, "decode_tokens": 8})
        before = _ticks(worker.pid)
        time.sleep(0.5)
        used = (_ticks(worker.pid) - before) / os.sysconf("SC_CLK_TCK")
    assert used <= 0.02


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_environment_says_what_a_reader_needs() -> None:
    environment = host_environment(threads=2, library=None)
    assert environment["threads"] == 2
    assert environment["ops_isa"] is None
    for key in ("cpu", "kernel", "python", "onnxruntime", "ssmpress", "logical_cpus"):
        assert environment[key], key
    assert environment == json_types(environment)


def test_environment_logs_the_isa_in_use() -> None:
    try:
        library = get_library_path()
    except DeviceError as error:
        pytest.skip(str(error))
    assert host_environment(threads=1, library=library)["ops_isa"] in ("scalar", "avx2", "avx512")
