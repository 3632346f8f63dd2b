"""How many drawn examples a property is tried with: `make test` a quarter, `make test-long` all."""

from __future__ import annotations

LONG = True
"""Whether all tests run; conftest.py says so before any test is read."""


def examples(number: int) -> int:
    """Of `number` examples those that this run draws, at least 10."""
    return number if LONG else max(10, number // 4)
