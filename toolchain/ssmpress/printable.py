"""Text that somebody else wrote, made fit for a terminal.

A terminal obeys what it is shown: an escape sequence in the name of a tensor, or in a device's
answer, moves the cursor, changes the title or hides a line. `cli/` and `report/terminal.py` pass
all that they print through here; messages themselves stay as they are.
"""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the order of what is shown
    "\u2028\u2029\ud800-\udfff]"  # line ends, and halves of pairs that no encoding can hold
)


def visible(text: str) -> str:
    r"""The text with every character that a terminal obeys written out, such as `\x1b`."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def one_line(text: str) -> str:
    """`visible` text whose line feeds are written out too: it cannot look like two messages."""
    return visible(text).replace("\n", "\\n")


def amount(count: Any, thing: str) -> str:
    """`1 thread`, `8 threads`, `- threads` where a report has no number.

    thing: a word that takes an s.
    """
    number = f"{count:,}" if isinstance(count, int) else "-"
    return f"{number} {thing}{'s' * (count != 1)}"
