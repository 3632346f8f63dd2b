"""What ends a run without a number of steps: the time that it keeps, the quality, and the schedule.

No clock runs here: what steps, checks and saves take is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmpress.prune.ending import (
    MARGIN,
    SPARE,
    USUAL_STEPS,
    Ceiling,
    OpenEnd,
    improves,
    rounded_up,
)
from ssmpress.prune.held_out import Check
from ssmpress.prune.plan import Plan
from ssmpress.prune.schedule import HOLD, cosine_factor, cubic_sparsity, hold_factor
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.results.run import Ended

SETTINGS = RecoverSettings()
EVERY = 16


class Time:
    """A clock that goes on only when something takes its time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_end(seconds: float, step_seconds: float, quality: float | None = None) -> OpenEnd:
    """As run.py begins a run."""
    ceiling = Ceiling(seconds, clock=Time())
    ceiling.expect("step", step_seconds)
    steps = min(USUAL_STEPS, max(1, ceiling.steps_left()))
    ramp_end = min(int(steps * 0.6), steps - 1)
    plan = Plan(
        steps=steps,
        batch=8,
        window=256,
        sparsity=0.7,
        mask_every=max(1, ramp_end // 8),
        ramp_end=ramp_end,
        settled=ramp_end,
        alpha=1.0,
        warmup=min(20, steps // 5),
    )
    return OpenEnd(plan, ceiling, quality, EVERY)


@dataclass
class Run:
    """What happened in a run."""

    steps: int = 0
    sparsity: float = 0.0
    factors: list[float] = field(default_factory=list)
    sparsities: list[float] = field(default_factory=list)


def run(
    end: OpenEnd,
    durations: Iterator[float],
    kept: Callable[[int], float],
    done: Run | None = None,
    stop_after: int | None = None,
) -> Run:
    """As run.py runs it; `durations` are of steps, `kept` is what a check finds."""
    done, clock = done or Run(), end.ceiling._clock
    assert isinstance(clock, Time)

    def check(step: int) -> Check:
        with end.timed("check"):
            clock.now += 0.01
        return Check(step, kept(step), kept(step))

    while end.goes_on(done.steps):
        plan = end.plan
        if plan.mask_due(done.steps):
            done.sparsity = cubic_sparsity(done.steps, 0, plan.ramp_end, plan.sparsity)
        done.sparsities.append(done.sparsity)
        done.factors.append(plan.learning_rate_factor(done.steps, SETTINGS))
        with end.timed("step"):
            clock.now += next(durations)
        done.steps += 1
        if done.steps == stop_after:
            return done
        if end.check_due(done.steps):
            end.judge(check(done.steps))
    if done.steps <= end.plan.settled:  # Training.finish
        done.sparsity = end.plan.sparsity
    end.close(done.steps, lambda: check(done.steps))
    return done


@given(
    durations=st.lists(st.floats(0.01, 20), min_size=1, max_size=40),
    seconds=st.floats(0.5, 400),
    quality=st.sampled_from([None, 0.5, 2.0]),
)
def test_the_time_is_kept_and_the_sparsity_reached(
    durations: list[float], seconds: float, quality: float | None
) -> None:
    """No step takes more than `SPARE` times the longest of the eight before it."""
    taken = [durations[0]]
    for wanted in [*durations[1:], *repeat(durations[-1], 400)]:
        taken.append(min(wanted, SPARE * max(taken[-8:])))
    end = make_end(seconds, taken[0], quality)
    end.ceiling.expect("check", 0.01)
    done = run(end, chain(taken[1:], repeat(0.1)), lambda step: 0.9)
    assert end.ceiling.spent() <= seconds + 1e-9
    assert end.ended is not None
    assert done.sparsity == 0.7 or done.steps == 0
    assert done.sparsities == sorted(done.sparsities)
    assert all(0 < factor <= 1 for factor in done.factors)


def test_the_quality_ends_a_run_and_the_learning_rate_falls_before() -> None:
    end = make_end(3600, 0.5, quality=0.95)
    done = run(end, repeat(0.5), lambda step: 0.8 + step / 1000)
    reached = next(c for c in end.checks if c.kept >= 0.95 + MARGIN)
    assert end.ended is Ended.QUALITY
    assert done.steps == reached.step + round(0.2 * reached.step)
    assert done.factors[:20] == [(i + 1) / 20 for i in range(20)]
    cosine = [cosine_factor(i, USUAL_STEPS, 20, 0) for i in range(reached.step)]
    assert done.factors[20 : reached.step] == [max(HOLD, factor) for factor in cosine[20:]]
    cool = done.factors[reached.step :]
    assert cool == sorted(cool, reverse=True)
    assert cool[-1] == SETTINGS.final_learning_rate
    assert end.checks[-1].step == done.steps
    assert end.summary(done.steps)["advised_s"] is None
    assert end.end_text(done.steps).endswith("% kept)")


def test_a_run_ends_when_the_quality_no_longer_improves() -> None:
    end = make_end(3600, 0.5, quality=0.95)
    done = run(end, repeat(0.5), lambda step: min(0.9, step / 400))
    assert end.ended is Ended.NO_IMPROVEMENT
    assert 360 < done.steps < 600
    text = end.end_text(done.steps)
    assert "no longer improves (90.0% kept); less is kept there than elsewhere if the" in text


def test_the_ceiling_ends_a_run_and_says_what_to_give() -> None:
    end = make_end(110, 4.0, quality=0.95)
    assert "buy about 27 steps of 4 s: too few" in end.plan_text()
    assert "--recover-seconds 840 for 160 of them" in end.plan_text()
    done = run(end, repeat(4.0), lambda step: 0.9)
    assert end.ended is Ended.CEILING
    assert 20 <= done.steps <= 27
    assert "the time is up" in end.end_text(done.steps)
    assert "give --recover-seconds 840" in end.end_text(done.steps)
    assert done.factors[-1] < 0.5, "the learning rate fell"
    assert end.summary(done.steps)["advised_s"] == 840
    longer = make_end(700, 1.0, quality=0.95)
    done = run(longer, repeat(1.0), lambda step: 0.5 + step / 5000)
    assert longer.ended is Ended.CEILING
    assert 600 < done.steps <= 700
    assert longer.summary(done.steps)["advised_s"] == 1440


@pytest.mark.parametrize("kept", [lambda step: 0.8 + step / 1000, lambda step: 0.9])
def test_the_speed_changes_nothing_where_the_time_is_not_up(kept: Callable[[int], float]) -> None:
    runs = []
    for step_seconds, taken in ((0.01, [0.01]), (5.0, [5.0, 30.0, 0.1])):
        end = make_end(36_000, step_seconds, quality=0.95)
        runs.append(run(end, chain.from_iterable(repeat(taken)), kept))
        assert end.ended in (Ended.QUALITY, Ended.NO_IMPROVEMENT)
    assert runs[0] == runs[1]


@given(stop_after=st.integers(1, 130))
def test_a_run_goes_on_as_if_it_had_not_stopped(stop_after: int) -> None:
    def kept(step: int) -> float:
        return 0.8 + step / 700

    whole = run(make_end(3600, 0.5, 0.95), repeat(0.5), kept)
    first = make_end(3600, 0.5, 0.95)
    part = run(first, repeat(0.5), kept, stop_after=stop_after)
    if first.check_due(stop_after):
        first.judge(Check(stop_after, kept(stop_after), kept(stop_after)))
    state = json.loads(json.dumps(first.state()))
    ceiling = Ceiling(3600, state["spent"], Time())
    ceiling.expect("step", state["step_seconds"])
    again = OpenEnd(replace(first.plan, ramp_end=1, settled=1), ceiling, 0.95, state["every"])
    again.restore(state)
    assert ceiling.spent() == pytest.approx(first.ceiling.spent())
    assert run(again, repeat(0.5), kept, done=part) == whole


def test_a_machine_that_becomes_slow_shortens_the_ramp() -> None:
    """Six times slower after a third of the ramp: it ends at the same part of fewer steps."""
    end = make_end(160, 1.0)
    done = run(end, chain(repeat(1.0, 32), repeat(6.0)), lambda step: 0.9)
    assert end.ended is Ended.CEILING
    at_target = done.sparsities.count(0.7)
    assert done.sparsity == 0.7
    assert at_target >= done.steps // 5, "some steps are left for the final masks"


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ([], True),
        ([0.5] * 4, True),
        ([0.5] * 5, False),
        ([0.5, 0.6, 0.6, 0.6, 0.6], True),
        ([0.6, 0.5, 0.5, 0.5, 0.601], False),
        ([0.6, 0.5, 0.5, 0.5, 0.603], True),
        ([i / 100 for i in range(40)] + [0.39] * 9, True),
        ([i / 100 for i in range(40)] + [0.39] * 14, False),
        ([0.0] * 9, False),
    ],
)
def test_improvement(kept: list[float], expected: bool) -> None:
    assert improves(kept) is expected


def test_without_anything_held_out_only_the_time_ends_a_run() -> None:
    end = make_end(300, 1.0, quality=0.95)
    end.every = 0
    assert "too short to end earlier" in end.plan_text()
    done = run(end, repeat(1.0), lambda step: 2.0)
    assert end.ended is Ended.CEILING
    assert done.steps > 250


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.1, 10), (10, 10), (10.1, 20), (599, 600), (601, 660), (3600, 3600)]
)
def test_advice_is_a_round_number(seconds: float, said: int) -> None:
    assert rounded_up(seconds) == said


def test_hold_factor() -> None:
    before = [hold_factor(i, 9, 4, None, None, 0.1) for i in range(12)]
    assert before[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert before[-4:] == [HOLD] * 4
    fall = [hold_factor(i, 9, 4, 10, 14, 0.1) for i in range(9, 14)]
    assert fall[0] == HOLD
    assert fall[1] == pytest.approx(0.1 + (HOLD - 0.1) * (1 - 0.25**0.5))
    assert fall[-1] == pytest.approx(0.1)
    assert hold_factor(20, 9, 4, 10, 14, 0.1) == pytest.approx(0.1)
