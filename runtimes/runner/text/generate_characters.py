# SPDX-License-Identifier: Apache-2.0
"""Write character_tables.h: what the parts of a tokenizer know of each character.

    python runtimes/runner/text/generate_characters.py

The library's parts use Unicode data of five different versions, so each property is observed from
the part that asks for it, never taken from a table of one version.
"""

from __future__ import annotations

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
from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = (
    *("Lu", "Ll", "Lt", "Lm", "Lo"),
    *("Mn", "Mc", "Me"),
    *("Nd", "Nl", "No"),
    *("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"),
    *("Sm", "Sc", "Sk", "So"),
    *("Zs", "Zl", "Zp"),
    *("Cc", "Cf", "Co", "Cn"),
)
"""General categories, by number."""

FLAGS = {
    "kSpace": "\\s of Split's regular expressions, and Rust's char::is_whitespace.",
    "kWord": "\\w of Whitespace and of added tokens that are single words.",
    "kNumeric": "What Digits cuts at.",
    "kSign": "What Punctuation and BertPreTokenizer cut at.",
    "kBertRemoves": "What BertNormalizer takes for a control character.",
    "kMark": "What StripAccents removes.",
    "kNonspacing": "What BertNormalizer removes as an accent.",
}
_FIRST_FLAG = 5  # bits of a category
_SHIFT = 8  # bits of the number of a combination

_HEAD = """
enum Category : uint32_t {{
{categories}
}};

// The low {bits} bits of a character's properties are its Category.
constexpr uint32_t kCategoryMask = {mask};
{flags}

// The combinations of properties that there are.
{combinations}

// Runs of characters of one combination, ascending, as (first character << {shift} | its number).
{runs}
"""


def categories() -> dict[str, int]:
    """General categories as \\p{...} of Split's regular expressions has them."""
    everything, found = "".join(CHARACTERS), {}
    for number, name in enumerate(CATEGORIES):
        split = pre_tokenizers.Split(Regex(rf"\p{{{name}}}+"), "removed")
        end = 0
        for _, (begin, after) in [
            *split.pre_tokenize_str(everything),
            ("", (len(everything),) * 2),
        ]:
            found |= dict.fromkeys(everything[end:begin], number)
            end = after
    return found


def flags() -> dict[str, int]:
    """Bits of FLAGS, observed character by character."""
    word = pre_tokenizers.Whitespace().pre_tokenize_str
    space = pre_tokenizers.WhitespaceSplit().pre_tokenize_str
    digits = pre_tokenizers.Digits().pre_tokenize_str
    signs = pre_tokenizers.Punctuation().pre_tokenize_str
    strip = normalizers.StripAccents().normalize_str
    options = {"handle_chinese_chars": False, "lowercase": False}
    clean = normalizers.BertNormalizer(strip_accents=False, **options).normalize_str
    accents = normalizers.BertNormalizer(clean_text=False, strip_accents=True, **options)
    tests = (
        lambda c: not space(c),
        lambda c: len(word("a" + c)) == 1 and bool(space(c)),
        lambda c: len(digits("a" + c)) > 1,
        lambda c: len(signs("a" + c)) > 1,
        lambda c: not clean(c),
        lambda c: not strip(c),
        lambda c: not accents.normalize_str(c),
    )
    return {c: to_bits(test(c) for test in tests) for c in CHARACTERS}


def header() -> str:
    """The text of character_tables.h."""
    kinds, bits = categories(), flags()
    none = CATEGORIES.index("Cn")
    properties = [none] * 0x110000
    for c in CHARACTERS:
        properties[ord(c)] = bits[c] << _FIRST_FLAG | kinds[c]
    combinations = sorted(set(properties))
    numbers = {combination: number for number, combination in enumerate(combinations)}
    body = _HEAD.format(
        categories=members(CATEGORIES),
        bits=_FIRST_FLAG,
        mask=(1 << _FIRST_FLAG) - 1,
        flags=flag_constants(FLAGS, _FIRST_FLAG),
        combinations=table("uint16_t kProperties", [f"0x{one:x}," for one in combinations]),
        shift=_SHIFT,
        runs=table("uint32_t kPropertyRuns", runs([numbers[p] for p in properties], _SHIFT)),
    )
    return render("character_tables.h", "generate_characters.py", body)


if __name__ == "__main__":
    write(header(), "character_tables.h")
