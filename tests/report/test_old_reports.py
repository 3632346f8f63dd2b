"""Reports of before, as they were written then: read, judged and rendered under one schema_version.

before_guesses.json: of the first version that published numbers; it says nothing of guessing.
before_layers.json: the last one whose `model.config` has the sizes of equal layers, not a list.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paths import TESTS
from ssmpress.errors import EXIT_QUALITY
from ssmpress.gate.judge import judge, read_report
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.report.card import render_card
from ssmpress.report.html import render_html
from ssmpress.report.junit import render_junit
from ssmpress.report.markdown import render_markdown

OLD = sorted((TESTS / "report" / "old_reports").glob("*.json"))


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def report(path: Path) -> dict[str, Any]:
    return read_report(path)


def test_it_is_what_was_written_then(path: Path, report: dict[str, Any]) -> None:
    assert len(OLD) == 2
    assert report == json.loads(path.read_text())
    config = report["model"]["config"]
    assert config["n_layer"] == 2 and "layers" not in config
    assert ("guess" in report["quality"]) == (path.stem == "before_layers")


def test_the_gate_judges_it_as_then(report: dict[str, Any]) -> None:
    verdict = judge(report, GateSettings(min_retention=0.9, max_decode_ms=5.0))
    stored = report["verdict"]
    assert (verdict.status, verdict.exit_code) == (stored["status"], stored["exit_code"])
    for rule, before in zip(verdict.rules, stored["rules"], strict=True):
        assert (rule.name, rule.status) == (before["name"], before["status"])
        assert (rule.value, rule.limit) == (before["value"], before["limit"])
        assert rule.interval is not None
        assert [rule.interval.low, rule.interval.high] == pytest.approx(
            [before["interval"]["low"], before["interval"]["high"]]
        )
    assert judge(report, GateSettings(min_retention=0.97)).exit_code == EXIT_QUALITY


def test_it_is_a_baseline(path: Path, report: dict[str, Any]) -> None:
    for factor, status in ((1.2, "pass"), (0.8, "fail")):
        limits = GateSettings(None, max_decode_ms=Relative(factor), baseline=path)
        assert judge(report, limits, baseline=read_report(path)).status == status


def test_it_is_rendered(report: dict[str, Any]) -> None:
    pages = [
        render_markdown(report),
        render_html(report, charts=False),
        render_card(report, "./ssmrun generate ."),
    ]
    for page in pages:
        assert "31.00" in page, "its perplexity"
    assert "The quality kept is" in render_junit({"old": report})
