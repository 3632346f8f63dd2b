"""Batches of samples on the model's device, and the model's predictions and loss on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.blocks.gpu import How
from ssmpress.blocks.model import Mamba
from ssmpress.tasks.task import Samples, SampleTask

CUDA_MULTIPLE = 64
"""Texts are padded to a multiple of so many tokens on a GPU, whose kernels then load vectors."""


@dataclass(frozen=True)
class Batch:
    """Some samples on the model's device.

    inputs: int (b, l), tokens, padded at the end; or float32 (b, lookback, variates).
    targets: int (b,), classes; or float32 (b, horizon, variates).
    lengths: int (b,), tokens before the padding; None where nothing is padded.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None

    def first(self) -> Tensor:
        """The inputs as far as no text is padded."""
        return self.inputs if self.lengths is None else self.inputs[:, : int(self.lengths.min())]


def load_batch(samples: Samples, numbers: NDArray[np.int64], device: torch.device) -> Batch:
    """The samples with these numbers. numbers: int (b,), 0 .. samples.count - 1."""
    inputs: NDArray[Any]
    inputs, targets, lengths = samples.arrays(numbers)
    if lengths is not None and device.type == "cuda":
        inputs = np.pad(inputs, ((0, 0), (0, -inputs.shape[1] % CUDA_MULTIPLE)))

    return Batch(
        moved(inputs, device),
        moved(targets, device),
        None if lengths is None else moved(lengths, device),
    )


def moved(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; the copy to a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # else the copy waits for the step before
    return tensor.to(device, non_blocking=True)


def noisy(batch: Batch, part: float, vocab_size: int, seed: int) -> Batch:
    """A copy with this part of the tokens replaced by random ones, the same for the same seed.

    A classifier sees its texts many times; without noise it would learn them by heart.
    """
    if not part or batch.inputs.is_floating_point():
        return batch
    generator = torch.Generator(batch.inputs.device).manual_seed(seed)
    shape, device = batch.inputs.shape, batch.inputs.device
    chosen = torch.rand(shape, generator=generator, device=device) < part
    others = torch.randint(
        vocab_size, shape, generator=generator, device=device, dtype=batch.inputs.dtype
    )
    return Batch(torch.where(chosen, others, batch.inputs), batch.targets, batch.lengths)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 products on a GPU; weights and the residual stream stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def predict(model: Mamba, batch: Batch, recompute: bool = False, ordered: bool = False) -> Tensor:
    """Logits (b, classes) or forecasts (b, horizon, variates), float32; for training too."""
    hidden = model.hidden(batch.inputs, How(recompute, ordered, checkpoint_level=0))
    return model.outputs(hidden, batch.inputs, batch.lengths)


def task_loss(batch: Batch, model: Mamba) -> Tensor:
    """T of the model's predictions: the loss whose gradients say which weights matter."""
    return model.config.task.target_loss(predict(model, batch), batch.targets)


@torch.no_grad()
def metric(model: Mamba, samples: Samples, batch: int = 64) -> dict[str, float]:
    """Metrics of a PyTorch model over all samples, by name; bfloat16 on a GPU.

    The bundle's own figures come through ONNX Runtime.
    """
    task = cast(SampleTask, model.config.task)
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    order = np.argsort(samples.lengths, kind="stable")  # alike lengths together: little padding
    for start in range(0, samples.count, batch):
        part = load_batch(samples, order[start : start + batch], device)
        with autocast(device):
            outputs = model.predict(part.inputs, part.lengths).float()
        for name, value in task.metric_sums(outputs, part.targets).items():
            sums[name] = sums.get(name, 0.0) + value
    return {name: value / samples.count for name, value in sums.items()}
