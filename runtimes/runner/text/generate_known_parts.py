# SPDX-License-Identifier: Apache-2.0
"""Write known_parts.h: the kinds of parts of a tokenizer.json that ssmrun has.

    python runtimes/runner/text/generate_known_parts.py

They are those of ssmpress.data.device_tokenizer, the one list: a kind that is added there does not
compile until ssmrun's switches have it.
"""

from __future__ import annotations

from generated_header import members, render, table, write

from ssmpress.data.device_tokenizer import KINDS

_KIND = """
enum class {name}Kind {{
{members}
}};
{texts}
"""


def _name(room: str) -> str:
    return "".join(word.capitalize() for word in room.split("_"))


def header() -> str:
    """The text of known_parts.h."""
    blocks = [
        _KIND.format(
            name=name,
            members=members(kinds),
            texts=table(f"std::string_view k{name}Kinds", [f'"{kind}",' for kind in kinds]),
        ).strip()
        for name, kinds in ((_name(room), kinds) for room, kinds in KINDS.items())
    ]
    return render("known_parts.h", "generate_known_parts.py", "\n\n".join(blocks), ["string_view"])


if __name__ == "__main__":
    write(header(), "known_parts.h")
