"""junit.xml: one test per gate rule, so that a CI shows a broken limit as a failed test.

A failed rule is a failure, an undecided one an error: neither counts as passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.report import classes, prose
from ssmpress.report.tables import lookup, printable, title
from ssmpress.results.report import FAIL, INCONCLUSIVE, Report


def render_junit(reports: Mapping[str, Report]) -> str:
    """JUnit XML with one suite per report.

    Args:
        reports: judged ones, by where they come from.
    """
    from junitparser import JUnitXml

    document: Any = JUnitXml("ssmpress gate")
    for source, report in reports.items():
        document.add_testsuite(_suite(source, report))
    document.update_statistics()
    text: bytes | str = document.tostring()
    return text if isinstance(text, str) else text.decode()


def _suite(source: str, report: Report) -> Any:
    from junitparser import Skipped, TestCase, TestSuite

    suite = TestSuite(_text(title(report)))
    suite.add_property("report", _text(source))
    suite.add_property("verdict", _text(lookup(report, "verdict", "sentence") or "Not judged yet."))
    if line := prose.architecture(report):
        suite.add_property("model", _text(line))
    notes = (prose.crowding(lookup(report, "latency")), prose.ssmrun_lacks(report))
    for note in (*classes.notes(report), *notes):
        if note:
            suite.add_property("note", _text(note))
    rules = lookup(report, "verdict", "rules") or []
    for rule in rules:
        suite.add_testcase(_case(source, rule))
    if not rules:
        case = TestCase("no limit", classname=_text(f"ssmpress.gate.{source}"))
        case.result = [Skipped("No limit was set.")]
        suite.add_testcase(case)
    return suite


def _case(source: str, rule: Mapping[str, Any]) -> Any:
    from junitparser import Error, Failure, TestCase

    case = TestCase(_text(rule["name"]), classname=_text(f"ssmpress.gate.{source}"))
    text = _text(f"{rule['message']} {rule.get('help', '')}".strip())
    if rule["status"] == FAIL:
        case.result = [Failure(text, "fail")]
    elif rule["status"] == INCONCLUSIVE:
        case.result = [Error(text, "inconclusive")]
    else:
        case.system_out = text
    return case


def _text(value: object) -> str:
    return str(printable(str(value)))
