"""Headless Chromium over the DevTools protocol through a pipe: no driver and no library needed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
    "--disable-component-update",
    "--disable-extensions",
    "--remote-debugging-pipe",
    "--hide-scrollbars",
)
TIMEOUT_S = 60.0


class Tab:
    """One page. events: everything the browser reported, in order."""

    def __init__(self, write: int, read: int) -> None:
        self.write, self.read = write, read
        self.buffer, self.serial, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self.serial += 1
        message: dict[str, Any] = {"id": self.serial, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self.serial:
                assert "error" not in reply, reply["error"]
                return dict(reply["result"])

    def open(self, url: str, *, width: int, dark: bool = False, height: int = 900) -> None:
        """Load a page and wait until it and its fonts are there."""
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.ask("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self._receive()
        time.sleep(0.2)  # a late request would come now
        self.evaluate("document.fonts.ready.then(() => 1)")

    def evaluate(self, expression: str) -> Any:
        """A JavaScript value; works where the page itself may run no script."""
        result = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """One key, down and up."""
        for kind in ("rawKeyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def problems(self) -> list[str]:
        """Console messages, log entries and exceptions since `open`."""
        methods = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [json.dumps(event) for event in self.events if event.get("method") in methods]

    def requests(self) -> list[str]:
        """Addresses that were asked for since `open`, blocked ones too."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            block = os.read(self.read, 1 << 16)
            assert block, "chromium ended"
            self.buffer += block
        message, _, self.buffer = self.buffer.partition(b"\0")
        reply: dict[str, Any] = json.loads(message)
        if "method" in reply:
            self.events.append(reply)
        return reply


def _pipe() -> tuple[int, int]:
    """Two ends above 9: the browser's own are 3 and 4, which must not be overwritten first."""
    low = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return read, write


@contextmanager
def browser() -> Iterator[Tab]:
    """A browser with one tab; it ends with the block."""
    assert BINARY is not None
    to_read, to_write = _pipe()
    from_read, from_write = _pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}',
                BINARY,
                *_OPTIONS,
                f"--user-data-dir={profile}",
            ],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            yield Tab(to_write, from_read)
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)
            os.close(to_write)
            os.close(from_read)
