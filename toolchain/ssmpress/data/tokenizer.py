"""Texts to int32 tokens, by a tokenizer.json.

Nothing is normalised on the way: line endings, a byte order mark and the text of special tokens
reach the tokenizer as they stand in the file. No special token is added: perplexity is measured
on the text alone, and a beginning- or end-of-text token per chunk would change it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.data import tokenizer_bounds
from ssmpress.data.regular_file import cause, regular_file
from ssmpress.data.tokenizer_process import parts_of, reraise_unless_tokenizers, working
from ssmpress.errors import BadInputError
from ssmpress.strict_json import parse_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokens = NDArray[np.int32]

TOKENIZER_LIMIT = tokenizer_bounds.BYTES

_PIECE = 1 << 14  # characters encoded at a time: 0.2 s for 1.2 MB where the whole takes 0.6 s

_BATCH = 64  # pieces per call: bounds the memory that the encodings take


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
    path = regular_file(Path(path), "a tokenizer.json")
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
        reraise_unless_tokenizers(error)
        raise BadInputError(
            f"{path}: expected a tokenizer.json of the tokenizers library; got: {cause(error)}. "
            "Take the one that was published with the checkpoint."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = None
    return tokenizer


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
    batches = list(encode_blocks([text], tokenizer, vocab_size))
    return np.concatenate(batches) if batches else np.zeros(0, np.int32)


def encode_each(tokenizer: Tokenizer, texts: Sequence[str], *, vocab_size: int) -> list[Tokens]:
    """Encode texts one by one, without adding special tokens.

    Returns:
        int32 (n,) per text, n >= 1.

    Raises:
        BadInputError: as encode; or a text has no token.
    """
    encoded: list[Tokens] = []
    with working(tokenizer) as work:
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            for text in _checked(work("encode", batch), tokenizer, vocab_size):
                if not len(text):
                    raise BadInputError(
                        f"text {len(encoded) + 1}: expected at least one token; got none."
                    )
                encoded.append(text)
    return encoded


def encode_blocks(blocks: Iterable[str], tokenizer: Tokenizer, vocab_size: int) -> Iterator[Tokens]:
    """Token arrays whose concatenation is the encoding of the joined blocks."""
    parts = parts_of(tokenizer)
    pieces = _pieces(blocks) if _cuts_are_exact(parts) else iter(["".join(blocks)])
    batch: list[str] = []
    size = 1  # grows, so that a small limit does little work
    with working(tokenizer, parts) as work:
        for piece in pieces:
            batch.append(piece)
            if len(batch) >= size:
                yield np.concatenate(_checked(work("encode", batch), tokenizer, vocab_size))
                batch, size = [], min(2 * size, _BATCH)
        if batch:
            yield np.concatenate(_checked(work("encode", batch), tokenizer, vocab_size))


def decode_each(tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> list[str]:
    """The text of each row of tokens, with its special tokens.

    Raises:
        BadInputError: the tokenizer fails.
    """
    with working(tokenizer) as work:
        return work("decode", list(rows))


def _checked(found: list[list[int]], tokenizer: Tokenizer, vocab_size: int) -> list[Tokens]:
    parts = [np.asarray(ids, np.int64) for ids in found]
    highest = max((int(part.max()) for part in parts if part.size), default=-1)
    if highest >= vocab_size:
        raise BadInputError(
            f"the tokenizer has {tokenizer.get_vocab_size():,} tokens, the model's embedding "
            f"{vocab_size:,} rows, and the text uses token {highest}. "
            "Use the tokenizer.json the model was trained with."
        )
    return [part.astype(np.int32) for part in parts]


def cuts_are_exact(tokenizer: Tokenizer) -> bool:
    """Whether encoding pieces cut by _pieces gives the same tokens as encoding the whole.

    True for BPE over GPT-2's byte-level split: it never joins a newline with a non-space before
    it, merges stay inside its words, and NFC composes nothing across a newline.
    """
    return _cuts_are_exact(parts_of(tokenizer))


def _cuts_are_exact(parts: Mapping[str, Any]) -> bool:
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
