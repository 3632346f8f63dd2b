"""How much quality the pruned model keeps on calibration data that it is not trained on.

The quality is the gate's: perplexity, accuracy or squared error of the dense model beside the
pruned one's on the same samples. Both are PyTorch models in float32, so what packing costs is not
in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ssmpress.prune.batches import autocast
from ssmpress.prune.material import Exam
from ssmpress.prune.model import Model
from ssmpress.tasks.task import Metric

Scores = NDArray[np.float64]

STANDARD_ERRORS = 2.0
"""Of the lower end below the estimate: the true value is below it once in forty times."""


@dataclass(frozen=True)
class Check:
    """One look at the held-out samples.

    step: optimiser steps before it. kept: dense / pruned perplexity or error, or pruned / dense
    accuracy; 0 where the pruned model's is not finite. low: the lower end of what `kept` may be.
    """

    step: int
    kept: float
    low: float


class HeldOut:
    """The held-out samples and the dense model's scores of them.

    Args:
        dense: the teacher, on the run's device. batch: samples that run at once.
    """

    def __init__(self, exam: Exam, dense: Model, batch: int) -> None:
        self._exam, numbers = exam, exam.numbers
        self._device = next(dense.parameters()).device
        self._parts = [numbers[at : at + batch] for at in range(0, len(numbers), batch)]
        self._dense = self._scores(dense)

    def check(self, model: Model, step: int) -> Check:
        """Hold the pruned model against the dense one."""
        scores = self._scores(model)
        exam = self._exam
        return Check(step, *quality_kept(self._dense, scores, exam.metric, exam.independent))

    @torch.no_grad()
    def _scores(self, model: Model) -> Scores:
        """The score of every sample."""
        with autocast(self._device):
            parts = [self._exam.scores(model, numbers) for numbers in self._parts]
        return torch.cat(parts).double().cpu().numpy()


def quality_kept(
    dense: Scores, pruned: Scores, metric: Metric, independent: float
) -> tuple[float, float]:
    """The retention of the gate, and its lower end by the spread over the samples.

    Args:
        dense, pruned: scores of the same samples, float64 (n,), n >= 2.
        metric: what they are scores of.
        independent: see `Exam`.

    Returns:
        (kept, low); (0, 0) where a score of the pruned model is not finite.
    """
    if not np.isfinite(pruned).all():
        return 0.0, 0.0
    errors = STANDARD_ERRORS / math.sqrt(independent)
    if metric.logarithmic:
        difference = dense - pruned
        mean, spread = float(difference.mean()), float(difference.std(ddof=1))
        return math.exp(mean), math.exp(mean - errors * spread)
    rises = metric.higher_is_better
    better, worse = (pruned, dense) if rises else (dense, pruned)
    unit = float(worse.mean())
    if unit < 0:  # a metric of one's own: a ratio would say nothing
        return 0.0, 0.0
    if unit == 0:  # the dense classifier is never right, or the pruned forecaster never wrong
        return 1.0, 1.0
    kept = float(better.mean()) / unit
    error = errors * float((better - kept * worse).std(ddof=1))
    if rises:
        error += 1 / independent  # scores are steps, and a bell curve is not
    return kept, kept - error / unit
