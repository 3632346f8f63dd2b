"""Files to int32 tokens to windows. NumPy only, so it runs on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssmpress.data.regular_file import NPY, cause, first_bytes, regular_file
from ssmpress.data.text import text_blocks
from ssmpress.data.tokenizer import Tokens, encode_blocks
from ssmpress.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokens(
    paths: Sequence[Path], tokenizer: Tokenizer, vocab_size: int, limit: int | None = None
) -> Tokens:
    """Read files one after the other into one token sequence.

    A file is text (as for read_text) or a .npy array of token ids. Each file is encoded on its
    own and nothing is put between two files. With byte-level BPE only as much is read, unpacked
    and encoded as `limit` needs.

    Args:
        paths: the files, in order.
        tokenizer: from load_tokenizer.
        vocab_size: rows of the model's embedding.
        limit: tokens to return at most; None means all.

    Returns:
        int32 (n,), n <= limit, each 0 <= id < vocab_size.

    Raises:
        BadInputError: a file is missing, damaged, or has an id without a row; or no token at all.
        UsageError: limit < 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected at least 1 token; got {limit}.")
    parts: list[Tokens] = []
    have = 0
    for path in map(Path, paths):
        for tokens in _file_tokens(path, tokenizer, vocab_size, limit):
            parts.append(tokens)
            have += len(tokens)
            if limit is not None and have >= limit:
                return np.concatenate(parts)[:limit]
    if not have:
        names = ", ".join(map(str, paths)) or "no file"
        raise BadInputError(f"{names}: expected at least one token; got none. Give a longer text.")
    return np.concatenate(parts)


def _file_tokens(
    path: Path, tokenizer: Tokenizer, vocab_size: int, limit: int | None
) -> Iterator[Tokens]:
    regular_file(path, "a text file or a .npy array of token ids")
    if first_bytes(path) == NPY:
        yield _load_npy(path, vocab_size, limit)
        return
    try:
        yield from encode_blocks(text_blocks(path), tokenizer, vocab_size)
    except BadInputError as error:
        text = str(error)
        raise BadInputError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def _load_npy(path: Path, vocab_size: int, limit: int | None) -> Tokens:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise BadInputError(
            f"{path}: expected a .npy array of integers; got: {cause(error)}. "
            "Write it with numpy.save from an integer array."
        ) from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise BadInputError(
            f"{path}: expected a 1-D array of integer token ids; "
            f"got {array.dtype} {array.shape}. Flatten it and save the ids themselves."
        )
    highest = int(np.iinfo(array.dtype).max)
    if array.dtype.itemsize == 2 and highest < vocab_size - 1:
        raise BadInputError(
            f"{path}: expected integers that hold the model's tokens, 0 to {vocab_size - 1}; got "
            f"{array.dtype}, which ends at {highest}. Write the tokens as int32."
        )
    array = array[:limit]
    bad = (array < 0) | (array >= vocab_size)
    if bad.any():
        first = int(bad.argmax())
        raise BadInputError(
            f"{path}: expected token ids from 0 to {vocab_size - 1}; got {int(array[first])} at "
            f"index {first}. Encode the text with the model's own tokenizer."
        )
    return np.array(array, dtype=np.int32)


def cut_windows(tokens: Tokens, length: int) -> Tokens:
    """Cut tokens into consecutive windows that do not overlap; a shorter rest is left out.

    Args:
        tokens: int32 (n,).
        length: tokens per window, >= 1.

    Returns:
        int32 (n // length, length), at least one row.

    Raises:
        BadInputError: n < length.
        UsageError: length < 1.
    """
    check_window(tokens, length)
    count = len(tokens) // length
    return np.array(tokens[: count * length], np.int32).reshape(count, length)


def check_window(tokens: Tokens, length: int, name: str = "the text") -> None:
    """Whether there is at least one window. name: what the message calls the text.

    Raises:
        BadInputError: there is none.
        UsageError: length < 1.
    """
    if length < 1:
        raise UsageError(f"length: expected at least 1 token per window; got {length}.")
    if len(tokens) < length:
        raise BadInputError(
            f"{name} has {len(tokens):,} tokens, one window needs {length:,}. "
            "Give a longer text or a shorter window."
        )
