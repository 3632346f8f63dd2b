"""Arrays of a .npz file, read only where their sizes are true and bounded.

NumPy makes an array as large as its header says before it reads a byte: 200 bytes can claim
terabytes.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from ssmpress.data.text import TEXT_LIMIT

_HEADER = 10_000  # bytes, NumPy's own bound: more would be evaluated for too long


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays of these names that the file has.

    Raises:
        ValueError: an array claims more bytes than its entry has, or all together have more than
            TEXT_LIMIT; says which.
        Exception: the file is no .npz, or damaged: whatever NumPy and zipfile raise.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        there = set(archive.namelist())
        entries = {n: archive.getinfo(f"{n}.npy") for n in names if f"{n}.npy" in there}
        total = sum(entry.file_size for entry in entries.values())
        if total > TEXT_LIMIT:
            raise ValueError(f"arrays of {total:,} bytes, of which at most {TEXT_LIMIT:,} are read")
        for name, entry in entries.items():
            with archive.open(entry) as file:
                _check_header(file, name, entry.file_size)
            with archive.open(entry) as file:
                arrays[name] = npy.read_array(file, allow_pickle=False)
    return arrays


def _check_header(file: IO[bytes], name: str, size: int) -> None:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file, max_header_size=_HEADER)
    if (claimed := math.prod(shape) * dtype.itemsize) > size - file.tell():
        raise ValueError(f"{name}: {dtype} {shape}, {claimed:,} bytes in an entry of {size:,}")
