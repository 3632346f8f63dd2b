"""What a gate decided."""

from __future__ import annotations

from dataclasses import dataclass

from ssmpress.errors import EXIT_PASS
from ssmpress.results.quality import Interval
from ssmpress.results.report import PASS


@dataclass(frozen=True)
class RuleResult:
    """One gate rule. status: pass, fail or inconclusive. value: None when the metric is missing.

    limit: in the metric's unit; None when a relative one has no baseline to refer to.

    exit_code: of the process if this rule decides. message: one sentence; help: what to try.
    """

    name: str
    status: str
    value: float | None
    limit: float | None
    interval: Interval | None
    exit_code: int
    message: str
    help: str = ""


@dataclass(frozen=True)
class Verdict:
    """Pass, fail or inconclusive, in one sentence, with every rule that was judged."""

    status: str = PASS
    rules: tuple[RuleResult, ...] = ()
    exit_code: int = EXIT_PASS
    sentence: str = ""
