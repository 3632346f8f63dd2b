"""How much each weight matters: the lowest scores are pruned first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssmpress.callbacks import Progress
from ssmpress.errors import BadInputError, UsageError
from ssmpress.prune.material import CalibrationBatch
from ssmpress.prune.model import Model


def parameters_of(model: Model, names: Sequence[str]) -> dict[str, torch.nn.Parameter]:
    """The parameters under their canonical names; a tied head is found under the embedding's."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in names}


def magnitude(model: Model, names: Sequence[str]) -> dict[str, Tensor]:
    """S = |w|, float32, for each named weight."""
    return {name: p.detach().float().abs() for name, p in parameters_of(model, names).items()}


def gradient_magnitude(
    model: Model,
    names: Sequence[str],
    batches: Sequence[CalibrationBatch],
    alpha: float = 1.0,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Gradient-aware magnitude: a large weight with a large gradient matters.

        S = |w| |g|^alpha,   g = mean over the batches of |dL/dw|

    L is the cross-entropy of the next token, or the loss of the model's task. The mean is over
    magnitudes, each batch's gradient being a mean itself: a trained model is near a minimum, so
    signed gradients cancel as batches are added, and what is left would be noise.

    Args:
        model: in float32. names: from mask.prunable_names.
        batches: on the model's device.
        alpha: exponent, 0 is plain magnitude.

    Returns:
        name -> float32, the weight's shape.

    Raises:
        BadInputError: there is no batch, or a gradient is not finite.
        UsageError: the loss does not depend on one of the weights.

    Source: arXiv 2505.08299, gradient-aware magnitude pruning.
    """
    gradients = mean_gradient_magnitude(model, names, batches, progress)
    return combine(magnitude(model, names), gradients, alpha)


def combine(
    magnitudes: dict[str, Tensor], gradients: dict[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """|w| |g|^alpha, each gradient scaled by the largest of all first.

    The scale changes no order. Without it small gradients to a high power leave float32.
    """
    largest = torch.stack([g.max() for g in gradients.values()]).max().clamp_min(1e-30)
    return {name: w * (gradients[name] / largest).pow(alpha) for name, w in magnitudes.items()}


def mean_gradient_magnitude(
    model: Model,
    names: Sequence[str],
    batches: Sequence[CalibrationBatch],
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """mean over the batches of |dL/dw|, float32; the arguments are gradient_magnitude's."""
    parameters = parameters_of(model, names)
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    if not batches:
        raise BadInputError("calibration: expected at least one batch of tokens; got none.")
    for number, batch in enumerate(batches, 1):
        gradients = torch.autograd.grad(
            batch.loss(model), list(parameters.values()), allow_unused=True
        )
        for (name, sum_), gradient in zip(sums.items(), gradients, strict=True):
            if gradient is None:
                raise no_gradient(name)
            sum_ += gradient.float().abs()
        if progress:
            progress("calibration", number, len(batches))
    for name, sum_ in sums.items():
        if not bool(torch.isfinite(sum_).all()):
            raise BadInputError(
                f"{name}: expected finite gradients on the calibration data; got NaN or infinity. "
                "Check that it is of the kind that the model was trained on (of a text: that the "
                "tokenizer is the model's), and that the loss of each batch is finite."
            )
        sum_ /= len(batches)
    return sums


def no_gradient(name: str) -> UsageError:
    """What is said of a weight that the loss does not depend on."""
    return UsageError(
        f"--prunable: expected weights that the loss depends on; got {name}, on which it does not, "
        "so that nothing says which of its weights matter. Leave it out, or use a loss of all "
        "outputs."
    )
