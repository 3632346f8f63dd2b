"""The process that `device.measure_host` starts for each variant: loads one model, runs it.

It reads one JSON object per line from stdin and answers each with one on stdout:

    {"do": "load", "model", "library", "threads", "cold", "seed"}
        -> {"load_ms", "runtime_rss_bytes"}
    {"do": "round", "prompt_tokens", "decode_tokens"} -> {"prefill_ms", "decode_ms": [...]}
    {"do": "memory"} -> {"peak_rss_bytes"}

An error is answered with {"error": message, "exit_code": ...}; the end of stdin ends the process,
so that it never outlives the process that measures.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ssmpress.errors import SsmpressError
from ssmpress.runtime.loading import open_session
from ssmpress.runtime.onnx_runtime import import_onnxruntime
from ssmpress.runtime.session import Session

_PR_SET_PDEATHSIG = 1


class Worker:
    """One model in this process, and the tokens that it is measured with."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._random = np.random.default_rng(0)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks."""
        if request["do"] == "load":
            return self.load(request)
        if request["do"] == "round":
            return self.round(request["prompt_tokens"], request["decode_tokens"])
        return {"peak_rss_bytes": memory_bytes("VmHWM")}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open the model and run its first prediction. The runtime is imported before: it is no
        part of the model's loading time, and its memory is reported by itself."""
        import_onnxruntime()
        model, library = Path(request["model"]), request["library"]
        if request["cold"]:
            drop_from_page_cache(model)
        before = memory_bytes("VmRSS")
        begin = time.perf_counter()
        self._session = open_session(model, threads=request["threads"], library=library)
        self._session.interface.task.first_prediction(self._session)
        elapsed = 1000 * (time.perf_counter() - begin)
        self._random = np.random.default_rng(request["seed"])
        wait_until_quiet()
        return {"load_ms": elapsed, "runtime_rss_bytes": before}

    def round(self, prompt_tokens: int, decode_tokens: int) -> dict[str, Any]:
        """A prefill and single steps, or a batch and single predictions: what the task times.

        The samples are random but the same for every variant, so that all do the same work.
        """
        session = self._session
        if session is None:
            raise SsmpressError("worker: a round was asked for before a model was loaded.")
        task = session.interface.task
        prefill_ms, decode_ms = task.timed_round(
            session, self._random, prompt_tokens, decode_tokens
        )
        wait_until_quiet()
        return {"prefill_ms": prefill_ms, "decode_ms": decode_ms}


def wait_until_quiet() -> None:
    """Sleep until no other thread of this process runs or waits for a processor, at most 3 s.

    ONNX Runtime's threads spin after a run, waiting for the next one: 25 ms of processor time on
    2 cores, which would be taken from the variant whose turn is next. Turning the spinning off
    would end that, but then the numbers are not those of the runtime's defaults, which an
    application uses. A busy machine spreads it over a longer time, so the state of the threads
    tells, not the time that they used.
    """
    own = str(threading.get_native_id())
    for _ in range(300):
        time.sleep(0.01)
        if not any(_runs(task) for task in Path("/proc/self/task").iterdir() if task.name != own):
            return


def _runs(task: Path) -> bool:
    """Whether a thread has a processor or waits for one; not if it has ended."""
    try:
        return (task / "stat").read_bytes().rpartition(b")")[2].split()[:1] == [b"R"]
    except OSError:
        return False


def memory_bytes(key: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS is resident now, VmHWM the most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise SsmpressError(f"/proc/self/status has no {key}: this kernel does not count memory.")


def drop_from_page_cache(model: Path) -> None:
    """Ask the kernel to forget the model's files, so that the next read comes from the disk.

    Best effort: pages that are dirty or mapped by another process stay, and a disk that fails here
    says so where it matters.
    """
    for path in (model, model.with_name(model.name + ".data")):
        if not path.is_file():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):
                os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Answer requests until stdin ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get among the replies
    worker = Worker()
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except SsmpressError as error:
            reply = {"error": str(error), "exit_code": error.exit_code}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
