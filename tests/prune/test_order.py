"""The windows of each step: a function of seed and step, each window once per epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmpress.errors import BadInputError
from ssmpress.prune.order import WindowOrder


@given(
    n=st.integers(1, 300),
    length=st.integers(1, 40),
    count=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_windows_are_whole_repeatable_and_used_once(
    n: int, length: int, count: int, seed: int
) -> None:
    n += length if n < length else 0
    order = WindowOrder(np.arange(n, dtype=np.int32), length, seed)
    drawn = order.windows(order.numbers(0, count))
    assert drawn.shape == (count, length)
    assert np.array_equal(np.diff(drawn, axis=1), np.ones((count, length - 1)))
    assert np.array_equal(drawn, order.windows(order.numbers(0, count)))
    exclusive = drawn[: n // length].ravel()
    assert len(np.unique(exclusive)) == len(exclusive), "no token twice within an epoch"
    one_by_one = [int(order.numbers(step, 1)[0]) for step in range(count)]
    assert one_by_one == order.numbers(0, count).tolist(), "steps continue one another"


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(BadInputError, match="has 4 tokens, one window needs 5"):
        WindowOrder(np.arange(4), 5, 0)
