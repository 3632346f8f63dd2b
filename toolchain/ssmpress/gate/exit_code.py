"""Which of several verdicts decides: the one order of their exit codes.

Codes of errors (2, 6, 7) are not in it: an error ends the command that meets it.
"""

from __future__ import annotations

from collections.abc import Iterable

from ssmpress.errors import EXIT_INCONCLUSIVE, EXIT_LATENCY_OR_SIZE, EXIT_PASS, EXIT_QUALITY
from ssmpress.results.report import FAIL, INCONCLUSIVE, PASS

_STATUS = {
    EXIT_QUALITY: FAIL,
    EXIT_LATENCY_OR_SIZE: FAIL,
    EXIT_INCONCLUSIVE: INCONCLUSIVE,
    EXIT_PASS: PASS,
}
"""Every code of a verdict with its status, the gravest first."""


def gravest(codes: Iterable[int]) -> int:
    """The code that decides where everything must pass: rules of a report, reports of a command.

    Quality comes before latency and size, a failure before an inconclusive one; of no code at all
    it is a pass.
    """
    return min(codes, key=list(_STATUS).index, default=EXIT_PASS)


def mildest(codes: Iterable[int]) -> int:
    """The code that decides where one pass is enough: at least one point of a sweep."""
    return max(codes, key=list(_STATUS).index)


def status_of(code: int) -> str:
    """pass, fail or inconclusive."""
    return _STATUS[code]
