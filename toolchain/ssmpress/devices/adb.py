"""A link to a device over adb. Untested: see docs/devices.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssmpress.devices.remote import Link
from ssmpress.recipe.address import DeviceAddress


@contextmanager
def open_adb(address: DeviceAddress) -> Iterator[Link]:
    """The server that adb starts stays, as it does for every use of adb."""
    adb = ("adb", "-s", address.serial)

    def copy(path: Path, to: str) -> list[str]:
        return [*adb, "push", str(path), f"{to}/"]

    yield Link(address.text, (*adb, "shell", "-T"), copy)
