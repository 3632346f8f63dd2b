"""Which function of an ELF file lies at an offset: its symbol table, read with checked bounds.

Bundles get a stripped library; the package keeps the same code with its symbol table beside it.
"""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass
from pathlib import Path

from ssmpress.errors import BadInputError

_SECTION = struct.Struct("<IIQQQQIIQQ")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMTAB, _LOAD, _FUNCTION, _EXECUTE = 2, 1, 2, 1
_FILE_LIMIT = 1 << 28


@dataclass(frozen=True)
class Functions:
    """Functions by file offset. starts: ascending; names and ends belong to the same positions."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    names: tuple[str, ...]

    def at(self, offset: int) -> str | None:
        """The function that covers an offset of the file."""
        position = bisect.bisect_right(self.starts, offset) - 1
        if position < 0 or offset >= self.ends[position]:
            return None
        return self.names[position]


def read_functions(path: Path, symbols: Path) -> Functions:
    """The functions of a 64-bit little-endian ELF file.

    Args:
        symbols: a file of the same code that has the symbol table.

    Raises:
        BadInputError: they are no such files, of other code, or a table leads out of its file.
    """
    stripped, whole = _read(path), _read(symbols)
    try:
        if _code(stripped) != _code(whole):
            raise BadInputError(f"{symbols}: expected the same code as {path}; it differs.")
        return _functions(whole)
    except (struct.error, IndexError) as error:
        raise BadInputError(f"{symbols}: its symbol table leads out of the file.") from error


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise BadInputError(f"{path}: expected an ELF file; there is none.")
    if path.stat().st_size > _FILE_LIMIT:
        raise BadInputError(f"{path}: expected at most {_FILE_LIMIT:,} bytes.")
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise BadInputError(f"{path}: expected a 64-bit little-endian ELF file.")
    return data


def _segments(data: bytes) -> list[tuple[int, int, int, int]]:
    """(address, offset, bytes in the file, flags) of what is loaded."""
    (start,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    entries = [_PROGRAM.unpack_from(data, start + i * _PROGRAM.size) for i in range(count)]
    return [
        (address, offset, size, flags)
        for kind, flags, offset, address, _, size, _, _ in entries
        if kind == _LOAD
    ]


def _code(data: bytes) -> list[tuple[int, int, bytes]]:
    return [
        (address, offset, data[offset : offset + size])
        for address, offset, size, flags in _segments(data)
        if flags & _EXECUTE
    ]


def _functions(data: bytes) -> Functions:
    (section_at,) = struct.unpack_from("<Q", data, 40)
    (section_count,) = struct.unpack_from("<H", data, 60)
    segments = _segments(data)
    sections = [
        _SECTION.unpack_from(data, section_at + i * _SECTION.size) for i in range(section_count)
    ]
    functions = {}
    for _, kind, _, _, offset, size, link, *_ in sections:
        if kind != _SYMTAB:
            continue
        names = data[sections[link][4] : sections[link][4] + sections[link][5]]
        for at in range(offset, offset + size, _SYMBOL.size):
            name, info, _, _, address, length = _SYMBOL.unpack_from(data, at)
            start = _file_offset(segments, address)
            if info & 15 == _FUNCTION and length and start is not None:
                end = names.index(b"\0", name) if b"\0" in names[name:] else len(names)
                functions[start] = (start + length, names[name:end].decode("utf-8", "replace"))
    ordered = sorted(functions.items())
    return Functions(
        tuple(start for start, _ in ordered),
        tuple(end for _, (end, _) in ordered),
        tuple(name for _, (_, name) in ordered),
    )


def _file_offset(segments: list[tuple[int, int, int, int]], address: int) -> int | None:
    for start, offset, size, _ in segments:
        if start <= address < start + size:
            return address - start + offset
    return None
