"""The bundle's README.md: a model card; its metadata is YAML, its numbers are the report's."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from example_report import HOSTILE, hostile, judged
from ssmpress.report.card import render_card


def metadata(text: str) -> dict[str, Any]:
    start, block, _ = text.split("---\n", 2)
    assert start == ""
    return dict(yaml.safe_load(block))


def test_the_card_says_the_measured_numbers() -> None:
    report = judged()
    text = render_card(report)
    card = metadata(text)
    assert (card["library_name"], card["pipeline_tag"]) == ("onnx", "text-generation")
    assert {"onnx", "mamba", "int8"} <= set(card["tags"])
    (model,) = card["model-index"]
    assert model["name"] == "toy-s70-int8"
    (result,) = model["results"]
    metrics = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert metrics["perplexity"] == report["quality"]["compressed"]
    assert metrics["retention"] == report["quality"]["retention"]
    assert metrics["model_bytes"] == report["size"]["model_bytes"]
    assert metrics["decode_ms"] == report["latency"]["decode"]["compressed"]["p50_ms"]
    for part in (
        "# toy-s70-int8",
        "## Run it",
        "| perplexity | 30.00 | - | 31.00 |",
        "without recovery",
        "text.txt, 1,010 tokens",
        "on a\\|cpu, 1 thread.",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (None, "taught by the dense model; values int8"),
        ("steps", "taught by the dense model; values int8"),
        ("quality", "until the quality asked was kept on held-out calibration data; values"),
        ("no-improvement", "on held-out calibration data no longer improved; values"),
        ("ceiling", "until the time was up; values"),
        (["hostile"], "taught by the dense model; values int8"),
    ],
)
def test_the_card_says_what_ended_the_recovery(ended: Any, words: str) -> None:
    report = judged() | {"recovery": {"steps": 118, "tokens": 2000, "ended": ended}}
    text = " ".join(render_card(report).split())
    assert "recovered over 118 steps (2,000 tokens)" in text
    assert words in text


def test_what_runs_it_stands_before_python() -> None:
    text = render_card(judged(), run_it="    ./ssmrun .")
    assert "## Run it\n\n    ./ssmrun .\n\n```python\n" in text
    assert "open_bundle" in text


def test_what_was_not_measured_is_not_claimed() -> None:
    """A bundle for another machine than this one: the card names no processor of this host."""
    assert "took turns" in render_card(judged())
    text = render_card(judged(measurements={}))
    assert "Time and memory were not measured" in text
    assert "took turns" not in text


def test_gaps_are_left_out() -> None:
    card = metadata(render_card(judged(measurements={}, compressed=float("nan"))))
    types = [m["type"] for m in card["model-index"][0]["results"][0]["metrics"]]
    assert types == ["model_bytes"]


@pytest.mark.parametrize("text", [HOSTILE, "a: b\n- c\n---\nevil: 1", "'\"\\", "\x00\ud800"])
def test_hostile_text_stays_text(text: str) -> None:
    report = copy.deepcopy(judged())
    report["recipe"]["model"] = report["data"]["evaluation"]["description"] = text
    report["recipe"]["pack"]["values"] = report["quality"]["metric"] = text
    card = render_card(report)
    card.encode()
    assert set(metadata(card)) == {
        "library_name",
        "pipeline_tag",
        "tags",
        "model-index",
    }
    whole = render_card(hostile(judged()))
    prose = re.sub(r"```sh\n.*?\n```", "", whole.split("---\n", 2)[2], flags=re.DOTALL)
    assert "<script" not in prose.replace("\\<script", "")
