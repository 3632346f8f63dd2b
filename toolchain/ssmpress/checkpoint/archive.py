"""torch.save's archives: checked entry by entry, then read by torch's weights-only loader.

What that loader refuses for a class it does not know is read by `pickle_values`, which imports and
calls nothing; the tensors are then `StoredTensor`s, which are read from the file when asked for.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssmpress.checkpoint import foreign
from ssmpress.checkpoint.pickle_check import UnfitPickleError, check_pickle
from ssmpress.checkpoint.pickle_values import StoredTensor, names_beyond_torch, read_pickle
from ssmpress.errors import BadInputError

SAVE_AGAIN = (
    "Load it where it comes from and save the weights only: "
    "torch.save(model.state_dict(), 'weights.pt')."
)
_PICKLE_LIMIT = 64 << 20  # bytes of data.pkl, which names the tensors
_ENTRY_LIMIT = 1 << 17  # entries of an archive, one per tensor


class Archive:
    """The records of a checked archive, each read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = zipfile.ZipFile(path)
        self.entries = {_record(entry.filename): entry for entry in self.file.infolist()}
        self.bytes: dict[str, Tensor] = {}

    def text(self, record: str) -> str:
        """A small record as ASCII; empty where there is none."""
        entry = self.entries.get(record)
        return self.file.read(entry).decode("ascii", "replace") if entry else ""

    def pickle(self) -> bytes:
        """data.pkl, which says what the records are."""
        return self.file.read(self.entries["data.pkl"])

    def elements(self, tensor: StoredTensor) -> Tensor:
        """The record that a tensor is a view of, (elements,), of the tensor's type.

        Raises:
            BadInputError: there is no such record, or it is shorter.
        """
        record = f"data/{tensor.record}"
        if record not in self.bytes and record in self.entries:
            content = bytearray(self.file.read(self.entries[record]))
            empty = torch.empty(0, dtype=torch.uint8)
            self.bytes[record] = torch.frombuffer(content, dtype=torch.uint8) if content else empty
        found = self.bytes.get(record)
        expected = tensor.elements * tensor.dtype.itemsize
        if found is None or len(found) < expected:
            got = "no such record" if found is None else f"{len(found):,}"
            raise BadInputError(
                f"{self.path}: {record}: expected {expected:,} bytes; got {got}. The file is "
                "damaged; copy or download it again."
            )
        return found[:expected].view(tensor.dtype)


def read_archive(path: Path) -> Any:
    """What was saved: tensors in dicts, and stand-ins for objects of other classes.

    Raises:
        BadInputError: it is damaged, or made to do harm.
    """
    beyond = _check(path, contents=True)
    if beyond:
        return _read_values(path)
    try:  # no mmap: with it torch reads past a record that is shorter than its tensor
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if re.search(r"GLOBAL [\w.]+", str(error)):
            return _read_values(path)
        reason = re.split(r"\. |\n", str(error))[0].rstrip(".")[:200] or type(error).__name__
        raise BadInputError(
            f"{path}: expected a torch.save archive of tensors; got: {reason}. {SAVE_AGAIN}"
        ) from error


def read_archive_shapes(path: Path) -> Any:
    """`read_archive` without the values: every tensor is a `StoredTensor`."""
    _check(path, contents=False)
    return _read_values(path)


def _read_values(path: Path) -> Any:
    archive = Archive(path)
    if archive.text("byteorder") not in ("", sys.byteorder):
        raise BadInputError(
            f"{path}: expected {sys.byteorder}-endian values; got {archive.text('byteorder')[:9]}. "
            f"{SAVE_AGAIN}"
        )
    try:
        return read_pickle(archive.pickle(), archive)
    except UnfitPickleError as error:
        raise _unfit(path, error) from error


def _check(path: Path, *, contents: bool) -> bool:
    """Check every entry before anything is unpickled: stored plainly, in the file, intact.

    Args:
        contents: compare the checksums of the tensors too.

    Returns:
        Whether the pickle is none for torch: it names other classes than torch's own.
    """
    beyond = False
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            records = [_record(entry.filename) for entry in entries]
            foreign.check_zip(path, records)
            if problem := _problem(entries, records, path.stat().st_size):
                raise BadInputError(f"{path}: {problem}. {SAVE_AGAIN}")
            for entry, record in zip(entries, records, strict=True):
                if record == "data.pkl":
                    content = archive.read(entry)
                    beyond = names_beyond_torch(content)
                    if not beyond:
                        check_pickle(content)
                elif contents and entry.CRC:  # torch can be told to leave the checksums out
                    with archive.open(entry) as file:
                        while file.read(1 << 20):
                            pass
    except BadInputError:
        raise
    except UnfitPickleError as error:
        raise _unfit(path, error) from error
    except Exception as error:  # zipfile raises a dozen kinds on damaged input
        raise BadInputError(
            f"{path}: expected a torch.save archive; it is damaged or cut short: "
            f"{str(error).rstrip('.')}. Copy or download it again."
        ) from error
    return beyond


def _unfit(path: Path, error: UnfitPickleError) -> BadInputError:
    return BadInputError(
        f"{path}: expected a state dict (name -> tensor); got {error}. {SAVE_AGAIN}"
    )


def _record(filename: str) -> str:
    """Name of an entry within the folder that the archive has for all of them."""
    return filename.split("/", 1)[-1]


def _problem(entries: list[zipfile.ZipInfo], records: list[str], size: int) -> str | None:
    if "data.pkl" not in records:
        return "expected a torch.save archive; got a zip file without data.pkl"
    if len(entries) > _ENTRY_LIMIT:
        return f"expected at most {_ENTRY_LIMIT} entries; got {len(entries)}"
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        return "expected a torch.save archive, which is not compressed; got a compressed one"
    # torch takes such an entry for a folder, reads nothing and leaves the tensor uninitialised
    if any(entry.external_attr & 0x10 or entry.is_dir() for entry in entries):
        return "expected a torch.save archive; got one with an entry marked as a folder"
    if sum(entry.file_size for entry in entries) > size:
        return f"its entries claim more bytes than the file's {size:,}; it is damaged"
    pickles = (e for e, record in zip(entries, records, strict=True) if record == "data.pkl")
    if any(entry.file_size > _PICKLE_LIMIT for entry in pickles):
        return f"expected a data.pkl of at most {_PICKLE_LIMIT:,} bytes"
    return None
