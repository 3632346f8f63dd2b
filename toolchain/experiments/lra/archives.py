"""Readers of the public files: IMDB reviews (Text), CIFAR-10 (Image), AAN pairs (Retrieval).

Image and Retrieval are read and tested on generated files of the same formats; no model of them was
trained here, since their archives were not at hand.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssmpress.data.labelled import read_labelled
from ssmpress.data.text import read_text
from ssmpress.errors import BadInputError

IMDB_CLASSES = ("negative", "positive")
CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
RETRIEVAL_CLASSES = ("unrelated", "related")
_PIXELS = 32 * 32
_RECORD = 1 + 3 * _PIXELS
_LUMA = np.array([0.2989, 0.5870, 0.1140])  # grey of red, green, blue, ITU-R 601
SEPARATOR = "\x00"
"""Between the two documents of a pair, which never have it themselves."""


def read_imdb(path: Path) -> Iterator[tuple[bytes, int]]:
    """(bytes, class) of a .jsonl of reviews with `text` and `label` 0 or 1, plain, .xz or .gz."""
    for line, text, label in read_labelled(Path(path)):
        if label not in ("0", "1"):
            raise BadInputError(f"{path}, line {line}: expected the label 0 or 1; got {label!r}.")
        yield text.encode(), int(label)


def read_cifar(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Grey images, uint8 (n, 1024), and classes (n,) of a file of CIFAR-10's binary version.

    A record is a byte of class, then 1024 bytes each of red, green and blue.
    """
    raw = np.frombuffer(Path(path).read_bytes(), np.uint8)
    if not raw.size or raw.size % _RECORD:
        raise BadInputError(
            f"{path}: expected records of {_RECORD} bytes (CIFAR-10, binary version); got "
            f"{raw.size:,} bytes. Use cifar-10-binary.tar.gz's .bin files."
        )
    records = raw.reshape(-1, _RECORD)
    labels = records[:, 0]
    if int(labels.max()) >= len(CIFAR_CLASSES):
        raise BadInputError(f"{path}: expected classes 0 to 9; got {int(labels.max())}.")
    colours = records[:, 1:].reshape(-1, 3, _PIXELS)
    grey = np.einsum("c,ncp->np", _LUMA, colours)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8), labels.copy()


def read_retrieval(path: Path, max_bytes: int = 4000) -> Iterator[tuple[bytes, int]]:
    """(bytes of both documents, class) of the AAN pairs, a .tsv of: label, two ids, two texts.

    Each document is cut to `max_bytes`; SEPARATOR stands between them.
    """
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    rows = csv.reader(io.StringIO(read_text(Path(path))), delimiter="\t", quoting=csv.QUOTE_NONE)
    for row in rows:
        if not row:
            continue
        if len(row) != 5 or row[0] not in ("0", "1", "0.0", "1.0"):
            raise BadInputError(
                f"{path}, line {rows.line_num}: expected label (0 or 1), two ids and two texts, "
                f"separated by tabs; got {len(row)} fields, the first {row[0][:20]!r}."
            )
        first, second = (text.encode()[:max_bytes] for text in row[3:])
        yield first + SEPARATOR.encode() + second, int(float(row[0]))
