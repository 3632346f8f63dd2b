"""Running a program that is not trusted with this host's memory: a device's answer has a limit.

So has its log: a `Tail` reads it while the program runs, and keeps the end.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import threading
import time
from collections.abc import Sequence

from ssmpress.errors import DeviceError

ANSWER_LIMIT = 16 << 20
"""Bytes of stdout, and of stderr; the longest real answer, of an evaluation, has some 100 kB."""


_KEPT = 1 << 14  # bytes of a log's end
_END_S = 2.0  # a program has ended, but one that it started may hold its stderr


class Tail:
    """The end of what a process writes to stderr, a pipe, read as it comes.

    A process that writes more than ANSWER_LIMIT is killed.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._end = bytearray()
        self._bytes = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with stream:
            while piece := os.read(stream.fileno(), 1 << 16):
                self._bytes += len(piece)
                self._end = (self._end + piece)[-_KEPT:]
                if self.flooded:
                    self._process.kill()
                    return

    @property
    def flooded(self) -> bool:
        """Whether it wrote more than it may."""
        return self._bytes > ANSWER_LIMIT

    def text(self) -> str:
        """The end of the log of a process that has ended; of one that was killed for it, why."""
        self._reader.join(_END_S)
        if self.flooded:
            return f"its log is longer than {ANSWER_LIMIT:,} bytes."
        return bytes(self._end).decode("utf-8", "replace")


def run_bounded(
    command: Sequence[str], timeout_s: float, name: str
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of a command without stdin, its output as text and within ANSWER_LIMIT.

    Args:
        name: of the device, for the message.

    Raises:
        DeviceError: it printed more. subprocess.TimeoutExpired, FileNotFoundError: as `run` does.
    """
    end = time.monotonic() + timeout_s
    with (
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout is not None and process.stderr is not None
        pieces = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
        try:
            for number in pieces:
                selector.register(number, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, end - time.monotonic()))
                if not ready and time.monotonic() >= end:
                    raise subprocess.TimeoutExpired(command, timeout_s)
                for key, _ in ready:
                    piece = os.read(key.fd, 1 << 16)
                    pieces[key.fd] += piece
                    if not piece:
                        selector.unregister(key.fd)
                    if len(pieces[key.fd]) > ANSWER_LIMIT:
                        raise DeviceError(
                            f"{name}: its answer is longer than {ANSWER_LIMIT:,} bytes."
                        )
            process.wait(max(0.1, end - time.monotonic()))
        except BaseException:
            process.kill()
            raise
        out, err = (content.decode("utf-8", "replace") for content in pieces.values())
    return subprocess.CompletedProcess(command, process.returncode, out, err)
