"""ListOps by the rules of the public generator of Long Range Arena: nested operations on digits.

A tree is a digit, or with probability 1/4 an operation on 2 to 10 trees, at most 10 levels deep;
trees of more than 500 and fewer than 2000 tokens are kept, each once. Its value is the class.

    [MAX 4 [MIN 2 9 ] 7 ]  ->  7

Source: Tay et al., arXiv 2011.04006, section 2.1; Nangia and Bowman, arXiv 1804.06028.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

DIGITS = tuple(map(str, range(10)))
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
CLOSE = "]"
WORDS = (*DIGITS, *OPERATORS, CLOSE)
"""Words by their token; 15 in all, as the public tokenizer sees them (round brackets dropped)."""

OPERATION_PROBABILITY = 0.25
MAX_DEPTH, MAX_ARGUMENTS = 10, 10
MIN_LENGTH, MAX_LENGTH = 500, 2000  # both exclusive
_CLOSE_TOKEN = WORDS.index(CLOSE)


class _TooLongError(Exception):
    """The tree has too many tokens already."""


def apply(operator: str, values: list[int]) -> int:
    """The value of an operation; the median of an even number of values is rounded down."""
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[SM":
        return sum(values) % 10
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2


def evaluate(words: list[str]) -> int:
    """The value of a written tree.

    Raises:
        ValueError: it is no tree.
    """
    stack: list[tuple[str, list[int]]] = [("", [])]
    for word in words:
        if word in OPERATORS:
            stack.append((word, []))
        elif word == CLOSE and len(stack) > 1 and stack[-1][1]:
            value = apply(*stack.pop())
            stack[-1][1].append(value)
        elif word in DIGITS:
            stack[-1][1].append(int(word))
        else:
            raise ValueError(f"expected a tree of ListOps; got {word!r} in {' '.join(words)[:80]}")
    if len(stack) != 1 or len(stack[0][1]) != 1:
        raise ValueError(f"expected one whole tree; got {' '.join(words)[:80]}")
    return stack[0][1][0]


def _tree(source: random.Random, depth: int, tokens: list[int]) -> int:
    """Append a random tree to `tokens`; returns its value."""
    if depth >= MAX_DEPTH or source.random() > OPERATION_PROBABILITY:
        digit = source.randrange(10)
        tokens.append(digit)
        return digit
    count = source.randint(2, MAX_ARGUMENTS)
    operator = source.randrange(len(OPERATORS))
    tokens.append(len(DIGITS) + operator)
    if len(tokens) >= MAX_LENGTH:
        raise _TooLongError
    values = [_tree(source, depth + 1, tokens) for _ in range(count)]
    tokens.append(_CLOSE_TOKEN)
    return apply(OPERATORS[operator], values)


def trees(seed: int) -> Iterator[tuple[bytes, int]]:
    """Endless (tokens, value) of trees whose lengths are in range; a token is a byte."""
    source = random.Random(seed)
    while True:
        tokens: list[int] = []
        try:
            value = _tree(source, 1, tokens)
        except _TooLongError:
            continue
        if MIN_LENGTH < len(tokens) < MAX_LENGTH:
            yield bytes(tokens), value


def generate(count: int, seed: int) -> list[tuple[bytes, int]]:
    """Draw `count` trees, no two alike: (tokens, value) of each."""
    values: dict[bytes, int] = {}
    for tokens, value in trees(seed):
        values[tokens] = value
        if len(values) == count:
            return list(values.items())
    raise AssertionError("trees() is endless")
