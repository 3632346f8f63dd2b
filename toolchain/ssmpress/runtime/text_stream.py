"""The text of tokens as they are made, in whole characters, the same bytes as `ssmrun generate`'s.

The twin of `runtimes/runner/text/text_stream.cc`; docs/ssmrun.md specifies both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_WAITING = 32
"""Tokens that wait for the rest of a character at most; none needs so many."""

_UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are not a whole character yet."""


class TextStream:
    """Made for one text: `add` each token, then `finish`.

        stream = TextStream(tokenizer, prompt)
        text = "".join(map(stream.add, tokens)) + stream.finish()

    Args:
        prompt: the tokens before, which decide whether the first one begins a text.
        show_special: special tokens are written out; else they are no part of the text.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], *, show_special: bool = False
    ) -> None:
        self._tokenizer, self._show_special = tokenizer, show_special
        self._before, self._waiting = list(prompt), list[int]()
        added = tokenizer.get_added_tokens_decoder().values()
        self._hidden = set() if show_special else {t.content for t in added if t.special}

    def add(self, token: int) -> str:
        """The text that is complete with this token, perhaps none."""
        written = self._tokenizer.id_to_token(token)
        if written is None or written in self._hidden:
            return ""
        self._waiting.append(token)
        text = self._piece()
        whole = text and not text.endswith(_UNFINISHED)
        if not whole and len(self._waiting) < MOST_WAITING:
            return ""
        self._before, self._waiting = self._waiting, []
        return text

    def finish(self) -> str:
        """What is left over."""
        text = self._piece() if self._waiting else ""
        self._waiting = []
        return text

    def _piece(self) -> str:
        """What the waiting tokens add: some decoders treat the first token of a text specially."""
        return self._decode(self._before + self._waiting)[len(self._decode(self._before)) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=not self._show_special))
