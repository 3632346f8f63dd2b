# SPDX-License-Identifier: Apache-2.0
"""Write split_rules.h: the regular expressions that ssmrun has, ready to be matched.

    python runtimes/runner/text/generate_split_rules.py

The expressions are those of ssmpress.data.device_tokenizer, the one list. Each becomes rules, a
rule a row of items, an item a class of characters and how often it stands. ssmrun so needs no
parser for expressions, and whatever is not in the list is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from generate_characters import CATEGORIES
from generated_header import render, table, write

from ssmpress.data.device_tokenizer import SPLIT_ALTERNATIVES

_ESCAPES = {"r": "\r", "n": "\n", "t": "\t"}
_MOST = 0xFFFF  # without an end
_FOLDS = {"s": "\u017f", "k": "\u212a"}  # what else is an s or a k where case does not count
_NOT_BEFORE = r"(?!\S)"

_BODY = """
// Characters by category (bits), \\s, or range; `negated` turns it round.
struct SplitClass {{
  uint32_t categories;
  bool space, negated;
  uint8_t first_range, ranges;
}};
struct SplitRange {{
  uint32_t first, last;
}};
// A class that stands `least` to `most` times, as often as it can; `keeps`: and never fewer.
struct SplitItem {{
  uint8_t class_number;
  bool keeps;
  uint16_t least, most;
}};
// Items one after the other; then one of the rules of `tail`, or none of them; `before_space`: and
// then a space or the end of the text.
struct SplitRule {{
  uint8_t first_item, items;
  uint8_t first_tail, tails;
  bool before_space;
}};
// An alternative as tokenizer.json writes it, and its rules: the first that matches counts.
struct SplitAlternative {{
  std::string_view text;
  uint8_t first_rule, rules;
}};

{ranges}
{classes}
{items}
{rules}
{alternatives}
"""


@dataclass
class Tables:
    """The arrays of the header; equal entries once."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    classes: list[tuple[int, bool, bool, int, int]] = field(default_factory=list)
    items: list[tuple[int, bool, int, int]] = field(default_factory=list)
    rules: list[tuple[int, int, int, int, bool]] = field(default_factory=list)

    @staticmethod
    def place(array: list, rows: list) -> int:
        """Where the rows stand in an array, one after the other; appended if they do not."""
        for begin in range(len(array) - len(rows) + 1):
            if array[begin : begin + len(rows)] == rows:
                return begin
        array += rows
        return len(array) - len(rows)


@dataclass
class Class:
    """A class of characters."""

    categories: set[str] = field(default_factory=set)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    space: bool = False
    negated: bool = False

    def add(self, other: Class) -> None:
        """Take another class's characters too."""
        if other.negated:
            raise ValueError("a negated class inside a class")
        self.categories |= other.categories
        self.ranges += other.ranges
        self.space |= other.space


Item = tuple[Class, int, int, bool]  # class, least, most, keeps


class Reader:
    """Reads one alternative: items, groups of them, and a lookahead at the end."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.fold = text, 0, False

    def take(self, text: str) -> bool:
        """Go behind a text, if it stands here."""
        if not self.text.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def rules(self) -> tuple[list[list[Item]], list[list[Item]], bool]:
        """Rows of items; those of an optional tail; whether a space or the end must follow."""
        rows: list[list[Item]] = [[]]
        while self.at < len(self.text):
            if self.take(_NOT_BEFORE):
                return self._ended(rows, [], True)
            if self.take("(?i:") or self.take("(?:"):
                self.fold = self.text[self.at - 2] == "i"
                group = list(self.group())
                self.fold = False
                if self.take("?"):
                    return self._ended(rows, group, False)
                rows = [row + member for row in rows for member in group]
                continue
            item = self.item()
            rows = [[*row, item] for row in rows]
        return rows, [], False

    def _ended(
        self, rows: list[list[Item]], tail: list[list[Item]], before_space: bool
    ) -> tuple[list[list[Item]], list[list[Item]], bool]:
        if self.at != len(self.text):
            raise ValueError(f"{self.text}: more behind the end")
        return rows, tail, before_space

    def group(self) -> Iterator[list[Item]]:
        """The members of a group, to its closing bracket."""
        row: list[Item] = []
        while not self.take(")"):
            if self.take("|"):
                yield row
                row = []
            else:
                row.append(self.item())
        yield row

    def item(self) -> Item:
        """One class with its quantifier."""
        one = self.atom()
        least, most = 1, 1
        if self.take("{"):
            text, self.at = (
                self.text[self.at :].partition("}")[0],
                self.text.index("}", self.at) + 1,
            )
            first, comma, last = text.partition(",")
            least = int(first)
            most = int(last) if last else (_MOST if comma else least)
            return one, least, most, False
        for sign, (least, most) in {"?": (0, 1), "*": (0, _MOST), "+": (1, _MOST)}.items():
            if self.take(sign):
                return one, least, most, self.take("+")
        return one, 1, 1, False

    def atom(self) -> Class:
        """A character, an escape or a class in brackets."""
        if self.take("["):
            return self.bracket()
        return self.escape() if self.take("\\") else self.character()

    def character(self) -> Class:
        """The next character, standing for itself."""
        character = self.text[self.at]
        self.at += 1
        return self._letter(character)

    def _letter(self, character: str) -> Class:
        letters = {character}
        if self.fold:
            letters |= {character.lower(), character.upper(), _FOLDS.get(character, character)}
        return Class(ranges=[(ord(c), ord(c)) for c in sorted(letters)])

    def escape(self) -> Class:
        """What follows a backslash."""
        sign = self.text[self.at]
        self.at += 1
        if sign in "sS":
            return Class(space=True, negated=sign == "S")
        if sign == "d":
            return Class(categories={"Nd"})
        if sign == "p":
            name = self.text[self.at + 1 : self.text.index("}", self.at)]
            self.at += len(name) + 2
            return Class(categories={c for c in CATEGORIES if c.startswith(name)})
        return self._letter(_ESCAPES.get(sign, sign))

    def bracket(self) -> Class:
        """A class, behind its opening bracket; classes may stand inside it."""
        whole = Class(negated=self.take("^"))
        while not self.take("]"):
            one = self.atom()
            if self.text[self.at] == "-" and self.text[self.at + 1] != "]":
                self.at += 1
                last = self.atom()
                one = Class(ranges=[(one.ranges[0][0], last.ranges[0][1])])
            whole.add(one)
        return whole


def _class_number(tables: Tables, one: Class) -> int:
    mask = sum(1 << CATEGORIES.index(name) for name in one.categories)
    ranges: list[tuple[int, int]] = []
    for begin, end in sorted(one.ranges):
        if ranges and begin <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((begin, end))
    first = Tables.place(tables.ranges, ranges)
    row = (mask, one.space, one.negated, first if ranges else 0, len(ranges))
    return Tables.place(tables.classes, [row])


def _rules(
    tables: Tables, rows: list[list[Item]], tail: tuple[int, int], before_space: bool
) -> list[tuple[int, int, int, int, bool]]:
    found = []
    for row in rows:
        items = [
            (_class_number(tables, one), keeps, least, most) for one, least, most, keeps in row
        ]
        found.append((Tables.place(tables.items, items), len(items), *tail, before_space))
    return found


def header() -> str:
    """The text of split_rules.h."""
    tables, alternatives = Tables(), []
    for text in SPLIT_ALTERNATIVES:
        rows, tail_rows, before_space = Reader(text).rules()
        tail = _rules(tables, tail_rows, (0, 0), False)
        tail_place = Tables.place(tables.rules, tail) if tail else 0
        rules = _rules(tables, rows, (tail_place, len(tail)), before_space)
        alternatives.append((text, Tables.place(tables.rules, rules), len(rules)))
    longest = max(map(len, (tables.ranges, tables.classes, tables.items, tables.rules)))
    if longest > 256:
        raise ValueError(f"{longest} entries do not fit into a byte")

    def array(declaration: str, rows: list) -> str:
        texts = ["{" + ",".join(map(_cpp, row)) + "}," for row in rows]
        return table(declaration, texts)

    body = _BODY.format(
        ranges=array("SplitRange kSplitRanges", tables.ranges),
        classes=array("SplitClass kSplitClasses", tables.classes),
        items=array("SplitItem kSplitItems", tables.items),
        rules=array("SplitRule kSplitRules", tables.rules),
        alternatives=array("SplitAlternative kSplitAlternatives", alternatives),
    )
    return render("split_rules.h", "generate_split_rules.py", body, ["string_view"])


def _cpp(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", r"\\").replace('"', r"\"")
        return f'"{escaped}"'
    return str(value).lower()


if __name__ == "__main__":
    write(header(), "split_rules.h")
