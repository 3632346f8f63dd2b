# SPDX-License-Identifier: Apache-2.0
"""Writes the `precompiled_charsmap` of SentencePiece's normalizer, for generators and tests.

Layout: u32 bytes of the trie; the trie, a double array of u32 units as Darts-clone has it; then the
replacements, each ended by a zero byte. A unit of a child: its byte in bits 0-7, bit 8 set where a
key ends here, and in bits 10-30 its own place xor the place of its children. The children of a node
lie at that place xor their byte; at the place itself lies the value, the offset of a replacement.
Source: https://github.com/s-yata/darts-clone, sentencepiece/src/normalizer.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_LEAF = 1 << 8
_OFFSET_SHIFT = 10
_VALUE = 1 << 31  # no byte is like it, so that a search never takes a value for a child


def write_charsmap(rules: Mapping[bytes, str]) -> bytes:
    """The charsmap that replaces each key by its text."""
    pool, places = bytearray(), {}
    for text in rules.values():
        if text not in places:
            places[text] = len(pool)
            pool += text.encode() + b"\0"
    units = _double_array({key: places[text] for key, text in rules.items()})
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + bytes(pool)


def _double_array(values: Mapping[bytes, int]) -> list[int]:
    children: dict[bytes, set[int]] = {b"": set()}
    for key in values:
        for end in range(len(key)):
            children.setdefault(key[:end], set()).add(key[end])
    units: dict[int, int] = {0: 0}
    taken, first = {0}, 0
    waiting = [(b"", 0)]
    while waiting:
        prefix, place = waiting.pop()
        labels = sorted(children.get(prefix, ()))
        ends = prefix in values
        base = first
        while any(
            base ^ label in taken for label in [*([0] if ends or not labels else []), *labels]
        ):
            base += 1
        units[place] |= (place ^ base) << _OFFSET_SHIFT | (_LEAF if ends else 0)
        if ends:
            units[base] = _VALUE | values[prefix]
            taken.add(base)
        for label in labels:
            units[base ^ label] = label
            taken.add(base ^ label)
            waiting.append((prefix + bytes([label]), base ^ label))
        while first in taken:
            first += 1
    size = (max(units) // 256 + 1) * 256
    return [units.get(place, 0) for place in range(size)]
