"""How a long prompt is cut into pieces that run one after another."""

from __future__ import annotations

from collections.abc import Iterator

PIECE_TOKENS = 4096
"""A prompt runs in pieces of this many tokens, the state carried along: activations need 12 to 16
kB a token, so that a long prompt in one call would need more memory than any model."""

_LAST_PIECE = 64
"""Least tokens of the last piece: of fewer than 8 rows, ONNX Runtime's matrix product adds in
another order, and the last bits would differ."""


def pieces(length: int, most: int) -> Iterator[int]:
    """Sizes that add up to a prompt's length: `most`, and a last one that is not too short."""
    while length >= most + min(most, _LAST_PIECE):
        yield most
        length -= most
    yield length
