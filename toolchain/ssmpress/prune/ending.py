"""The end of a recovery that was given no number of steps, and the schedule that follows from it.

Such a run begins as one of 160 steps: it warms up, raises the sparsity to its target, and lets the
learning rate fall, but holds it at a quarter until the end is in sight:

    sparsity        /------------------------------
    learning rate  /\\____________________________\\_
                   | ramp | hold ...           | cool |

The end is in sight when the held-out quality has reached what is asked, when it no longer improves,
or when the time left is what the fall needs. Only the last of the three looks at a clock. Where the
machine is so slow that the ramp does not fit, it becomes shorter: the target sparsity is reached
whenever the run ends.

A dense model that was trained on the held-out data is better there than it is elsewhere, and no
pruned one can keep that: what is asked may then be out of reach there, though the evaluation keeps
it. It costs time only. What no longer improves compares the pruned model with itself, and ends such
a run too.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

from ssmpress.prune.held_out import Check
from ssmpress.prune.plan import Plan
from ssmpress.results.run import Ended

USUAL_STEPS = 160
"""Steps whose ramp an open run has, if the time allows for as many. With them the demo's model at
70 % keeps all of its quality, and with 26 92 %."""

FEW_STEPS = USUAL_STEPS // 2
"""A budget that buys fewer is said to be too small."""

COOL = 0.2
"""Steps of the fall, as a part of those before it."""

MARGIN = 0.01
"""What the quality on held-out data must be above the one asked: int8 with a 4-bit head costs up to
0.7 %, and the evaluation is another text."""

PATIENCE, PATIENT_PART, MIN_GAIN = 4, 0.25, 0.003
"""Quality no longer improves when the best of the last 4 checks, or of the last quarter of them if
that is more, is not 0.3 % better than the best before."""

SPARE = 2.0
"""A step is begun if the time left is so many times the longest of the last few."""

MORE = 1.25
"""Time advised beyond that of the steps alone."""

FLATTERED = "less is kept there than elsewhere if the dense model was trained on this very data"
"""Why a quality on held-out data may be lower than the evaluation's."""

REMEMBERED = 8
"""Durations that the next step's is expected from."""


class Ceiling:
    """A time that is kept, and how much of a run still fits into it.

    Args:
        seconds: of this run, those of an earlier process included. spent: by that process.
        clock: seconds that only go forward.
    """

    def __init__(
        self, seconds: float, spent: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self._clock = seconds, clock
        self._start = clock() - spent
        self._steps: deque[float] = deque(maxlen=REMEMBERED)
        self._other: dict[str, float] = {}

    def spent(self) -> float:
        """Seconds so far."""
        return self._clock() - self._start

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Remember how long a `step`, a `check` or a `save` takes."""
        start = self._clock()
        yield
        self.expect(what, self._clock() - start)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile does not count."""
        start = self._clock()
        yield
        self._start += self._clock() - start

    def expect(self, what: str, seconds: float) -> None:
        """What the next of its kind may take."""
        if what == "step":
            self._steps.append(seconds)
        else:
            self._other[what] = max(seconds, self._other.get(what, 0.0))

    @property
    def step_seconds(self) -> float:
        """A step's mean duration, of the last few."""
        return sum(self._steps) / len(self._steps)

    def fits_step(self) -> bool:
        """Whether a step, the last check and the last save end in time."""
        return self._left() >= SPARE * max(self._steps)

    def steps_left(self) -> int:
        """Steps of the mean duration that fit; `fits_step` may allow fewer."""
        return max(0, int(self._left() / self.step_seconds))

    def _left(self) -> float:
        return self.seconds - self.spent() - sum(self._other.values())


class FixedEnd:
    """The end of a run of a given number of steps."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def goes_on(self, step: int) -> bool:
        """Whether `step` is taken."""
        return step < self.plan.steps

    def expected(self, _: int) -> int:
        """Steps of the whole run."""
        return self.plan.steps

    def log_due(self, step: int) -> bool:
        """Whether the history has this step: about fifty do, the last one apart."""
        return step % max(1, self.plan.steps // 50) == 0

    def timed(self, _: str) -> AbstractContextManager[None]:
        """Durations do not matter."""
        return nullcontext()

    def check_due(self, _: int) -> bool:
        """No check is due: nothing is held out."""
        return False

    def judge(self, check: Check) -> None:
        """No check ends it."""

    def close(self, step: int, check: Callable[[], Check] | None) -> None:
        """There is nothing to close."""

    def state(self) -> dict[str, Any]:
        """No state: the plan says all of it."""
        return {}

    def end_text(self, _: int) -> str:
        """No words: what ends it was asked for."""
        return ""

    def summary(self, _: int) -> dict[str, Any]:
        """What the report says of the end."""
        return {"ended": str(Ended.STEPS)}


class OpenEnd:
    """The end of an open run, and its schedule from step to step: of the checks and the ceiling.

    Args:
        plan: of a run of as many steps as are expected, `USUAL_STEPS` at most.
        quality: kept on held-out data, as the gate counts it; None ends the run only when it no
            longer improves.
        every: steps between two checks; 0 where nothing is held out.
    """

    def __init__(self, plan: Plan, ceiling: Ceiling, quality: float | None, every: int) -> None:
        self.plan, self.ceiling, self.quality, self.every = plan, ceiling, quality, every
        self._parts = plan.ramp_end / plan.steps, plan.settled / plan.steps
        self.checks: list[Check] = []
        self.ended: Ended | None = None

    def goes_on(self, step: int) -> bool:
        """Whether `step` is taken; brings the plan up to date before it."""
        if self.plan.end is not None and step >= self.plan.end:
            return False
        if not self.ceiling.fits_step():
            self.ended = self.ended or Ended.CEILING
            return False
        steps = step + max(1, self.ceiling.steps_left())
        if self.plan.end is not None:
            self.plan = replace(self.plan, end=min(self.plan.end, steps))
            return True
        self._shorten_ramp(step, steps)
        if steps - step <= _cool_steps(step):
            self._cool(step, steps, Ended.CEILING)
        return True

    def _shorten_ramp(self, step: int, steps: int) -> None:
        """Give the run the ramp of one of `steps` steps, if that is shorter than its own."""
        if step > self.plan.settled:
            return
        ramp_end, settled = (max(step, 1, int(part * steps)) for part in self._parts)
        if settled < self.plan.settled:
            ramp_end = min(ramp_end, self.plan.ramp_end)
            self.plan = replace(self.plan, ramp_end=ramp_end, settled=settled)

    def check_due(self, step: int) -> bool:
        """Whether the quality is looked at after `step` steps: once the masks are final."""
        after = step - self.plan.settled
        return self.every > 0 and self.plan.end is None and after > 0 and after % self.every == 0

    def judge(self, check: Check) -> None:
        """End the run if the quality is reached, or no longer improves."""
        self.checks.append(check)
        if self.quality is not None and check.low >= self.quality + MARGIN:
            self._cool(check.step, check.step + _cool_steps(check.step), Ended.QUALITY)
        elif not improves([c.kept for c in self.checks]):
            steps = check.step + _cool_steps(check.step)
            self._cool(check.step, steps, Ended.NO_IMPROVEMENT)

    def _cool(self, step: int, end: int, why: Ended) -> None:
        self.ended = why
        self.plan = replace(self.plan, cool_from=step, end=end)

    def close(self, step: int, check: Callable[[], Check] | None) -> None:
        """The run has ended after `step` steps. check: the last one, where quality is checked."""
        self.plan = replace(self.plan, end=step)
        if check is not None and not (self.checks and self.checks[-1].step == step):
            self.checks.append(check())

    def expected(self, step: int) -> int:
        """Steps of the whole run, as far as the ceiling tells after `step` of them."""
        return self.plan.end or step + max(1, self.ceiling.steps_left())

    def log_due(self, step: int) -> bool:
        """Whether the history has this step: every one at first, then fewer and fewer."""
        return step % (1 << (step // 25).bit_length() >> 1 or 1) == 0

    def timed(self, what: str) -> AbstractContextManager[None]:
        """Remember how long this takes."""
        return self.ceiling.timed(what)

    def state(self) -> dict[str, Any]:
        """What the resume file keeps of it."""
        return {
            "spent": self.ceiling.spent(),
            "step_seconds": self.ceiling.step_seconds,
            "every": self.every,
            "parts": list(self._parts),
            "schedule": {key: getattr(self.plan, key) for key in _SCHEDULE},
            "checks": [asdict(check) for check in self.checks],
            "ended": None if self.ended is None else str(self.ended),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the run that saved `state`; the ceiling knows already what was spent."""
        self.plan = replace(self.plan, **state["schedule"])
        self._parts = tuple(state["parts"])
        self.checks = [Check(**check) for check in state["checks"]]
        self.ended = None if state["ended"] is None else Ended(state["ended"])

    def summary(self, steps: int) -> dict[str, Any]:
        """What the report says of the end, after `steps` steps."""
        return {
            "ended": str(self.ended),
            "ceiling_s": self.ceiling.seconds,
            "spent_s": round(self.ceiling.spent(), 3),
            "seconds_per_step": round(self.ceiling.step_seconds, 4),
            "quality_asked": self.quality,
            "checks": [asdict(check) for check in self.checks],
            "advised_s": self._advised(steps),
        }

    def _advised(self, steps: int) -> int | None:
        """Seconds to give instead, where the ceiling ended the run."""
        if self.ended is not Ended.CEILING:
            return None
        enough = USUAL_STEPS * self.ceiling.step_seconds * MORE
        return rounded_up(enough if steps < USUAL_STEPS else max(enough, 2 * self.ceiling.seconds))

    def plan_text(self) -> str:
        """What is about to happen, one sentence."""
        step, steps = self.ceiling.step_seconds, self.expected(0)
        begin = f"recovery: at most {self.ceiling.seconds:.4g} s"
        if steps < FEW_STEPS:
            enough = rounded_up(USUAL_STEPS * step * MORE)
            return (
                f"{begin}, which buy about {steps} steps of {step:.2g} s: too few to learn back "
                f"much. Give --recover-seconds {enough} for {USUAL_STEPS} of them"
            )
        if not self.every:
            return f"{begin}, about {steps} steps; the calibration data is too short to end earlier"
        reached = "" if self.quality is None else f"{self.quality:.1%} of the quality is kept, or "
        return (
            f"{begin}, about {steps} steps; it ends when on held-out calibration data {reached}"
            "the quality no longer improves"
        )

    def end_text(self, steps: int) -> str:
        """What ended the run after `steps` steps, one sentence."""
        kept = f"{self.checks[-1].kept:.1%} kept" if self.checks else "not measured"
        below = self.quality is not None and self.checks and self.checks[-1].low < self.quality
        why = {
            Ended.QUALITY: f"the quality asked is reached on held-out calibration data ({kept})",
            Ended.NO_IMPROVEMENT: "the quality on held-out calibration data no longer improves "
            f"({kept})",
            Ended.CEILING: f"the time is up (quality on held-out calibration data: {kept}); give "
            f"--recover-seconds {self._advised(steps)}",
        }
        assert self.ended is not None
        flattered = f"; {FLATTERED}" if below and self.ended is not Ended.QUALITY else ""
        return (
            f"recovery: ended after {steps} steps, {self.ceiling.spent():.0f} s: "
            f"{why[self.ended]}{flattered}"
        )


_SCHEDULE = ("steps", "mask_every", "ramp_end", "settled", "warmup", "cool_from", "end")


def rounded_up(seconds: float) -> int:
    """Seconds rounded up to whole tens, from ten minutes on to whole minutes."""
    unit = 10 if seconds <= 600 else 60
    return unit * max(1, math.ceil(seconds / unit))


def _cool_steps(step: int) -> int:
    return max(1, round(COOL * step))


def improves(kept: list[float]) -> bool:
    """Whether the last checks are better than those before, or too few to tell."""
    recent = max(PATIENCE, int(PATIENT_PART * len(kept)))
    if len(kept) <= recent:
        return True
    return max(kept[-recent:]) > (1 + MIN_GAIN) * max(kept[:-recent])
