"""A forecaster of one's own, after S-Mamba (arXiv 2403.11144): every variate is a token, and two
Mamba blocks, one in each direction, mix the variates.

    python s_mamba.py ETTh1.csv s_mamba.pt                     trains it, minutes on a CPU
    SERIES=ETTh1.csv compress s_mamba.pt --net s_mamba.py      prunes, packs and proves it
"""

import os
import sys

import numpy as np
import torch
from torch import nn

import ssmpress

with ssmpress.stand_ins():  # where mamba-ssm is not installed
    from mamba_ssm import Mamba

LOOKBACK, HORIZON, TRAIN, VALID = 96, 96, 12 * 30 * 24, 16 * 30 * 24


class Layer(nn.Module):
    """Both directions over the variates, then what each variate's numbers say by themselves."""

    def __init__(self, width):
        super().__init__()
        self.forwards, self.backwards = (Mamba(width, d_state=16, expand=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x):  # (b, variates, width)
        both = self.forwards(x) + self.backwards(x.flip(1)).flip(1)
        x = self.norms[0](x + both)
        return self.norms[1](x + self.mlp(x))


class SMamba(nn.Module):
    """(b, lookback, variates) -> (b, horizon, variates)."""

    def __init__(self, width=128, layers=2):
        super().__init__()
        self.embed = nn.Linear(LOOKBACK, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.head = nn.Linear(width, HORIZON)

    def forward(self, series):
        mean, std = series.mean(1, keepdim=True), series.std(1, keepdim=True) + 1e-5
        x = self.embed(((series - mean) / std).transpose(1, 2))
        for layer in self.layers:
            x = layer(x)
        return self.head(x).transpose(1, 2) * std + mean


def windows(file, split, batch=32):
    """z-scored windows of the training or the test months: (inputs, target), batch by batch."""
    rows = np.loadtxt(file, delimiter=",", skiprows=1, usecols=range(1, 8), dtype=np.float32)
    rows = (rows - rows[:TRAIN].mean(0)) / rows[:TRAIN].std(0)
    low, high = (0, TRAIN) if split == "calibration" else (VALID - LOOKBACK, 20 * 30 * 24)
    cut = torch.from_numpy(rows[low:high]).unfold(0, LOOKBACK + HORIZON, 1).transpose(1, 2)
    if split == "calibration":
        cut = cut[torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))]
    return [(part[:, :LOOKBACK], part[:, LOOKBACK:]) for part in cut.split(batch)]


net = ssmpress.Network(
    build=SMamba,
    inputs={"series": torch.zeros(1, LOOKBACK, 7)},
    dynamic={"series": {0: "batch"}},
    samples=lambda split: windows(os.environ["SERIES"], split),
    loss=nn.functional.mse_loss,
    metric=nn.functional.mse_loss,
    metric_name="MSE",
    higher_is_better=False,
)

if __name__ == "__main__":
    module, data = SMamba(), windows(sys.argv[1], "calibration")
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    for inputs, target in 3 * data:
        optimizer.zero_grad()
        nn.functional.mse_loss(module(inputs), target).backward()
        optimizer.step()
    torch.save(module.state_dict(), sys.argv[2])
