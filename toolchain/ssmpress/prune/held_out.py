"""How much quality the pruned model keeps on calibration data that it is not trained on.

The quality is the gate's: perplexity, accuracy or squared error of the dense model beside the
pruned one's on the same samples. Both are PyTorch models in float32, so what packing costs is not
in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.blocks.model import Mamba
from ssmpress.data.held_out import Split, hold_out_windows
from ssmpress.prune.batches import load_batch, predict, sample_task
from ssmpress.prune.distill import final_hidden
from ssmpress.prune.order import Calibration
from ssmpress.tasks.task import Metric, Samples

Scores = NDArray[np.float64]

STANDARD_ERRORS = 2.0
"""Of the lower end below the estimate: the true value is below it once in forty times."""

CalibrationSplit = Split[NDArray[np.integer[Any]], NDArray[np.int64]] | Split[Samples, Samples]


def hold_out(data: Calibration, count: int, window: int, seed: int) -> CalibrationSplit | None:
    """Set some of the calibration data aside; None where there is too little.

    Args:
        count: of windows or samples. window: tokens, of a text. seed: of a choice at random.
    """
    if isinstance(data, np.ndarray):
        return hold_out_windows(data, count, window)
    return data.hold_out(count, seed)


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

    def __init__(self, split: CalibrationSplit, dense: Mamba, batch: int) -> None:
        self._split, self._metric = split, dense.config.task.metric
        self._device = next(dense.parameters()).device
        numbers = split.numbers
        self._parts = [numbers[at : at + batch] for at in range(0, len(numbers), batch)]
        self._dense = self._scores(dense)

    def check(self, model: Mamba, step: int) -> Check:
        """Hold the pruned model against the dense one."""
        scores = self._scores(model)
        return Check(
            step, *quality_kept(self._dense, scores, self._metric, self._split.independent)
        )

    @torch.no_grad()
    def _scores(self, model: Mamba) -> Scores:
        """Of every sample; a language model's are mean negative log likelihoods."""
        kind = self._device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            parts = [self._part(model, numbers) for numbers in self._parts]
        return torch.cat(parts).double().cpu().numpy()

    def _part(self, model: Mamba, numbers: NDArray[np.int64]) -> Tensor:
        samples = self._split.held_out
        if isinstance(samples, np.ndarray):
            return _window_nll(model, torch.from_numpy(samples[numbers]).to(self._device))
        batch = load_batch(samples, numbers, self._device)
        return sample_task(model).scores(predict(model, batch), batch.targets)


def _window_nll(model: Mamba, tokens: Tensor) -> Tensor:
    """Mean over the predictions of each window, nats. int (b, l) -> (b,).

    The logits of one window exist at a time: of a large vocabulary they are the largest tensor.
    """
    hidden = final_hidden(model, tokens)[:, :-1]
    rows = [
        F.cross_entropy(model.lm_head(h).float(), following)
        for h, following in zip(hidden, tokens[:, 1:], strict=True)
    ]
    return torch.stack(rows)


def quality_kept(
    dense: Scores, pruned: Scores, metric: Metric, independent: float
) -> tuple[float, float]:
    """The retention of the gate, and its lower end by the spread over the samples.

    Args:
        dense, pruned: scores of the same samples, float64 (n,), n >= 2.
        metric: what they are scores of.
        independent: see `Split`.

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
    if unit == 0:  # the dense classifier is never right, or the pruned forecaster never wrong
        return 1.0, 1.0
    kept = float(better.mean()) / unit
    error = errors * float((better - kept * worse).std(ddof=1))
    if rises:
        error += 1 / independent  # scores are steps, and a bell curve is not
    return kept, kept - error / unit
