"""What must hold of a report whatever the limits are: what does not is a rule of its own."""

from __future__ import annotations

from ssmpress.errors import EXIT_INCONCLUSIVE, EXIT_QUALITY
from ssmpress.gate.advice import for_quality
from ssmpress.gate.agreement import contradiction
from ssmpress.gate.rules import metric_of
from ssmpress.report.classes import constant_answer
from ssmpress.report.prose import architecture
from ssmpress.report.tables import lookup, number
from ssmpress.report.wording import words
from ssmpress.results.report import FAIL, INCONCLUSIVE, Report
from ssmpress.results.verdict import RuleResult

OVERFLOW = (
    "Its weights or activations are beyond float32: they are damaged, or of a training that "
    "diverged. Use an earlier checkpoint."
)

_UNDECIDED = "Whether the dense model is better than guessing is undecided:"
_OF_BEFORE = "The report is of a version before this was measured, or was cut: run again."


def unasked(report: Report) -> tuple[RuleResult, ...]:
    """The results of what a gate checks unasked; empty where all of it holds."""
    return (*_agreement(report), *_dense(report), *_answers(report), *_target(report))


def _agreement(report: Report) -> tuple[RuleResult, ...]:
    """Inconclusive where a number contradicts the samples that the report holds."""
    why = contradiction(report)
    if not why:
        return ()
    return _inconclusive(
        "agreement",
        f"The report contradicts itself: {why}",
        "It was changed after the run, or is damaged: take the bundle's own, or run again.",
    )


def _dense(report: Report) -> tuple[RuleResult, ...]:
    """Inconclusive where the dense model is not better than guessing: what is kept of nothing says
    nothing.

    By the interval over the samples where there is one. A report without the guesses, of before,
    is held against the size of its vocabulary; one without that either cannot be judged.
    """
    dense, guess = metric_of(report, "quality.dense"), lookup(report, "quality", "guess")
    if dense is None:
        metric = lookup(report, "quality", "metric")
        message = f"The dense model computes nothing: its {metric} is not finite."
        return _inconclusive("dense", message, OVERFLOW)
    if guess is None:
        chance = metric_of(report, "model.config.vocab_size")
        if lookup(report, "quality", "metric") != "perplexity" or chance is None:
            return _inconclusive("dense", f"{_UNDECIDED} quality.guess is missing.", _OF_BEFORE)
        if dense < chance:
            return ()
        return _guessing(report, dense, chance, "tokens drawn by lot")
    value, how = metric_of(report, "quality.guess.value"), str(lookup(guess, "how"))
    advantage = metric_of(report, "quality.guess.advantage")
    bounded = lookup(guess, "interval") is not None
    low = metric_of(report, "quality.guess.interval.low") if bounded else advantage
    if value is None or advantage is None or low is None:
        message = f"{_UNDECIDED} quality.guess has a number that is missing or none."
        return _inconclusive("dense", message, "Run again with the measurement it needs.")
    if advantage <= 1:
        return _guessing(report, dense, value, how)
    if low <= 1:
        message = (
            f"{_UNDECIDED} {_compared(report, dense, value, how)}, and over the "
            f"{words(report).samples} the difference may be chance."
        )
        return _inconclusive("dense", message, words(report).more)
    return ()


def _guessing(report: Report, dense: float, value: float, how: str) -> tuple[RuleResult, ...]:
    """The result of a model that knows nothing, with what is probably wrong."""
    compared = _compared(report, dense, value, how)
    assumed = lookup(report, "model", "architecture", "assumed") is True
    doubt = f" {architecture(report)}" if assumed else ""
    return _inconclusive(
        "dense",
        f"The dense model is no better than guessing: {compared}.",
        f"Probably {words(report).suspects}.{doubt}",
    )


def _compared(report: Report, dense: float, value: float, how: str) -> str:
    mine = number(dense)
    return f"its {lookup(report, 'quality', 'metric')} is {mine}, that of {how} is {number(value)}"


def _answers(report: Report) -> tuple[RuleResult, ...]:
    """A failure where compression left a classifier that answers the same to every text: on
    unbalanced text its accuracy may be kept all the same."""
    name = constant_answer(report, "compressed")
    if name is None or constant_answer(report, "dense") is not None:
        return ()
    message = f"The compressed model answers {name!r} to every text; the dense one does not."
    cure = for_quality(report)
    return (RuleResult("answers", FAIL, None, None, None, EXIT_QUALITY, message, cure),)


def _target(report: Report) -> tuple[RuleResult, ...]:
    """Inconclusive where the bundle ran nowhere, unless that was asked for; nothing to say where it
    ran."""
    target = lookup(report, "target")
    asked = lookup(report, "recipe", "deploy", "skip_device_check") is True
    if target is None or lookup(target, "validated") is not None or asked:
        return ()
    why = str(lookup(target, "reason") or "no device was used.")
    return _inconclusive(
        "target",
        f"Whether the bundle runs is undecided: {why}",
        "Give a machine that runs it, --device ssh://user@host, or ask for the bundle alone: "
        "--skip-device-check.",
    )


def _inconclusive(name: str, message: str, advice: str) -> tuple[RuleResult, ...]:
    code = EXIT_INCONCLUSIVE
    return (RuleResult(name, INCONCLUSIVE, None, None, None, code, message, advice),)
