"""What a report's numbers are called where a model has this task: the report's keys are the same
for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TASK_BATCH = 8
"""Samples per batch where the throughput of a model without states is measured."""

BATCH = f"batch of {TASK_BATCH}"


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of one task, for `report/`, `gate/` and the card of a bundle.

    model: what it is, with its article.
    does: what it does once in the time of a `decode` sample, a verb. one: what comes out of that.
    single: the name of its time in a table. time_of_one: the name of its time in a sentence.
    sample: what each such time is of. step: what weights are read once for, with its article.
    whole_step: the same, without.
    steps: what goes in, counted. length: `{}` of them, of one sample.
    many: what a `prefill` sample computes. throughput: its name in a table. prompt: `{}` steps, as
    they go into it.
    samples: what quality is the mean over. evaluated: what the interval of the quality is resampled
    from. more: how to give more of it. also: names of the further metrics.
    suspects: what is probably wrong where a trained model is no better than guessing.
    counted: what instructions are counted per, of `length` tokens.
    pipeline, dataset: Hugging Face's names of the task and of its data.
    python, command: how a bundle is run, in Python and by ssmrun, for its card; `{name}` is its
    folder.
    """

    model: str
    does: str
    one: str
    single: str
    time_of_one: str
    sample: str
    step: str
    whole_step: str
    steps: str
    length: str
    many: str
    throughput: str
    prompt: str
    samples: str
    evaluated: str
    more: str
    suspects: str
    counted: str
    pipeline: str
    dataset: str
    python: str
    command: str
    also: Mapping[str, str] = field(default_factory=dict)
