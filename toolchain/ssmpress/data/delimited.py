"""Tables of text as programs write them: what separates the columns, and the decimals."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_HEAD_ROWS, _HEAD_CHARACTERS = 20, 1 << 16
_DECIMAL_COMMA = re.compile(r"[+-]?(?:\d+,\d*|,\d+)(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
_MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "?"})
"""What stands for a value that was not measured, in small letters."""


def delimiter_of(content: str, columns: Sequence[str] = ()) -> str:
    """The character that separates the columns of a table.

    It is the one with which the heading has most of the columns that are wanted, then one with
    which the first rows have as many fields as the heading, then the one that makes most fields; a
    comma where nothing tells.
    """

    def fits(delimiter: str) -> tuple[int, bool, int]:
        rows = _first_rows(content, delimiter)
        heading = [name.strip() for name in rows[0]] if rows else []
        even = len(heading) > 1 and all(len(row) == len(heading) for row in rows)
        return sum(name in heading for name in columns), even, len(heading)

    return max(DELIMITERS, key=fits)


def _first_rows(content: str, delimiter: str) -> list[list[str]]:
    """Some rows that are whole."""
    head = content[:_HEAD_CHARACTERS]
    cut = len(head) < len(content)
    try:
        rows = list(islice(filter(None, _rows(head, delimiter)), _HEAD_ROWS))
    except csv.Error:
        return []
    return rows[:-1] if cut and 1 < len(rows) < _HEAD_ROWS else rows


def _rows(content: str, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(content), delimiter=delimiter)


@dataclass(frozen=True)
class Decimals:
    """How the numbers of a table are written. comma: in place of the point."""

    comma: bool = False

    def number(self, text: str) -> float | None:
        """The number that a field writes; None where it writes none, or one of the other kind."""
        text = text.strip()
        if self.comma:
            if "." in text:
                return None
            text = text.replace(",", ".", 1)
        try:
            return float(text)
        except ValueError:
            return None


def decimals_of(fields: Sequence[str], delimiter: str) -> Decimals | None:
    """How these fields write numbers; None where 1,234 may be a thousand or a decimal comma.

    Beside commas that separate the columns, only quoted fields can hold one: there both are usual.
    """
    commas = [field for field in fields if "," in field and _DECIMAL_COMMA.fullmatch(field.strip())]
    if not commas:
        return Decimals()
    if delimiter == "," and all(_THOUSANDS.fullmatch(field.strip()) for field in commas):
        return None
    return Decimals(comma=True)


def is_missing(field: str) -> bool:
    """Whether a field says that there is no value."""
    return field.strip().lower() in _MISSING
