"""A checkpoint by its sizes alone: of one that is too large to be read for a plan."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ssmpress.checkpoint.foreign import WEIGHT_SUFFIXES
from ssmpress.checkpoint.read import Checkpoint, read_config
from ssmpress.checkpoint.weight_files import folders_of
from ssmpress.data.tokenizer_files import find_tokenizer


def weight_bytes(path: Path) -> int:
    """Bytes of a checkpoint's weight files, without opening them; 0 where there are none.

    Of a folder that has its weights in several formats, those of the largest.
    """
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else 0
    sizes: Counter[str] = Counter()
    for file in path.iterdir():
        if file.suffix in WEIGHT_SUFFIXES and file.is_file():
            sizes[file.suffix] += file.stat().st_size
    return max(sizes.values(), default=0)


def read_sizes(path: Path, weights_of: str | None = None) -> Checkpoint:
    """A checkpoint without tensors: its configuration, and its tokenizer.

    Args:
        weights_of: which of several models in one file.

    Raises:
        BadInputError: as `read_checkpoint`, but what only the tensors could show.
    """
    config, notes = read_config(path, weights_of)
    return Checkpoint(
        config=config,
        tensors={},
        layout="",
        files=(),
        input_bytes=weight_bytes(path),
        sha256={},
        tokenizer=find_tokenizer(folders_of(path)),
        notes=notes,
    )
