"""`--device`: where a bundle is validated and measured, as text and taken apart.

qemu[:CPU]                      emulated here, under user-mode QEMU
ssh://[user@]host[:port][/path] a machine that the user's own ssh reaches
adb:SERIAL                      an Android device that adb reaches
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ssmpress.errors import UsageError

QEMU, SSH, ADB = "qemu", "ssh", "adb"
DEFAULT_CPU = "cortex-a76"
CPUS = ("cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1", "max")
"""Processors that QEMU emulates and that this project is tested with: from no dot product (a53,
a72) through asimddp (a76, n1) to i8mm and SVE (max)."""

_FORMS = "qemu[:CPU], ssh://[user@]host[:port][/path] or adb:SERIAL"
# No name may start with "-": ssh, scp and adb would read it as an option.
_SSH = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][\w.-]*|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\])"
    r"(?::(?P<port>\d{1,5}))?(?P<path>/[\w./-]*)?"
)
_ADB = re.compile(r"adb:(?P<serial>[A-Za-z0-9][\w.:-]*)")


@dataclass(frozen=True)
class DeviceAddress:
    """One `--device`. text: as given. kind: qemu, ssh or adb.

    cpu: of qemu. user, host, port: of ssh; None leaves it to the user's ssh configuration.
    path: folder on the device that is kept between runs; None is a temporary one. serial: of adb.
    """

    text: str
    kind: str
    cpu: str = ""
    user: str | None = None
    host: str = ""
    port: int | None = None
    path: str | None = None
    serial: str = ""

    @property
    def emulated(self) -> bool:
        """Its wall time is no latency."""
        return self.kind == QEMU


def parse_device(text: str) -> DeviceAddress:
    """Take a `--device` apart.

    Raises:
        UsageError: none of the forms, or a processor, port or path that cannot be.
    """
    if text == QEMU or text.startswith(f"{QEMU}:"):
        cpu = text.partition(":")[2] or DEFAULT_CPU
        if cpu not in CPUS:
            raise UsageError(f"--device {text}: expected a CPU of {', '.join(CPUS)}; got {cpu!r}.")
        return DeviceAddress(text, QEMU, cpu=cpu)
    if match := _ADB.fullmatch(text):
        return DeviceAddress(text, ADB, serial=match["serial"])
    match = _SSH.fullmatch(text)
    if match is None:
        raise UsageError(f"--device: expected {_FORMS}; got {text!r}.")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"--device {text}: expected a port from 1 to 65535; got {port}.")
    path = match["path"] if match["path"] not in (None, "/") else None
    if path is not None and ".." in path.split("/"):
        raise UsageError(f"--device {text}: expected a path without ..; got {path!r}.")
    return DeviceAddress(
        text, SSH, user=match["user"], host=match["host"].strip("[]"), port=port, path=path
    )
