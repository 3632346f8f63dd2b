# SPDX-License-Identifier: Apache-2.0
"""Write normalization_tables.h: decompositions, combining classes and lower case.

    python runtimes/runner/text/generate_normalization.py

Observed from the tokenizers library. Decompositions are its NFD and NFKD; a combining class is
found by which of two marks NFD puts first, the classes of the marks to compare with being Python's.
"""

from __future__ import annotations

import unicodedata

from generated_header import CHARACTERS, render, runs, table, write
from tokenizers.normalizers import NFC, NFD, NFKD, Lowercase

_BODY = """
// One step of a canonical decomposition, ascending by `whole`; `second` is 0 where there is one
// character only, and `first` may decompose further. NFC composes `whole` where `composes`.
struct Decomposition {{
  uint32_t whole : 31, composes : 1;
  uint32_t first, second;
}};
{decompositions}

// A character that becomes `length` others, which begin at `place` of the array of that name.
struct Expansion {{
  uint32_t character;
  uint16_t place, length;
}};
// Whole compatibility decompositions, of the characters where they differ from the canonical ones.
{compatible}
{compatible_characters}
// Lower case, of the characters that have one.
{lower}
{lower_characters}

// Runs of characters of one combining class, as (first character << 8 | class), ascending.
{classes}
"""

nfc, nfd = NFC().normalize_str, NFD().normalize_str


def decompositions() -> dict[str, str]:
    """Every character but Hangul syllables -> its full decomposition, if it has one."""
    pairs = ((c, nfd(c)) for c in CHARACTERS if not "\uac00" <= c <= "\ud7a3")
    return {c: full for c, full in pairs if full != c}


def steps(full: dict[str, str]) -> list[tuple[int, bool, int, int]]:
    """(whole, composes, first, second)."""
    by_text: dict[str, str] = {}
    for c, text in full.items():
        if nfc(text) == c or text not in by_text:
            by_text[text] = c
    rows = []
    for c, text in full.items():
        if len(text) == 1:
            rows.append((ord(c), False, ord(text), 0))
            continue
        first = text[0] if len(text) == 2 else by_text[text[:-1]]
        rows.append((ord(c), nfc(text) == c, ord(first), ord(text[-1])))
    return rows


def combining_classes(full: dict[str, str]) -> list[int]:
    """By character number; 0 for starters and for what decomposes."""

    def is_above(c: str, mark: str) -> bool:
        return nfd(c + mark) == mark + c

    def is_below(c: str, mark: str) -> bool:
        return nfd(mark + c) == c + mark

    # Python may know marks that the library's Unicode does not, which are starters there.
    lowest, highest = "\u0334", "\u0345"
    marks: dict[int, str] = {}
    for c in CHARACTERS:
        kind = unicodedata.combining(c)
        if kind and c not in full and (is_above(c, lowest) or is_below(c, highest)):
            marks.setdefault(kind, c)
    found = [0] * 0x110000
    for c in CHARACTERS:
        if c in full or not (is_above(c, lowest) or is_below(c, highest)):
            continue
        for kind, mark in marks.items():
            if c == mark or not (is_above(c, mark) or is_below(c, mark)):
                found[ord(c)] = kind
                break
        else:
            raise ValueError(f"U+{ord(c):04X} has a combining class that no other mark has")
    return found


def expansions(name: str, texts: dict[str, str]) -> tuple[str, str]:
    """Two arrays: the expansions, and the characters that they expand to."""
    places: dict[str, int] = {}
    pool = ""
    for text in texts.values():
        if text not in places:
            places[text] = len(pool)
            pool += text
    rows = [f"{{0x{ord(c):x},{places[t]},{len(t)}}}," for c, t in texts.items()]
    return (
        table(f"Expansion k{name}", rows),
        table(f"uint32_t k{name}Characters", [f"0x{ord(c):x}," for c in pool]),
    )


def header() -> str:
    """The text of normalization_tables.h."""
    full = decompositions()
    rows = [f"{{0x{w:x},{int(k)},0x{a:x},0x{b:x}}}," for w, k, a, b in steps(full)]
    nfkd, low = NFKD().normalize_str, Lowercase().normalize_str
    compatible, compatible_characters = expansions(
        "Compatible", {c: nfkd(c) for c in CHARACTERS if nfkd(c) != nfd(c)}
    )
    lower, lower_characters = expansions("Lower", {c: low(c) for c in CHARACTERS if low(c) != c})
    body = _BODY.format(
        decompositions=table("Decomposition kDecompositions", rows),
        compatible=compatible,
        compatible_characters=compatible_characters,
        lower=lower,
        lower_characters=lower_characters,
        classes=table("uint32_t kCombiningRuns", runs(combining_classes(full), 8)),
    )
    return render("normalization_tables.h", "generate_normalization.py", body)


if __name__ == "__main__":
    write(header(), "normalization_tables.h")
