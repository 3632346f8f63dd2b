"""The order of the exit codes: which of several verdicts decides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssmpress.gate.exit_code import gravest, mildest, status_of

ORDER = [3, 4, 5, 0]
"""docs/gate.md: quality before latency and size, a failure before an inconclusive rule."""


@given(st.lists(st.sampled_from(ORDER), min_size=1))
def test_every_order_of_the_same_codes_is_decided_alike(codes: list[int]) -> None:
    assert gravest(codes) == next(code for code in ORDER if code in codes)
    assert mildest(codes) == next(code for code in reversed(ORDER) if code in codes)


def test_nothing_judged_is_a_pass_and_every_code_has_a_status() -> None:
    assert gravest([]) == 0
    statuses = ["fail", "fail", "inconclusive", "pass"]
    assert [status_of(code) for code in ORDER] == statuses
