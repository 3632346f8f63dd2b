"""`--device ssh://` and `adb:`: the bundle on a real machine, measured there, and nothing left.

One long-lived remote shell, the keeper, makes a folder, waits for its stdin to end and removes the
folder: so that it goes however this ends, also when the connection is lost or this process killed.
The workers (`ssmrun worker`) end with their stdin too.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ssmpress import replies
from ssmpress.errors import DeviceError
from ssmpress.files import sha256
from ssmpress.machine import RUNNER_NAME
from ssmpress.measure.bounded import Tail, run_bounded
from ssmpress.measure.worker_process import WorkerProcess

GLIBC = (2, 28)
"""What the op library, ssmrun and ONNX Runtime's wheels need."""

ANSWER_S = 60.0
BYTES_PER_SECOND = 50_000
"""The slowest connection that copying waits for."""

WRAPPER = "SSMPRESS_WRAPPER"
"""Environment variable on the device: words put before ssmrun, such as `taskset -c 4-7`."""

_SPARE_BYTES = 16 << 20

_PREFLIGHT = f"""
echo "machine=$(uname -m)"
echo "libc=$( (getconf GNU_LIBC_VERSION || ldd --version) 2>&1 | head -n 1)"
echo "wrapper=${WRAPPER}"
echo "processors=$(${WRAPPER} nproc 2> /dev/null)"
"""
# The folder given is kept; without one a new folder in the home goes when the shell ends.
_KEEPER = """
umask 077
kept={path}
if [ -n "$kept" ]; then mkdir -p "$kept" && folder=$kept
else folder=$(mktemp -d "${{HOME:-/tmp}}/.ssmpress-XXXXXX"); fi || exit 74
mkdir -p "$folder/bundle" "$folder/incoming" || exit 74
echo "folder=$folder"
echo "free=$(df -Pk "$folder" | awk 'NR == 2 {{ print $4 }}')"
echo "ready=yes"
cat > /dev/null
rm -rf "$folder/incoming"
[ -n "$kept" ] || rm -rf "$folder"
"""


@dataclass(frozen=True)
class Link:
    """How to reach a device. name: as given to --device.

    shell: the command line that runs one more word as a shell command there. copy: the one that
    copies a file to a folder there.
    """

    name: str
    shell: tuple[str, ...]
    copy: Callable[[Path, str], list[str]]


@dataclass(frozen=True)
class Preflight:
    """What the device said of itself.

    wrapper: see `WRAPPER`. processors: that it runs programs on; None where it has no `nproc`. A
    quota of its control group shows only in what ssmrun says there.
    """

    machine: str
    libc: str
    wrapper: str
    processors: int | None = None


class RemoteFolder:
    """A context manager: a folder on the device that goes when it ends, unless `path` names it."""

    def __init__(self, link: Link, path: str | None, wrapper: str = "") -> None:
        self._link = link
        self._path = path
        self._wrapper = wrapper
        self.folder = ""
        self.free_bytes = 0

    def __enter__(self) -> RemoteFolder:
        script = _command(_KEEPER.format(path=shlex.quote(self._path or "")))
        self._keeper = subprocess.Popen(
            [*self._link.shell, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._log = Tail(self._keeper)
        try:
            answer = _pairs(self._keeper_answer())
            self.folder, self.free_bytes = answer["folder"], 1024 * int(answer["free"])
            if not self.folder.startswith("/"):
                raise ValueError(self.folder)
        except (KeyError, ValueError) as error:
            self._end()
            raise DeviceError(
                f"{self._link.name}: expected a folder on the device; got none: "
                f"{self._said() or 'no answer'}. Is the home folder there writable?"
            ) from error
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()

    def _keeper_answer(self) -> str:
        """What it prints up to `ready`; ends early where it ends, or after `ANSWER_S`."""
        assert self._keeper.stdout is not None
        text, end = b"", time.monotonic() + ANSWER_S
        while b"ready=" not in text and len(text) < 1 << 16:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._keeper.stdout], [], [], left)[0]:
                break
            piece = os.read(self._keeper.stdout.fileno(), 4096)
            if not piece:
                break
            text += piece
        return text.decode("utf-8", "replace")

    def _said(self) -> str:
        return last_line(self._log.text())

    def _end(self) -> None:
        """Let the keeper clean up and end."""
        with contextlib.suppress(OSError):
            if self._keeper.stdin is not None:
                self._keeper.stdin.close()
        try:
            self._keeper.wait(timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def push(self, files: Mapping[str, Path], tick: Callable[[], None]) -> int:
        """Copy files that the device does not have with the same sha256.

        Args:
            files: by name in the folder, such as `bundle/model.onnx`.

        Returns:
            How many were copied.

        Raises:
            DeviceError: not enough space, the copy failed, or arrived damaged.
        """
        there = self._hashes(list(files)) if self._path else {}
        here = {name: sha256(path) for name, path in files.items()}
        missing = {name: path for name, path in files.items() if there.get(name) != here[name]}
        size = sum(path.stat().st_size for path in missing.values())
        if size + _SPARE_BYTES > self.free_bytes:
            raise DeviceError(
                f"{self._link.name}: expected {(size + _SPARE_BYTES) / 1e6:.0f} MB free in "
                f"{self.folder}; got {self.free_bytes / 1e6:.0f} MB. Make room on the device, "
                "or name a folder on another disk: ssh://host/folder."
            )
        for name, path in missing.items():
            self._push_one(name, path)
            tick()
        arrived = self._hashes(list(missing)) if missing else {}
        for name in missing:
            if arrived.get(name) != here[name]:
                raise DeviceError(
                    f"{self._link.name}: {name} arrived damaged: expected sha256 "
                    f"{here[name][:12]}...; got {arrived.get(name, 'none')[:12]}. Try again."
                )
        return len(missing)

    def _push_one(self, name: str, path: Path) -> None:
        """Copied beside, then moved to its place: a cut connection leaves no half file there."""
        incoming = f"{self.folder}/incoming"
        limit = ANSWER_S + path.stat().st_size / BYTES_PER_SECOND
        command = self._link.copy(path, incoming)
        done = _finish(self._link, command, f"copy {name}", limit)
        if done.returncode != 0:
            raise DeviceError(
                f"{self._link.name}: could not copy {name}: {last_line(done.stderr)}. "
                f"{self._why_no_copy()}"
            )
        moved = f"{shlex.quote(f'{incoming}/{path.name}')} {shlex.quote(f'{self.folder}/{name}')}"
        run(self._link, f"mv -f {moved}", f"move {name}")

    def _why_no_copy(self) -> str:
        try:
            script = f"df -Pk {shlex.quote(self.folder)} | awk 'NR == 2 {{ print $4 }}'"
            free = int(run(self._link, script, "df").strip())
        except (DeviceError, ValueError):
            return "Is the device still reachable?"
        return f"The device has {free * 1024 / 1e6:.0f} MB free in {self.folder}."

    def _hashes(self, names: list[str]) -> dict[str, str]:
        """sha256 by name, of those that are there."""
        words = " ".join(map(shlex.quote, names))
        script = f"cd {shlex.quote(self.folder)} && sha256sum {words} 2>/dev/null || true"
        lines = run(self._link, script, "sha256sum", timeout_s=10 * ANSWER_S).splitlines()
        matches = (re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines)
        return {match[2]: match[1] for match in matches if match}

    def ssmrun(self, *words: str) -> str:
        """The remote command line of the bundle's ssmrun; `{folder}` in words is the folder."""
        program = shlex.quote(f"{self.folder}/bundle/{RUNNER_NAME}")
        rest = " ".join(shlex.quote(word.format(folder=self.folder)) for word in words)
        return f"exec {self._wrapper} {program} {rest}"

    def prepare_runner(self) -> str:
        """Make ssmrun executable and have it check the bundle; what it said as JSON.

        Raises:
            DeviceError: it does not start, or refuses the bundle.
        """
        runner = shlex.quote(f"{self.folder}/bundle/{RUNNER_NAME}")
        verify = self.ssmrun("verify", "{folder}/bundle", "--json")
        return run(self._link, f"chmod 700 {runner} && {verify}", "ssmrun verify")

    def run_eval(self, file: Path, *, threads: int, timeout_s: float) -> dict[str, Any]:
        """`ssmrun eval` of a file that was copied to the folder.

        Raises:
            DeviceError: it failed, or said something else.
        """
        words = ("eval", "{folder}/bundle", f"{{folder}}/{file.name}")
        script = self.ssmrun(*words, "--threads", str(threads), "--json")
        text = run(self._link, script, "ssmrun eval", timeout_s=timeout_s)
        return replies.document(text, "eval")

    def worker(self, name: str, timeout_s: float) -> WorkerProcess:
        """`ssmrun worker` for the bundle."""
        command = [*self._link.shell, _command(self.ssmrun("worker", "{folder}/bundle"))]
        return WorkerProcess(
            f"{self._link.name}, {name}", timeout_s, command, explain=_lost_connection, grace_s=10
        )


def preflight(link: Link, machine: str, *, timeout_s: float = ANSWER_S) -> Preflight:
    """Ask a device what it is, before anything is copied or trained.

    Args:
        machine: that the bundle is for.

    Raises:
        DeviceError: it cannot be reached, is another machine, or has no glibc that is new enough.
    """
    properties = _pairs(run(link, _PREFLIGHT, "uname", timeout_s=timeout_s))
    got = properties.get("machine", "")
    got = {"arm64": "aarch64", "amd64": "x86_64"}.get(got, got)
    if got != machine:
        hint = "A 32-bit system cannot run it." if got.startswith("armv") else "Change --target."
        raise DeviceError(
            f"{link.name}: expected a machine of {machine}, which the bundle is for; got "
            f"{got[:40] or 'no answer of uname'}. {hint}"
        )
    libc = properties.get("libc", "")
    version = re.search(r"glibc (\d+)\.(\d+)|GLIBC\D* (\d+)\.(\d+)|GNU libc\D* (\d+)\.(\d+)", libc)
    numbers = tuple(int(part) for part in version.groups() if part) if version else ()
    if numbers < GLIBC:
        raise DeviceError(
            f"{link.name}: expected glibc {GLIBC[0]}.{GLIBC[1]} or later; got "
            f"{libc[:60].strip() or 'none'}. ONNX Runtime has no library for other C libraries, "
            "such as musl or Android's."
        )
    processors = re.fullmatch(r"[1-9]\d{0,5}", properties.get("processors", ""))
    return Preflight(
        got,
        libc.strip()[:60],
        properties.get("wrapper", ""),
        None if processors is None else int(processors[0]),
    )


def run(link: Link, script: str, what: str, *, timeout_s: float = ANSWER_S) -> str:
    """Run a shell script on the device; what it prints.

    Raises:
        DeviceError: no connection, no answer in time, or it failed.
    """
    done = _finish(link, [*link.shell, _command(script)], what, timeout_s)
    if done.returncode != 0:
        reason = last_line(done.stderr) or last_line(done.stdout)
        lost = _lost_connection(done.returncode, done.stderr)
        raise DeviceError(
            f"{link.name}: {lost}"
            if lost
            else f"{link.name}: {what} failed with exit code {done.returncode}: {reason}"
        )
    return done.stdout


def last_line(text: str) -> str:
    """The last line that says something, without its full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:300] if lines else ""


def _finish(
    link: Link, command: list[str], what: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    try:
        return run_bounded(command, timeout_s, link.name)
    except FileNotFoundError as error:
        raise DeviceError(
            f"{link.name}: expected {command[0]} on PATH; there is none. Install it, or leave "
            "--device out."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{link.name}: no answer to {what!r} within {timeout_s:.0f} seconds. Is the device "
            "switched on and the connection fast enough?"
        ) from error


def _lost_connection(code: int, output: str) -> str | None:
    """ssh's own exit code; any other is the remote command's."""
    if code != 255:
        return None
    return (
        f"ssh could not connect, or the connection was lost: {last_line(output) or 'no reason'}. "
        "Try the same with ssh alone: it must log in without asking for a password."
    )


def _command(script: str) -> str:
    """A command line that runs a script of `sh` in whatever login shell the user has there."""
    return f"exec sh -c {shlex.quote(script)}"


def _pairs(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, separator, value in pairs if separator}
