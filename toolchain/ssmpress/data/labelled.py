"""Labelled texts: files -> tokens and classes. NumPy only, so it runs on a device."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssmpress.callbacks import Note, silent
from ssmpress.data.delimited import DELIMITERS, delimiter_of
from ssmpress.data.held_out import MIN_SAMPLES, PART, Split
from ssmpress.data.npz import read_arrays
from ssmpress.data.overlap import part_in
from ssmpress.data.text import read_text
from ssmpress.data.tokenizer import encode_each
from ssmpress.errors import BadInputError
from ssmpress.printable import amount
from ssmpress.strict_json import parse_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PLAIN = (".jsonl", ".tsv", ".csv")
_EXPECTED = "a .jsonl, .tsv or .csv file with the keys or columns `text` and `label`, or a .npz"


class Labels(Protocol):
    """What is read of a text: its class, one of `classes`, and its first `max_length` tokens."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def max_length(self) -> int: ...


@dataclass(frozen=True)
class LabelledTexts:
    """Texts as tokens, and their classes.

    tokens: integers (n,), all texts one after the other. starts: int64 (count + 1,), where each
    begins; the last is n. labels: int64 (count,), numbers of the classes.
    """

    tokens: NDArray[np.integer[Any]]
    starts: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def count(self) -> int:
        """The number of texts."""
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, int64 (count,)."""
        lengths: NDArray[np.int64] = np.diff(self.starts)
        return lengths

    def text(self, number: int) -> NDArray[np.int64]:
        """Tokens of one text, (l,)."""
        return self.tokens[self.starts[number] : self.starts[number + 1]].astype(np.int64)

    def hold_out(self, count: int, seed: int) -> Split[LabelledTexts, LabelledTexts] | None:
        """A random choice of texts, and the others; None where there are too few."""
        count = min(count, self.count // PART)
        if count < MIN_SAMPLES:
            return None
        chosen = np.zeros(self.count, bool)
        chosen[np.random.default_rng(seed).choice(self.count, count, replace=False)] = True
        return Split(self._subset(~chosen), self._subset(chosen), np.arange(count), count)

    def _subset(self, chosen: NDArray[np.bool_]) -> LabelledTexts:
        starts = np.concatenate([[0], np.cumsum(self.lengths[chosen])]).astype(np.int64)
        tokens = self.tokens[np.repeat(chosen, self.lengths)]
        return LabelledTexts(tokens, starts, self.labels[chosen])

    def arrays(
        self, numbers: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Tokens (b, l), padded with 0 at the end; labels (b,); lengths (b,)."""
        lengths = self.lengths[numbers]
        steps = np.arange(int(lengths.max()))
        inside = steps < lengths[:, None]
        places = np.where(inside, self.starts[:-1][numbers][:, None] + steps, 0)
        return (
            np.where(inside, self.tokens[places], 0).astype(np.int64),
            self.labels[numbers],
            lengths,
        )

    def head(self, count: int) -> LabelledTexts:
        """The first texts."""
        count = min(count, self.count)
        end = int(self.starts[count])
        return LabelledTexts(self.tokens[:end], self.starts[: count + 1], self.labels[:count])

    def keys(self) -> NDArray[np.uint64]:
        """One key (count,) of each text, for `overlap.part_in`."""
        texts = (self.text(i).astype("<i8").tobytes() for i in range(self.count))
        digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
        return np.frombuffer(digests, "<u8").astype(np.uint64)

    def part_in(self, other: object) -> float:
        """Part of the texts, 0 .. 1, that other samples of this kind have too."""
        assert isinstance(other, LabelledTexts)
        return part_in(self.keys(), [other.keys()])

    def digest(self) -> bytes:
        """SHA-256 of everything."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.starts, self.labels):
            digest.update(np.ascontiguousarray(array, np.int64).tobytes())
        return digest.digest()


def from_lists(
    texts: Sequence[NDArray[np.integer[Any]]], labels: Sequence[int], max_length: int
) -> LabelledTexts:
    """Texts given one by one; each is cut to `max_length` tokens."""
    cut = [np.asarray(text)[:max_length] for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(text) for text in cut])]).astype(np.int64)
    tokens = np.concatenate(cut) if cut else np.empty(0, np.int64)
    return LabelledTexts(tokens, starts, np.asarray(labels, np.int64))


def load_labelled(
    paths: Iterable[Path],
    tokenizer: Tokenizer | None,
    task: Labels,
    vocab_size: int,
    limit: int | None = None,
    note: Note = silent,
) -> LabelledTexts:
    """Read files of labelled texts, one after the other.

    Args:
        paths: .jsonl (an object per line), .tsv or .csv (with a heading), each with `text` and
            `label`, plain, .xz or .gz; or .npz with `tokens` (n, l), or (n,) and `starts`, and
            `labels`, numbers of the classes.
        tokenizer: from data.load_tokenizer; None will do for .npz.
        task: a classifier's.
        vocab_size: rows of the embedding.
        limit: texts to return at most. note: called with what was found in a file.

    Raises:
        BadInputError: a file is missing, damaged or of another kind; a key or column is missing; a
            label is no class of the model; a text has no token, or one without a row.
    """
    parts = []
    for path in map(Path, paths):
        if path.suffix == ".npz":
            parts.append(_load_npz(path, task, vocab_size))
        elif tokenizer is None:
            raise BadInputError(f"{path}: expected a tokenizer for texts; give --tokenizer FILE.")
        else:
            parts.append(_load_texts(path, tokenizer, task, vocab_size, limit, note))
    if not parts or not sum(part.count for part in parts):
        names = ", ".join(map(str, paths)) or "no file"
        raise BadInputError(f"{names}: expected at least one labelled text; got none.")
    offsets = np.cumsum([0, *(len(part.tokens) for part in parts)])
    starts = [part.starts[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    joined = LabelledTexts(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([*starts, offsets[-1:]]).astype(np.int64),
        np.concatenate([part.labels for part in parts]),
    )
    return joined if limit is None else joined.head(limit)


def _load_texts(
    path: Path,
    tokenizer: Tokenizer,
    task: Labels,
    vocab_size: int,
    limit: int | None,
    note: Note,
) -> LabelledTexts:
    texts, labels = [], []
    numbers = {name: number for number, name in enumerate(task.classes)}
    for line, text, label in read_labelled(path, note):
        if label not in numbers:
            raise BadInputError(
                f"{path}, line {line}: expected a label among {', '.join(task.classes)[:200]}; got "
                f"{repr(label[:60]) if label else 'an empty one'}. Use the model's own classes "
                "(config.json, task.classes)."
            )
        if not text.strip():
            blank = "one of white space only" if text else "an empty one"
            raise BadInputError(
                f"{path}, line {line}: expected a text; got {blank}. Leave the line out."
            )
        texts.append(text)
        labels.append(numbers[label])
        if limit is not None and len(texts) == limit:
            break
    try:
        encoded = encode_each(tokenizer, texts, vocab_size=vocab_size)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from error
    return from_lists(encoded, labels, task.max_length)


def read_labelled(path: Path, note: Note = silent) -> Iterator[tuple[int, str, str]]:
    """(line, text, label) of a .jsonl, .tsv or .csv file; a label that is a number as its digits.

    Args:
        note: called with what separates the columns, where it is not what the name says.

    Raises:
        BadInputError: another kind of file, a missing key or column, a damaged line.
    """
    kind = next((s for s in reversed(path.suffixes) if s not in (".xz", ".gz")), "")
    if kind not in _PLAIN:
        raise BadInputError(f"{path}: expected {_EXPECTED}; got {kind or 'no'} suffix. Rename it.")
    content = read_text(path).removeprefix("\ufeff")
    yield from _jsonl(path, content) if kind == ".jsonl" else _table(path, content, kind, note)


def _jsonl(path: Path, content: str) -> Iterator[tuple[int, str, str]]:
    for line, row in enumerate(content.split("\n"), 1):
        if not row.strip():
            continue
        try:
            value = parse_json(row, foreign=True)
        except ValueError as error:
            raise BadInputError(
                f"{path}, line {line}: expected a JSON object; got {row[:40]!r}: {error}. "
                "Write one object per line."
            ) from error
        if problem := _problem(value):
            raise BadInputError(f"{path}, line {line}: {problem}")
        yield line, value["text"], str(value["label"])


def _problem(value: Any) -> str:
    """What is wrong with a line's JSON, and the cure; empty of a text with its label."""
    if isinstance(value, list):
        return (
            "expected a JSON object with `text` and `label`; got a list. Write one object per line "
            "(a file that is one list: jq -c '.[]')."
        )
    if not isinstance(value, dict):
        return f"expected a JSON object with `text` and `label`; got {_kind(value)}."
    if missing := [key for key in ("text", "label") if key not in value]:
        keys = ", ".join(value)[:100] or "none"
        return f"expected the keys `text` and `label`; got {keys}. Rename one to {missing[0]!r}."
    text, label = value["text"], value["label"]
    if not isinstance(text, str):
        return f"text: expected a string; got {_kind(text)}. Leave the line out, or mend it."
    if isinstance(label, bool) or not isinstance(label, str | int):
        cure = (
            "A text has one class: choose it."
            if isinstance(label, list)
            else (
                "Label the text, or leave the line out."
                if label is None
                else "Write the class as it stands in config.json."
            )
        )
        return f"label: expected a string or an integer; got {_kind(label)}. {cure}"
    return ""


def _kind(value: Any) -> str:
    """A JSON value in words."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def _table(path: Path, content: str, kind: str, note: Note) -> Iterator[tuple[int, str, str]]:
    tab = kind == ".tsv"
    delimiter = "\t" if tab else delimiter_of(content, ("text", "label"))
    if not tab and delimiter != ",":
        note(f"{path}: read with columns separated by {DELIMITERS[delimiter]}")
    reader = csv.reader(
        io.StringIO(content),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if tab else csv.QUOTE_MINIMAL,
    )
    try:
        heading = [name.strip() for name in next(reader, [])]
        if missing := [name for name in ("text", "label") if heading.count(name) != 1]:
            raise BadInputError(
                f"{path}: expected one column named {missing[0]!r} in the heading; got "
                f"{', '.join(heading)[:100] or 'nothing'}. Add a heading `text`, `label`."
            )
        text, label = heading.index("text"), heading.index("label")
        for row in reader:
            if not row:
                continue
            if len(row) != len(heading):
                raise BadInputError(
                    f"{path}, line {reader.line_num}: expected {amount(len(heading), 'field')} as "
                    f"in the heading; got {len(row)}. Repair the line."
                )
            yield reader.line_num, row[text], row[label].strip()
    except csv.Error as error:
        raise BadInputError(
            f"{path}, line {reader.line_num}: cannot be read: {error}. Use .jsonl for long texts."
        ) from error


def _load_npz(path: Path, task: Labels, vocab_size: int) -> LabelledTexts:
    try:
        arrays = read_arrays(path, ("tokens", "labels", "starts"))
    except Exception as error:  # numpy and zipfile raise whatever the damage leads to
        raise BadInputError(
            f"{path}: expected a .npz of `tokens` and `labels`; got: {str(error)[:160]}. "
            "Write it with numpy.savez."
        ) from error
    tokens, labels = arrays.get("tokens"), arrays.get("labels")
    starts = arrays.get("starts")
    if tokens is not None and tokens.ndim == 2:
        starts = np.arange(len(tokens) + 1) * tokens.shape[1]
        tokens = tokens.reshape(-1)
    _check_npz(path, tokens, starts, labels)
    assert tokens is not None and starts is not None and labels is not None
    for name, array, high in (
        ("tokens", tokens, vocab_size),
        ("labels", labels, len(task.classes)),
    ):
        if int(array.min()) < 0 or int(array.max()) >= high:
            raise BadInputError(
                f"{path}: {name}: expected 0 to {high - 1}; got {int(array.min())} to "
                f"{int(array.max())}. Use the model's own tokens and classes."
            )
    samples = LabelledTexts(tokens, starts.astype(np.int64), labels.astype(np.int64))
    if int(samples.lengths.max()) <= task.max_length:
        return samples
    texts = [tokens[a:b] for a, b in pairwise(starts)]
    return from_lists(texts, samples.labels.tolist(), task.max_length)


def _check_npz(path: Path, *arrays: NDArray[Any] | None) -> None:
    """tokens, starts, labels: one-dimensional integers that fit each other."""
    for array in arrays:
        if array is None or array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
            got = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise BadInputError(
                f"{path}: expected integers `tokens` (n, l), or (n,) with `starts`, and `labels`; "
                f"got {got}. Write it with numpy.savez."
            )
    tokens, starts, labels = arrays
    assert tokens is not None and starts is not None and labels is not None
    if len(starts) != len(labels) + 1:
        raise BadInputError(
            f"{path}: labels: expected one for each of the {len(starts) - 1} texts; got "
            f"{len(labels)}. Write `labels`, and `starts` if there are any, again."
        )
    steps = np.diff(starts.astype(np.int64))
    if starts[0] or starts[-1] != len(tokens) or steps.min() < 1:
        raise BadInputError(
            f"{path}: starts: expected {len(labels) + 1} increasing numbers from 0 to "
            f"{len(tokens)}; got {len(starts)} from {int(starts[0])} to {int(starts[-1])}."
        )
