"""A Vision-Mamba-like classifier for compress: patches, a class token, blocks that scan both ways.

Random weights and synthetic images (stripes of four directions in noise), to try the tool with; the
design is that of arXiv 2401.09417. Its checkpoint:

    python vision_mamba.py vision_mamba.pt
    compress vision_mamba.pt --net vision_mamba.py --sparsity 0.7
"""

import math
import sys

import torch
import torch.nn.functional as F
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import nn

import ssmpress

WIDTH, INNER, STATES, RANK, DEPTH, CLASSES = 192, 384, 16, 12, 8, 4
IMAGE, PATCH = 224, 16
PATCHES = (IMAGE // PATCH) ** 2


class Direction(nn.Module):
    """The convolution and scan of one direction."""

    def __init__(self):
        super().__init__()
        self.conv1d = nn.Conv1d(INNER, INNER, 4, groups=INNER, padding=3)
        self.x_proj = nn.Linear(INNER, RANK + 2 * STATES, bias=False)
        self.dt_proj = nn.Linear(RANK, INNER)
        self.A_log = nn.Parameter(torch.arange(1, STATES + 1).log().repeat(INNER, 1))
        self.D = nn.Parameter(torch.ones(INNER))
        nn.init.uniform_(self.dt_proj.bias, -6, -2)

    def forward(self, x, z):  # (batch, INNER, length)
        u = F.silu(self.conv1d(x)[..., : x.shape[-1]])
        delta, B, C = self.x_proj(u.mT).split([RANK, STATES, STATES], dim=-1)
        delta, A = F.linear(delta, self.dt_proj.weight), -torch.exp(self.A_log)
        bias = self.dt_proj.bias
        return selective_scan_fn(u, delta.mT, A, B.mT, C.mT, self.D, z, bias, delta_softplus=True)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.in_proj = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.forwards, self.backwards = Direction(), Direction()
        self.out_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x):
        u, z = self.in_proj(self.norm(x)).mT.chunk(2, dim=1)
        y = self.forwards(u, z) + self.backwards(u.flip(-1), z.flip(-1)).flip(-1)
        return x + self.out_proj(y.mT)


class VisionMamba(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) / 50)
        self.positions = nn.Parameter(torch.randn(1, PATCHES + 1, WIDTH) / 50)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, image):
        x, half = self.patches(image).flatten(2).mT, PATCHES // 2
        token = self.token.expand(x.shape[0], -1, -1)
        x = torch.cat([x[:, :half], token, x[:, half:]], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x)[:, half]))


def samples(split):
    random = torch.Generator().manual_seed(split == "evaluation")
    rows = torch.arange(IMAGE) / 4
    for _ in range(8):
        classes = torch.randint(0, CLASSES, (8,), generator=random)
        angles = (classes * math.pi / CLASSES)[:, None, None]
        stripes = torch.sin(angles.cos() * rows[:, None] + angles.sin() * rows)
        noise = torch.randn(8, 3, IMAGE, IMAGE, generator=random)
        yield stripes[:, None] + noise, classes


net = ssmpress.Network(
    build=VisionMamba,
    inputs={"image": torch.zeros(1, 3, IMAGE, IMAGE)},
    dynamic={"image": {0: "batch"}},
    samples=samples,
    loss=F.cross_entropy,
    metric=lambda scores, classes: (scores.argmax(-1) == classes).float().mean(),
    metric_name="accuracy",
    outputs=["scores"],
)

if __name__ == "__main__":
    torch.save(VisionMamba().state_dict(), sys.argv[1])
