"""A classifier's answers by class: what every rendering shows and says of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import jsonschema
import pytest

import example_report as example
from report_schema import SCHEMA, undescribed
from ssmpress.gate.judge import judge
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.report.class_charts import draw_confusion
from ssmpress.report.classes import by_class, confusion, constant_answer, notes
from ssmpress.report.html import render_html
from ssmpress.report.markdown import render_markdown
from ssmpress.report.schema import with_verdict

GOOD, HALF, CONSTANT = [[90, 2], [3, 5]], [[48, 2], [3, 47]], [[92, 0], [8, 0]]


def test_the_report_fits_its_schema() -> None:
    report = example.classifier_report(GOOD, HALF)
    report = with_verdict(report, judge(report, GateSettings(0.9)))
    jsonschema.validate(report, SCHEMA)
    assert undescribed(report, SCHEMA) == []


def test_the_tables_have_every_number() -> None:
    report = example.classifier_report(GOOD, CONSTANT)
    assert by_class(report)[1:] == [
        ["ham", "92", "93", "97.8 %", "100", "100.0 %"],
        ["spam", "8", "7", "62.5 %", "0", "0.0 %"],
    ]
    assert confusion(report, "dense") == [
        ["true class", "answer ham", "answer spam"],
        ["ham", "90", "2"],
        ["spam", "3", "5"],
    ]
    for text in (render_markdown(report), render_html(report)):
        for cell in ("97.8 %", "62.5 %", "answer spam"):
            assert cell in text


def test_language_models_have_no_classes() -> None:
    report = example.report()
    assert notes(report) == draw_confusion(report) == []
    assert len(by_class(report)) == len(confusion(report, "dense")) == 1
    assert "Answers by class" not in render_markdown(report) + render_html(report)


def test_constant_answers_and_unbalanced_texts_are_noted() -> None:
    assert notes(example.classifier_report(HALF, HALF)) == []
    unbalanced, *_ = notes(example.classifier_report(GOOD, GOOD))
    assert unbalanced.startswith(
        "The texts are unbalanced: 92.0 % are 'ham', which is the accuracy"
    )
    constant, *_ = notes(example.classifier_report(GOOD, CONSTANT))
    assert constant == "The compressed model answers 'ham' to every text."
    absent, *_ = notes(example.classifier_report([[9, 1], [0, 0]], [[9, 1], [0, 0]]))
    assert absent == "No text is of 1 of the 2 classes: 'spam'."


@pytest.mark.parametrize(
    ("table", "name"), [(CONSTANT, "ham"), ([[0, 92], [0, 8]], "spam"), (GOOD, None)]
)
def test_a_constant_answer_is_named(table: list[list[int]], name: str | None) -> None:
    report = example.classifier_report(GOOD, table)
    assert constant_answer(report, "compressed") == name
    assert constant_answer(report, "dense") is None


def test_the_picture_shows_both_matrices() -> None:
    (chart,) = draw_confusion(example.classifier_report(GOOD, CONSTANT))
    root = ElementTree.fromstring(chart.svg)
    texts = [element.text for element in root.iter() if element.text]
    assert {"ham", "spam", "dense", "compressed", "98", "100"} <= set(texts)
    assert "dense: 95.0 % on the diagonal; compressed: 92.0 % on the diagonal." in "".join(texts)
