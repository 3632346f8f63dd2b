# SPDX-License-Identifier: Apache-2.0
"""Write grapheme_tables.h: where SentencePiece's normalizer may not cut a text.

    python runtimes/runner/text/generate_graphemes.py

Precompiled replaces a grapheme cluster of fewer than 6 bytes as a whole, a longer one character by
character. With a charsmap that replaces whatever begins with any byte by one "1", the number of
ones tells the two apart, and so every class of Unicode Standard Annex 29 that matters. (Pairs of
regional indicators do not: they have 8 bytes.)
"""

from __future__ import annotations

from charsmap_writer import write_charsmap
from generated_header import (
    CHARACTERS,
    flag_constants,
    members,
    render,
    runs,
    table,
    to_bits,
    write,
)
from tokenizers import normalizers

KINDS = ("Other", "Control", "Joins", "Prepend", "L", "V", "T", "LV", "LVT")
"""Of the annex; Joins are Extend, ZWJ and SpacingMark."""

FLAGS = {
    "kPictographic": "Extended_Pictographic.",
    "kConsonant": "Indic_Conjunct_Break Consonant.",
    "kLinker": "Indic_Conjunct_Break Linker.",
    "kConjunctExtend": "Indic_Conjunct_Break Extend or Linker.",
}
_FIRST_FLAG = 4
_SHIFT = 8

_BODY = """
enum GraphemeKind : uint32_t {{
{kinds}
}};

// The low {bits} bits of a character's class are its GraphemeKind.
constexpr uint32_t kGraphemeMask = {mask};
{flags}

// Runs of characters of one class, ascending, as (first character << {shift} | class).
{runs}
"""

_PREPEND, _MARK, _ZWJ = "\u0600", "\u0300", "\u200d"
_KA, _VIRAMA = "\u0915", "\u094d"


def classes() -> list[int]:
    """By character number."""
    charsmap = write_charsmap({bytes([byte]): "1" for byte in range(1, 256)})
    normalize = normalizers.Precompiled(charsmap).normalize_str

    def ones(text: str) -> int:
        return normalize(text).count("1")

    def joined(left: str, right: str) -> bool:
        """Of two characters of 3 bytes: behind a Prepend both are a cluster of 8 bytes."""
        return ones(_PREPEND + left + right) == 3

    def conjunct(text: str) -> bool:
        """Whether the last character, with a mark behind it, belongs to the cluster before it."""
        return ones(text + _MARK) == len(text) + 1

    def kind(c: str) -> str:
        if ones("a" + c) == 1:
            return "Joins"
        if ones(c + 2 * _MARK) == 2:  # the marks are a cluster of their own
            return "Control"
        if ones(c + "a") == 1:
            return "Prepend"
        if len(c.encode()) == 3:
            if joined("\u11a8", c):
                return "T"
            if joined("\u1161", c):
                return "V"
            if joined(c, "\u1100"):
                return "L"
            if joined("\u1100", c):
                return "LV" if joined(c, "\u1161") else "LVT"
        return "Other"

    def flags(c: str, kind: str) -> int:
        other, joins = kind == "Other", kind == "Joins"  # the others join for another reason
        tests = (
            other and ones("\u00a9" + _ZWJ + c) == 3,
            other and conjunct(c + _VIRAMA + _KA),
            joins and conjunct(_KA + c + _KA),
            joins and conjunct(_KA + _VIRAMA + c + _KA),
        )
        return to_bits(tests)

    found = [0] * 0x110000
    for c in CHARACTERS:
        if c != "\0":  # it ends the search
            name = kind(c)
            found[ord(c)] = KINDS.index(name) | flags(c, name) << _FIRST_FLAG
    found[0] = KINDS.index("Control")
    return found


def header() -> str:
    """The text of grapheme_tables.h."""
    body = _BODY.format(
        kinds=members(KINDS, "kGrapheme"),
        bits=_FIRST_FLAG,
        mask=(1 << _FIRST_FLAG) - 1,
        flags=flag_constants(FLAGS, _FIRST_FLAG),
        shift=_SHIFT,
        runs=table("uint32_t kGraphemeRuns", runs(classes(), _SHIFT)),
    )
    return render("grapheme_tables.h", "generate_graphemes.py", body)


if __name__ == "__main__":
    write(header(), "grapheme_tables.h")
