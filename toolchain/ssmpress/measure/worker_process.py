"""The parent's end of a measuring process: start it, ask it, end it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from ssmpress import replies
from ssmpress.errors import EXIT_BAD_INPUT, BadInputError, DeviceError
from ssmpress.machine import python_environment
from ssmpress.measure.bounded import Tail

_COMMAND = (sys.executable, "-m", "ssmpress.measure.worker")
_REPLY_LIMIT = 1 << 27  # bytes; logits of a real vocabulary take some 1e7
_TAIL = 2000  # characters of a crashed worker's stderr that its error shows


class WorkerProcess:
    """A context manager around one process that answers lines of JSON. Leaving it ends the process.

    Args:
        name: for messages. timeout_s: seconds one reply may take.
        command: None is `ssmpress.measure.worker` here; else `ssmrun worker` somewhere.
        explain: the reason for an exit, from its code and its last output, when it is known.
        grace_s: seconds the process may take to end by itself.
    """

    def __init__(
        self,
        name: str,
        timeout_s: float,
        command: Sequence[str] | None = None,
        *,
        explain: Callable[[int, str], str | None] = lambda code, output: None,
        grace_s: float = 2.0,
    ) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._command = _COMMAND if command is None else command
        self._explain = explain
        self._grace_s = grace_s
        self._buffer = bytearray()

    def __enter__(self) -> WorkerProcess:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=python_environment(),
            bufsize=0,
        )
        self._log = Tail(self._process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        try:
            if kind is None and process.stdin is not None:
                process.stdin.close()
                process.wait(timeout=self._grace_s)
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            BadInputError: the worker could not use the model.
            DeviceError: it answered with another error, ended, or took too long.
        """
        end = time.monotonic() + self._timeout_s
        self._send(json.dumps(request).encode() + b"\n", request["do"], end)
        reply = self._line(request["do"], end)
        try:
            answer = replies.parsed(reply)
        except ValueError as error:
            beginning = bytes(reply[:80])
            raise DeviceError(
                f"{self._name}: expected JSON from its worker; got {beginning!r}."
            ) from error
        if "error" in answer:
            bad_input = answer.get("exit_code") == EXIT_BAD_INPUT
            kind = BadInputError if bad_input else DeviceError
            raise kind(f"{self._name}: {answer['error']}")
        return answer

    def _send(self, content: bytes, what: str, end: float) -> None:
        """Write a request to a process that may never read it."""
        assert self._process.stdin is not None
        number, left = self._process.stdin.fileno(), memoryview(content)
        os.set_blocking(number, False)
        while left:
            _, ready, _ = select.select([], [number], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise self._silent(what)
            try:
                left = left[os.write(number, left) :]
            except OSError as error:
                raise self._crashed() from error

    def _line(self, what: str, end: float) -> bytearray:
        """The next line; only what has just come is searched for its end."""
        assert self._process.stdout is not None
        newline = self._buffer.find(b"\n")
        while newline < 0:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise self._silent(what)
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise self._crashed()
            place = piece.find(b"\n")
            newline = place if place < 0 else len(self._buffer) + place
            self._buffer += piece
            if len(self._buffer) > _REPLY_LIMIT:
                raise DeviceError(f"{self._name}: its reply is longer than {_REPLY_LIMIT:,} bytes.")
        line, self._buffer = self._buffer[:newline], self._buffer[newline + 1 :]
        return line

    def _silent(self, what: str) -> DeviceError:
        return DeviceError(
            f"{self._name}: no answer to {what!r} within {self._timeout_s:g} seconds. The model "
            "may be too large for this machine."
        )

    def _crashed(self) -> DeviceError:
        code = self._process.wait()
        tail = self._log.text()[-_TAIL:].strip()
        if self._log.flooded:
            return DeviceError(f"{self._name}: {tail}")
        how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
        if code == -9:
            how += " (out of memory, if nobody killed it)"
        if reason := self._explain(code, tail):
            return DeviceError(f"{self._name}: {reason}")
        return DeviceError(
            f"{self._name}: its measuring process {how}. Its last output:\n{tail or '(none)'}"
        )
