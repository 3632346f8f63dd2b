"""Text files, plain, xz or gzip, to text. The standard library only, so it runs on a device.

Nothing is normalised on the way: line endings and a byte order mark stay as they stand in the file.
"""

from __future__ import annotations

import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from ssmpress.data.regular_file import GZIP, XZ, cause, first_bytes, regular_file
from ssmpress.errors import BadInputError

TEXT_LIMIT = 4 << 30
"""Bytes a text may have after decompression: a few kB of xz can hold terabytes."""

_READ = 1 << 20  # bytes read at a time


def _open_text(path: Path) -> IO[bytes]:
    magic = first_bytes(path)
    if magic == XZ:
        return cast(IO[bytes], lzma.open(path, "rb"))
    if magic[:2] == GZIP:
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _byte_blocks(path: Path) -> Iterator[bytes]:
    """The decompressed bytes, a block at a time, at most TEXT_LIMIT of them."""
    total = 0
    try:
        with _open_text(regular_file(path, "a text file (plain, .xz or .gz)")) as file:
            while block := file.read(_READ):
                total += len(block)
                if total > TEXT_LIMIT:
                    raise BadInputError(
                        f"{path}: expected at most {TEXT_LIMIT:,} bytes of text; got more after "
                        "decompression. Split the file, or check where it comes from."
                    )
                yield block
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise BadInputError(
            f"{path}: cannot be read as text: {cause(error)}. The file is damaged or cut short; "
            "get it again."
        ) from error


def text_blocks(path: Path) -> Iterator[str]:
    """The text, a block at a time, decoded as strict UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    position = 0  # bytes given to the decoder before this block
    for block in _with_end(_byte_blocks(path)):
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(block or b"", final=block is None)
        except UnicodeDecodeError as error:
            offset = position - pending + error.start
            value = error.object[error.start]
            raise BadInputError(
                f"{path}: expected UTF-8 text; byte 0x{value:02x} at offset {offset} is not "
                f"({error.reason}). Convert it, e.g. with iconv -t UTF-8."
            ) from error
        position += len(block or b"")


def _with_end(blocks: Iterable[bytes]) -> Iterator[bytes | None]:
    yield from blocks
    yield None


def read_text(path: Path) -> str:
    """Read a whole text file: plain, xz or gzip, told apart by their first bytes.

    Args:
        path: a regular file of UTF-8 text, at most TEXT_LIMIT bytes after decompression.

    Returns:
        The text, unchanged: no newline translation, a byte order mark is kept.

    Raises:
        BadInputError: the file is missing, damaged, too large, or not UTF-8 (the message names
            the offset of the first bad byte in the decompressed text).
    """
    return "".join(text_blocks(Path(path)))
