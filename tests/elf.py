"""What a 64-bit little-endian ELF file asks of the device: machine, libraries, glibc version."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

MACHINES = {62: "x86_64", 183: "aarch64"}
_DYNAMIC, _VERNEED = 6, 0x6FFFFFFE
_DT_NEEDED = 1


@dataclass(frozen=True)
class Needs:
    machine: str
    libraries: frozenset[str]
    glibc: tuple[int, ...]
    """The newest version that a symbol is bound to."""


def read_needs(path: Path) -> Needs:
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", f"{path}: not a 64-bit little-endian ELF file"
    (machine,) = struct.unpack_from("<H", data, 18)
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    # type, offset, bytes, index of the linked section
    sections = [
        (kind, offset, length, link)
        for _, kind, _, _, offset, length, link, _, _, _ in (
            struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)
        )
    ]

    def text(section: int, at: int) -> str:
        begin = sections[section][1] + at
        return data[begin : data.index(b"\0", begin)].decode()

    libraries, versions = set(), set()
    for kind, offset, length, link in sections:
        if kind == _DYNAMIC:
            for at in range(offset, offset + length, 16):
                tag, value = struct.unpack_from("<QQ", data, at)
                if tag == _DT_NEEDED:
                    libraries.add(text(link, value))
        if kind == _VERNEED:
            versions |= {text(link, name) for name in _version_names(data, offset)}
    found = [re.fullmatch(r"GLIBC_([0-9.]+)", name) for name in versions]
    numbers = [tuple(int(n) for n in match[1].split(".")) for match in found if match]
    return Needs(MACHINES.get(machine, str(machine)), frozenset(libraries), max(numbers))


def _version_names(data: bytes, at: int) -> list[int]:
    """Offsets of the version names in the string table: a list of files, each with a list."""
    names = []
    while True:
        _, count, _, first, following = struct.unpack_from("<HHIII", data, at)
        entry = at + first
        for _ in range(count):
            _, _, _, name, step = struct.unpack_from("<IHHII", data, entry)
            names.append(name)
            entry += step
        if following == 0:
            return names
        at += following
