"""The parent's end of a measuring process: start it, ask it, end it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from ssmpress.errors import EXIT_BAD_INPUT, BadInputError, DeviceError
from ssmpress.machine import python_environment
from ssmpress.strict_json import parse_json

_COMMAND = (sys.executable, "-m", "ssmpress.measure.worker")
_REPLY_LIMIT = 1 << 28  # bytes; logits of a real vocabulary take some 1e7
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
        self._buffer = b""

    def __enter__(self) -> WorkerProcess:
        # A file, not a pipe: a worker that prints a lot must not block on a full pipe.
        self._stderr = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=python_environment(),
                bufsize=0,
            )
        except BaseException:
            self._stderr.close()
            raise
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
            for stream in (process.stdin, process.stdout, self._stderr):
                if stream is not None:
                    stream.close()

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            BadInputError: the worker could not use the model.
            DeviceError: it answered with another error, ended, or took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._crashed() from error
        reply = self._line(request["do"])
        try:
            answer = parse_json(reply)
            if not isinstance(answer, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise DeviceError(f"{self._name}: expected JSON from its worker; got {reply[:80]!r}.") \
                from error  # fmt: skip
        if "error" in answer:
            bad_input = answer.get("exit_code") == EXIT_BAD_INPUT
            kind = BadInputError if bad_input else DeviceError
            raise kind(f"{self._name}: {answer['error']}")
        return answer

    def _line(self, what: str) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], self._timeout_s)
            if not ready:
                raise DeviceError(
                    f"{self._name}: no answer to {what!r} within {self._timeout_s:g} seconds. "
                    "The model may be too large for this machine."
                )
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise self._crashed()
            self._buffer += piece
            if len(self._buffer) > _REPLY_LIMIT:
                raise DeviceError(f"{self._name}: its reply is longer than {_REPLY_LIMIT:,} bytes.")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _crashed(self) -> DeviceError:
        code = self._process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
        if code == -9:
            how += " (out of memory, if nobody killed it)"
        self._stderr.seek(0)
        tail = self._stderr.read().decode("utf-8", "replace")[-_TAIL:].strip()
        if reason := self._explain(code, tail):
            return DeviceError(f"{self._name}: {reason}")
        return DeviceError(
            f"{self._name}: its measuring process {how}. Its last output:\n{tail or '(none)'}"
        )
