"""What a state dict holds that is no language model: its blocks counted, kind by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from ssmpress.checkpoint.names import printable

_Shapes = Mapping[str, tuple[int, ...]]
_A_LOG = re.compile(r"^(?P<block>(?:.*[._])?)A_logs?$")
_GIVE = (
    "Give the weights of a whole language model, with its config.json where there is one; "
    "docs/checkpoints.md lists what is read. A network of your own goes in with --net: "
    "docs/networks.md."
)


def what_is_there(shapes: _Shapes) -> str:
    """Sentences about a state dict that cannot be read: its blocks by kind and place, and what to
    do.

    Args:
        shapes: names, of any library, -> shapes.
    """
    blocks, others = _blocks(shapes)
    if not blocks:
        first = ", ".join(f"{printable(name)} {shape}" for name, shape in list(shapes.items())[:3])
        return f"It has no Mamba block; its {len(shapes)} tensors are {first} and so on. {_GIVE}"
    kinds = Counter((_kind(parts), _place(block)) for block, parts in blocks.items())
    told = ", ".join(
        f"{count} {kind} block{'s' * (count > 1)} under {place!r}"
        for (kind, place), count in kinds.most_common(4)
    )
    rest = f", and {len(others)} other tensors, such as {printable(others[0])}" if others else ""
    return f"It has {told}{rest}. {_GIVE}"


def _blocks(shapes: _Shapes) -> tuple[dict[str, dict[str, int]], list[str]]:
    """What is before a block's tensors -> their names and axes; and the names of all others."""
    blocks: dict[str, dict[str, int]] = {
        found["block"]: {} for name in shapes if (found := _A_LOG.match(name))
    }
    others = []
    for name, shape in shapes.items():
        before = [name[: dot.end()] for dot in re.finditer(r"[._]|^", name[:200])]
        block = next((b for b in reversed(before) if b in blocks), None)
        if block is None:
            others.append(name)
        else:
            blocks[block][name.removeprefix(block)] = len(shape)
    return blocks, others


def _place(block: str) -> str:
    """What stands before the number of a block: `encoder.layers.` of `encoder.layers.3.mixer.`."""
    numbered = re.match(r"(.*?)\d+\.", block)
    return printable(numbered[1] if numbered else block)


def _kind(parts: Mapping[str, int]) -> str:
    """The kind of a block by its tensors' axes: A is a matrix in Mamba-1, a vector in Mamba-2."""
    if parts.get("A_log") == 2 and {"dt_proj.weight", "x_proj.weight"} & set(parts):
        return "bidirectional Mamba-1" if "A_b_log" in parts else "Mamba-1"
    if parts.get("A_log") == 1 and "dt_bias" in parts and "q_proj.weight" not in parts:
        return "Mamba-2"
    return "state-space"
