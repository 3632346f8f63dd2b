"""What Pathfinder's easier sets teach beside the class: the curve of every pixel, and its discs.

The class of an image alone is one bit after a thousand tokens, and says nothing until a model
follows curves; these say at every pixel how far it does. The set of the task itself has classes
only, and the head is not kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lra.pathfinder import SIZE
from torch import Tensor, nn

_NONE = -100  # cross_entropy leaves it out


class TraceHead(nn.Module):
    """A linear head from the last hidden state of a pixel to `pathfinder.trace`."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.column = nn.Linear(d_model, SIZE)
        self.discs = nn.Linear(d_model, 3)

    def forward(self, hidden: Tensor, traces: Tensor) -> Tensor:
        """The loss, nats. hidden: float (b, 1024, d_model). traces: uint8 (b, 1024)."""
        code = traces.flatten().long() - 1
        dark = code < 0
        flat = hidden.flatten(0, 1).float()
        column = F.cross_entropy(self.column(flat), torch.where(dark, _NONE, code // 3))
        return column + F.cross_entropy(self.discs(flat), torch.where(dark, _NONE, code % 3))
