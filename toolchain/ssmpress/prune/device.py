"""Where calibration and recovery run."""

from __future__ import annotations

import torch

from ssmpress.errors import DeviceError
from ssmpress.recipe.settings.recover import Compute


def compute_device(compute: Compute) -> torch.device:
    """The processor that calibration and recovery run on.

    Raises:
        DeviceError: a GPU is asked for and PyTorch finds none.
    """
    if compute is Compute.CUDA and not torch.cuda.is_available():
        raise DeviceError(
            "--compute cuda: expected a GPU; PyTorch finds none. Install a CUDA build of PyTorch, "
            "or use --compute cpu."
        )
    cuda = torch.cuda.is_available() and compute is not Compute.CPU
    return torch.device("cuda" if cuda else "cpu")


def device_name(device: torch.device) -> str:
    """ "cpu", or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
