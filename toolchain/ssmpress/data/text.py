"""Text and token arrays: files -> int32 tokens -> windows. NumPy only, so it runs on a device.

Nothing is normalised on the way: line endings, a byte order mark and the text of special tokens
reach the tokenizer as they stand in the file. No special token is added: perplexity is measured
on the text alone, and a beginning- or end-of-text token per chunk would change it.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import lzma
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ssmpress.data import tokenizer_bounds
from ssmpress.errors import BadInputError, UsageError
from ssmpress.strict_json import parse_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokens = NDArray[np.int32]

DEFAULT_TEXT = "pydoc_data.topics"
"""The module of the default text: the language manual's topics, part of every CPython."""

TEXT_LIMIT = 4 << 30
"""Bytes a text may have after decompression: a few kB of xz can hold terabytes."""

TOKENIZER_LIMIT = tokenizer_bounds.BYTES

_EVALUATION_PERCENT = 20
_READ = 1 << 20  # bytes read at a time
_PIECE = 1 << 14  # characters encoded at a time: 0.2 s for 1.2 MB where the whole takes 0.6 s
_BATCH = 64  # pieces per call: bounds the memory that the encodings take
_XZ, _GZ, _NPY = b"\xfd7zXZ\x00", b"\x1f\x8b", b"\x93NUMPY"


def _reason(error: BaseException) -> str:
    """What went wrong, as the middle of a sentence."""
    return str(error).rstrip(". \n") or type(error).__name__


def _regular_file(path: Path, what: str) -> Path:
    """The path, if it is a file that can be read from start to end: no folder, pipe or device."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or _reason(error)
        raise BadInputError(f"{path}: expected {what}; got: {reason}. Check the path.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "something that is not a regular file"
        raise BadInputError(f"{path}: expected {what}; got {kind}. Give the file itself.")
    return path


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(6)
    except OSError as error:
        raise BadInputError(
            f"{path}: cannot be read: {error.strerror}. Check its permissions."
        ) from error


def _open_text(path: Path) -> IO[bytes]:
    magic = _magic(path)
    if magic == _XZ:
        return cast(IO[bytes], lzma.open(path, "rb"))
    if magic[:2] == _GZ:
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _byte_blocks(path: Path) -> Iterator[bytes]:
    """The decompressed bytes, a block at a time, at most TEXT_LIMIT of them."""
    total = 0
    try:
        with _open_text(_regular_file(path, "a text file (plain, .xz or .gz)")) as file:
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
            f"{path}: cannot be read as text: {_reason(error)}. The file is damaged or cut short; "
            "get it again."
        ) from error


def _text_blocks(path: Path) -> Iterator[str]:
    """The text, a block at a time, decoded as strict UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    seen = 0  # bytes given to the decoder before this block
    for block in _with_end(_byte_blocks(path)):
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(block or b"", final=block is None)
        except UnicodeDecodeError as error:
            offset = seen - pending + error.start
            value = error.object[error.start]
            raise BadInputError(
                f"{path}: expected UTF-8 text; byte 0x{value:02x} at offset {offset} is not "
                f"({error.reason}). Convert it, e.g. with iconv -t UTF-8."
            ) from error
        seen += len(block or b"")


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
    return "".join(_text_blocks(Path(path)))


def default_text() -> tuple[str, str]:
    """The text used when none is given, as a calibration and an evaluation part.

    It is the language manual that comes with every CPython (`pydoc_data.topics`), about 370,000
    characters. Topics quote one another, so a paragraph is kept only where it first appears, in
    the order of the topics' names; the parts then share no paragraph. Topics go to the parts by
    the SHA-256 of their names, 20 % of the characters to evaluation. The text, and so any number
    measured on it, belongs to one version of Python.

    Returns:
        (calibration, evaluation): topics sorted by name, joined by an empty line.
    """
    topics = cast(dict[str, str], import_module(DEFAULT_TEXT).topics)
    unique = _without_repeats(topics)
    budget = sum(map(len, unique.values())) * _EVALUATION_PERCENT // 100
    chosen: set[str] = set()
    for name in sorted(unique, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(unique[name]) <= budget:
            chosen.add(name)
            budget -= len(unique[name])
    names = sorted(unique)
    calibration = "\n\n".join(unique[name] for name in names if name not in chosen)
    evaluation = "\n\n".join(unique[name] for name in names if name in chosen)
    return calibration, evaluation


def _without_repeats(topics: dict[str, str]) -> dict[str, str]:
    """Topic name -> text, less the paragraphs (whitespace aside) that an earlier topic has."""
    seen: set[str] = set()
    result: dict[str, str] = {}
    for name in sorted(topics):
        kept = []
        for paragraph in topics[name].split("\n\n"):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                kept.append(paragraph)
        if kept:
            result[name] = "\n\n".join(kept)
    return result


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json (Hugging Face tokenizers): truncation, padding and template are off.

    A template puts special tokens around a text; here a text is encoded without them, and one
    that leaves the text itself out would leave no token.

    Args:
        path: the file, at most TOKENIZER_LIMIT bytes.

    Raises:
        BadInputError: the file is missing, too large, not a tokenizer, or claims what exhausts
            memory or time: see `tokenizer_bounds`.
    """
    path = _regular_file(Path(path), "a tokenizer.json")
    size = path.stat().st_size
    if size > TOKENIZER_LIMIT:
        raise BadInputError(
            f"{path}: expected a tokenizer.json of at most {TOKENIZER_LIMIT:,} bytes; "
            f"got {size:,}. Check that it is the right file."
        )
    from tokenizers import Tokenizer

    content = path.read_bytes()
    try:
        if problem := tokenizer_bounds.problem_of(parse_json(content, foreign=True)):
            raise BadInputError(f"{path}: expected {problem}. The file is damaged or hostile.")
        tokenizer = Tokenizer.from_buffer(content)
    except BadInputError:
        raise
    except BaseException as error:
        _reraise_unless_tokenizers(error)
        raise BadInputError(
            f"{path}: expected a tokenizer.json of the tokenizers library; got: {_reason(error)}. "
            "Take the one that was published with the checkpoint."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = None
    return tokenizer


def _reraise_unless_tokenizers(error: BaseException) -> None:
    """The library raises bare Exception, and PanicException, which is not even one."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def encode(tokenizer: Tokenizer, text: str, *, vocab_size: int) -> Tokens:
    """Encode a text as one sequence, without adding special tokens.

    `<|endoftext|>` and the like become their ids where the text itself has them. The result
    always equals `tokenizer.encode(text, add_special_tokens=False).ids`; for byte-level BPE the
    text is cut where that is provably so, which is three times as fast.

    Args:
        tokenizer: from load_tokenizer.
        text: any length.
        vocab_size: rows of the model's embedding.

    Returns:
        int32 (n,), each 0 <= id < vocab_size.

    Raises:
        BadInputError: an id has no row in the embedding, or the tokenizer fails.
    """
    batches = list(_encoded([text], tokenizer, vocab_size))
    return np.concatenate(batches) if batches else np.zeros(0, np.int32)


def encode_each(tokenizer: Tokenizer, texts: Sequence[str], *, vocab_size: int) -> list[Tokens]:
    """Encode texts one by one, without adding special tokens.

    Returns:
        int32 (n,) per text, n >= 1.

    Raises:
        BadInputError: as encode; or a text has no token.
    """
    found: list[Tokens] = []
    for start in range(0, len(texts), _BATCH):
        for text in _encodings(tokenizer, list(texts[start : start + _BATCH]), vocab_size):
            if not len(text):
                raise BadInputError(
                    f"text {len(found) + 1}: expected at least one token; got none."
                )
            found.append(text)
    return found


def _encoded(blocks: Iterable[str], tokenizer: Tokenizer, vocab_size: int) -> Iterator[Tokens]:
    """Token arrays whose concatenation is the encoding of the joined blocks."""
    pieces = _pieces(blocks) if _cuts_are_exact(tokenizer) else iter(["".join(blocks)])
    batch: list[str] = []
    size = 1  # grows, so that a small limit does little work
    for piece in pieces:
        batch.append(piece)
        if len(batch) >= size:
            yield _encode_batch(tokenizer, batch, vocab_size)
            batch, size = [], min(2 * size, _BATCH)
    if batch:
        yield _encode_batch(tokenizer, batch, vocab_size)


def _encode_batch(tokenizer: Tokenizer, batch: list[str], vocab_size: int) -> Tokens:
    return np.concatenate(_encodings(tokenizer, batch, vocab_size))


def _encodings(tokenizer: Tokenizer, batch: list[str], vocab_size: int) -> list[Tokens]:
    try:
        encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
    except BaseException as error:
        _reraise_unless_tokenizers(error)
        raise BadInputError(
            f"the tokenizer cannot encode the text: {_reason(error)}. Check tokenizer.json."
        ) from error
    parts = [np.asarray(one.ids, np.int64) for one in encodings]
    highest = max((int(part.max()) for part in parts if part.size), default=-1)
    if highest >= vocab_size:
        raise BadInputError(
            f"the tokenizer has {tokenizer.get_vocab_size():,} tokens, the model's embedding "
            f"{vocab_size:,} rows, and the text uses token {highest}. "
            "Use the tokenizer.json the model was trained with."
        )
    return [part.astype(np.int32) for part in parts]


def _cuts_are_exact(tokenizer: Tokenizer) -> bool:
    """Whether encoding pieces cut by _pieces gives the same tokens as encoding the whole.

    True for BPE over GPT-2's byte-level split: it never joins a newline with a non-space before
    it, merges stay inside its words, and NFC composes nothing across a newline.
    """
    parts = cast(dict[str, Any], json.loads(tokenizer.to_str()))
    split, model = parts["pre_tokenizer"] or {}, parts["model"] or {}
    return (
        split.get("type") == "ByteLevel"
        and split.get("use_regex", True) is True
        and split.get("add_prefix_space") is False
        and (parts["normalizer"] or {"type": "NFC"})["type"] == "NFC"
        and model.get("type") == "BPE"
        and not model.get("dropout")
        and not any(
            added["lstrip"] or added["rstrip"] or "\n" in added["content"]
            for added in parts["added_tokens"]
        )
    )


def _pieces(blocks: Iterable[str]) -> Iterator[str]:
    """Cut a text, about _PIECE characters each, before a newline that follows a non-space."""
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while (end := _cut(rest, start + _PIECE)) > 0:
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def _cut(text: str, at: int) -> int:
    """The first position from `at` on that is a newline after a non-space, or -1."""
    at = text.find("\n", at)
    while at > 0 and text[at - 1].isspace():
        at = text.find("\n", at + 1)
    return at


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
    _regular_file(path, "a text file or a .npy array of token ids")
    if _magic(path) == _NPY:
        yield _load_npy(path, vocab_size, limit)
        return
    try:
        yield from _encoded(_text_blocks(path), tokenizer, vocab_size)
    except BadInputError as error:
        text = str(error)
        raise BadInputError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def _load_npy(path: Path, vocab_size: int, limit: int | None) -> Tokens:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise BadInputError(
            f"{path}: expected a .npy array of integers; got: {_reason(error)}. "
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


def windows(tokens: Tokens, length: int) -> Tokens:
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
