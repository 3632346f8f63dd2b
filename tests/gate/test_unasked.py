"""What no limit asks for and no report may lack: a dense model that knows something, a compressed
classifier that tells texts apart."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import example_report as example
from example_report import planted
from ssmpress.gate.judge import judge
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.results.quality import Guess, Interval

ANY = (GateSettings(None), GateSettings(0), GateSettings(0.1, max_decode_ms=1e6))


def with_guess(value: float, advantage: float, interval: Interval | None) -> dict[str, Any]:
    """A report of a language model, beside the perplexity of a guess."""
    how = "tokens drawn by their frequency in the calibration text"
    return example.report(guess=Guess(how, value, advantage, interval))


@pytest.mark.parametrize("limits", ANY)
def test_a_dense_model_that_knows_nothing_never_passes(limits: GateSettings) -> None:
    """Whatever is kept of it."""
    better = with_guess(300.0, 10.0, Interval(9.0, 11.0, 0.998))  # dense 30
    assert judge(better, limits).status == "pass"
    for value, advantage, interval in (
        (30.0, 1.0, None),
        (24.0, 0.8, Interval(0.7, 0.9, 0.998)),
        (27.0, 0.9, None),
    ):
        verdict = judge(with_guess(value, advantage, interval), limits)
        assert (verdict.status, verdict.exit_code) == ("inconclusive", 5)
        assert (
            "The dense model is no better than guessing: its perplexity is 30.00, that of tokens "
            "drawn by their frequency in the calibration text is"
        ) in verdict.sentence
        assert "Probably tokenizer.json is that of another model" in verdict.sentence


def test_a_difference_that_may_be_chance_is_undecided() -> None:
    verdict = judge(with_guess(33.0, 1.1, Interval(0.95, 1.3, 0.998)), GateSettings(0.1))
    assert verdict.exit_code == 5
    assert "better than guessing is undecided: its perplexity is 30.00" in verdict.sentence
    assert "Evaluate more text" in verdict.sentence


@pytest.mark.parametrize("path", ["value", "advantage", "interval.low"])
@pytest.mark.parametrize("damage", [None, "10", float("nan"), True])
def test_a_damaged_guess_is_never_a_pass(path: str, damage: Any) -> None:
    report = with_guess(300.0, 10.0, Interval(9.0, 11.0, 0.998))
    damaged = planted(report, f"quality.guess.{path}", damage)
    assert judge(damaged, GateSettings(0.1)).exit_code == 5


def test_a_perplexity_that_is_not_finite_is_no_better_than_any_guess() -> None:
    report = with_guess(300.0, 10.0, None)
    report["quality"]["dense"] = None
    sentence = judge(report, GateSettings(None)).sentence
    assert "its perplexity is not finite" in sentence
    assert "tokenizer" not in sentence, "no tokenizer makes a number overflow"
    assert "Use an earlier checkpoint." in sentence


def test_a_report_of_before_is_held_against_its_vocabulary() -> None:
    report = example.report()
    for size, code in ((31, 0), (30, 5), (8, 5)):
        report["model"]["config"] = {"vocab_size": size}
        assert judge(report, GateSettings(0.1)).exit_code == code


@pytest.mark.parametrize("limits", ANY)
def test_a_report_that_cannot_be_held_against_guessing_never_passes(limits: GateSettings) -> None:
    """A classifier's of before, and a language model's that does not say its vocabulary."""
    of_before = classifier(GOOD, GOOD)
    assert judge(of_before, limits).status == "pass"
    del of_before["quality"]["guess"]
    cut = example.report(model={"config": {"n_layer": 2}})
    for report in (of_before, cut):
        verdict = judge(report, limits)
        assert (verdict.status, verdict.exit_code) == ("inconclusive", 5)
        assert "better than guessing is undecided: quality.guess is missing." in verdict.sentence
        assert "run again" in verdict.sentence


def test_an_architecture_that_was_assumed_is_suspected_too() -> None:
    report = with_guess(24.0, 0.8, None)
    assert "was assumed" not in judge(report, GateSettings(None)).sentence
    report["model"]["architecture"] |= {"assumed": True}
    assert "Architecture: Mamba-1 was assumed" in judge(report, GateSettings(None)).sentence


def classifier(dense: list[list[int]], compressed: list[list[int]]) -> dict[str, Any]:
    """A report of a classifier with these confusion matrices, and no wider doubt."""
    return example.classifier_report(dense, compressed)


GOOD, CONSTANT = [[90, 2], [3, 5]], [[92, 0], [8, 0]]


@pytest.mark.parametrize("limits", ANY)
def test_a_constant_classifier_never_passes(limits: GateSettings) -> None:
    """92 of 100 texts are of one class: 97 % of the dense model's accuracy are kept."""
    assert judge(classifier(GOOD, GOOD), limits).status == "pass"
    report = classifier(GOOD, CONSTANT)
    assert report["quality"]["retention"] > 0.96
    verdict = judge(report, limits)
    assert (verdict.status, verdict.exit_code) == ("fail", 3)
    assert "The compressed model answers 'ham' to every text; the dense one" in verdict.sentence


def test_a_dense_model_that_is_constant_is_no_better_than_guessing() -> None:
    verdict = judge(classifier(CONSTANT, CONSTANT), GateSettings(0.1))
    assert verdict.exit_code == 5
    assert "its accuracy is 0.9200, that of the most frequent class every time is 0.9200" in (
        verdict.sentence
    )
    assert "the order of the classes" in verdict.sentence


def test_texts_of_one_class_prove_nothing() -> None:
    one = [[40, 0], [0, 0]]
    verdict = judge(classifier(one, one), GateSettings(0.1))
    assert verdict.exit_code == 5
    assert "no better than guessing" in verdict.sentence


def test_an_accuracy_that_its_matrix_does_not_give_is_damage() -> None:
    report = classifier(GOOD, GOOD)
    for variant in ("dense", "compressed"):
        changed = copy.deepcopy(report)
        changed["quality"]["classes"][variant]["right"][0] -= 30
        verdict = judge(changed, GateSettings(0.1))
        assert verdict.exit_code == 5
        assert f"quality.{variant} is 0.95, but its own texts give 0.65" in verdict.sentence
