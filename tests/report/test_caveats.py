"""What a reader must know before believing a number stands in every rendering of the report."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Any

import pytest

import example_report as example
from ssmpress.gate.judge import judge
from ssmpress.report.card import render_card
from ssmpress.report.html import render_html
from ssmpress.report.junit import render_junit
from ssmpress.report.markdown import render_markdown
from ssmpress.report.schema import with_verdict
from ssmpress.report.wording import command

RENDERINGS: dict[str, Callable[[dict[str, Any]], str]] = {
    "json": lambda report: json.dumps(report, ensure_ascii=False),
    "markdown": render_markdown,
    "html": render_html,
    "card": render_card,
    "junit": lambda report: render_junit({"build/toy": report}),
}


def plain(text: str) -> str:
    """What a reader sees: no escapes of Markdown, HTML or XML."""
    return html.unescape(text).replace("\\", "")


@pytest.fixture(params=RENDERINGS)
def rendered(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], str]:
    return lambda report: plain(RENDERINGS[request.param](report))


@pytest.mark.parametrize("assumed", [False, True])
def test_the_architecture_and_its_evidence(rendered, assumed: bool) -> None:
    evidence = "its tensors' names say so" if assumed else "config.json has model_type 'mamba'"
    block = {"name": "Mamba-1", "evidence": evidence, "assumed": assumed}
    text = rendered(example.judged(model={"architecture": block}))
    assert evidence in text
    assert "Mamba-1" in text
    assert ("was assumed" in text or '"assumed": true' in text) == assumed


LACKS = 'pre_tokenizer.type: expected a kind that ssmrun has; got "UnicodeScripts"'
END = {"id": 0, "text": "<|end|>", "source": "config.json eos_token_id"}


@pytest.mark.parametrize("lacks", [None, LACKS])
@pytest.mark.parametrize("ends", [None, [], [END]])
def test_where_a_text_ends_and_who_can_write_it(rendered, ends: Any, lacks: str | None) -> None:
    """Of the JSON it is the values."""
    text = rendered(example.judged(model={"text": {"end_tokens": ends, "ssmrun_lacks": lacks}}))
    if not text.startswith("<"):  # JUnit's property has what a reader of the verdict must know
        assert ("0 '<|end|>' (config.json eos_token_id)" in text or END["source"] in text) == (
            ends == [END]
        )
        assert ("no token is known" in text or '"end_tokens": []' in text) == (ends == [])
    assert ("UnicodeScripts" in text) == (lacks is not None)


def test_a_card_promises_no_text_that_ssmrun_cannot_write() -> None:
    report = example.judged(model={"text": {"end_tokens": [], "ssmrun_lacks": LACKS}})
    assert command(report) == "bench {name}"
    report = example.judged(model={"text": {"end_tokens": [], "ssmrun_lacks": None}})
    assert command(report).startswith("generate {name} --prompt")
    assert command(example.judged()).startswith("generate {name} --prompt")


@pytest.mark.parametrize("seen", [0.05, 1.0])
def test_quality_on_data_that_was_calibrated_on(rendered, seen: float) -> None:
    """In the verdict's sentence too, whatever the verdict."""
    report = example.judged(seen=seen)
    words = "100.0 % of the evaluation data served for calibration too: on data that was not seen"
    assert (words in report["verdict"]["sentence"]) == (seen == 1.0)
    assert (words in rendered(report)) == (seen == 1.0)


def test_what_an_accuracy_hides(rendered) -> None:
    """Of the JSON it is the numbers."""
    good, constant = [[90, 2], [3, 5]], [[92, 0], [8, 0]]
    report = example.classifier_report(good, constant)
    report = with_verdict(report, judge(report, example.LIMITS))
    text = rendered(report)
    assert "answers 'ham' to every text" in text
    assert "The texts are unbalanced: 92.0 % are 'ham'" in text or '"texts": [92, 8]' in text


@pytest.mark.parametrize("processors", [2, 8])
def test_a_time_that_too_many_threads_took(rendered, processors: int) -> None:
    """Of the JSON it is the numbers, and the verdict's sentence."""
    report = example.report()
    report["latency"] |= {"threads": 8, "available_cpus": processors}
    report = with_verdict(report, judge(report, example.LIMITS))
    text = rendered(report)
    assert ("8 threads shared 2 usable processors and waited" in text) == (processors == 2)
