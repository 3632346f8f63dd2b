"""A link to a device over the user's own ssh and scp, with their configuration, keys and agent."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssmpress.devices.remote import Link, last_line
from ssmpress.errors import DeviceError
from ssmpress.folders import temporary
from ssmpress.measure.bounded import Tail
from ssmpress.measure.worker import die_with_parent
from ssmpress.recipe.address import DeviceAddress

CONNECT_S = 10
LOGIN_S = 60.0
"""Seconds for the connection, and for the whole login with slow keys and a slow device."""

ALIVE_S, ALIVE_COUNT = 5, 6
"""A connection that is silent for 30 seconds is lost."""

_SHARED_ONLY = ("-o", "ProxyCommand=false")
"""For all but the first: when the shared connection is gone, ssh would silently make another one,
and bring back on the device what was removed when it went."""


@contextmanager
def open_ssh(address: DeviceAddress) -> Iterator[Link]:
    """One connection that all commands share, closed when the block or this process ends.

    ssh never asks (BatchMode): a password or an unknown host key is an error.

    Raises:
        DeviceError: no connection; ssh's own reason.
    """
    with temporary() as folder:
        socket = folder / "link"
        options, host = _options(socket), _host(address)
        port = [] if address.port is None else [str(address.port)]
        ports, copy_ports = (["-p", *port], ["-P", *port]) if port else ([], [])
        copy_to = f"{_user(address)}[{address.host}]" if ":" in address.host else host

        def copy(path: Path, to: str) -> list[str]:
            words = [*options, *_SHARED_ONLY, *copy_ports, str(path), f"{copy_to}:{to}/"]
            return ["scp", "-q", "-B", *words]

        with _master(address, ["ssh", "-M", "-N", "-T", *options, *ports, host], socket):
            shell = ("ssh", "-T", *options, *_SHARED_ONLY, *ports, host)
            yield Link(address.text, shell, copy)


@contextmanager
def _master(address: DeviceAddress, command: list[str], socket: Path) -> Iterator[None]:
    """The process that holds the connection. Others use it through its socket."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
    except FileNotFoundError as error:
        raise DeviceError(
            f"{address.text}: expected ssh on PATH; there is none. Install OpenSSH's client."
        ) from error
    log = Tail(process)
    try:
        end = time.monotonic() + LOGIN_S
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                why = last_line(log.text()) or f"no login within {LOGIN_S:.0f} seconds"
                raise DeviceError(
                    f"{address.text}: ssh could not connect: {why}. Try ssh alone: it must "
                    "log in without asking for anything."
                )
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _user(address: DeviceAddress) -> str:
    return "" if address.user is None else f"{address.user}@"


def _host(address: DeviceAddress) -> str:
    return _user(address) + address.host


def _options(socket: Path) -> tuple[str, ...]:
    settings = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_S,
        "ServerAliveInterval": ALIVE_S,
        "ServerAliveCountMax": ALIVE_COUNT,
        "ControlPath": socket,
        "ControlPersist": "no",
    }
    return tuple(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))
