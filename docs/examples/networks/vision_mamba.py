"""A Vision-Mamba-like classifier for compress: patches, a class token, scans in both directions.

Random weights and synthetic images (stripes of four directions in noise), to try the tool with; the
design is that of arXiv 2401.09417.

    python -c "from vision_mamba import *; torch.save(net.build().state_dict(), 'vision.pt')"
    compress vision.pt --net vision_mamba.py --sparsity 0.7
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, silu

import ssmpress

with ssmpress.stand_ins():  # where mamba-ssm is not installed
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

WIDTH, INNER, STATES, RANK, DEPTH, CLASSES, IMAGE, TOKENS = 192, 384, 16, 12, 8, 4, 224, 197


class Direction(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1d = nn.Conv1d(INNER, INNER, 4, groups=INNER, padding=3)
        self.x_proj = nn.Linear(INNER, RANK + 2 * STATES, bias=False)
        self.dt_proj, self.D = nn.Linear(RANK, INNER), nn.Parameter(torch.ones(INNER))
        self.A_log = nn.Parameter(torch.arange(1, STATES + 1).log().repeat(INNER, 1))

    def forward(self, x, z):  # (batch, INNER, length)
        u = silu(self.conv1d(x)[..., : x.shape[-1]])
        delta, B, C = self.x_proj(u.mT).mT.split([RANK, STATES, STATES], dim=1)
        delta, A = linear(delta.mT, self.dt_proj.weight).mT, -torch.exp(self.A_log)
        return selective_scan_fn(u, delta, A, B, C, self.D, z, self.dt_proj.bias, True)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.in_proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.forwards, self.backwards = Direction(), Direction()
        self.out_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x):
        u, z = self.in_proj(self.norm(x)).mT.chunk(2, dim=1)
        y = self.forwards(u, z) + self.backwards(u.flip(-1), z.flip(-1)).flip(-1)
        return x + self.out_proj(y.mT)


class VisionMamba(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, WIDTH, 16, 16), nn.Linear(WIDTH, CLASSES)
        self.token, self.positions = (nn.Parameter(torch.randn(1, n, WIDTH)) for n in (1, TOKENS))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)), nn.LayerNorm(WIDTH))

    def forward(self, image):
        x, half = self.patches(image).flatten(2).mT, TOKENS // 2
        x = torch.cat([x[:, :half], self.token.expand(x.shape[0], -1, -1), x[:, half:]], dim=1)
        return self.head(self.blocks(x + self.positions)[:, half])


def samples(split):
    random = torch.Generator().manual_seed(int(split == "evaluation"))
    for _ in range(8):
        classes = torch.randint(0, CLASSES, (8,), generator=random)
        angles, rows = (classes * torch.pi / CLASSES)[:, None, None], torch.arange(IMAGE) / 4
        stripes = torch.sin(angles.cos() * rows[:, None] + angles.sin() * rows)[:, None]
        yield stripes + torch.randn(8, 3, IMAGE, IMAGE, generator=random), classes


net = ssmpress.Network(
    build=VisionMamba,
    inputs={"image": torch.zeros(1, 3, IMAGE, IMAGE)},
    dynamic={"image": {0: "batch"}},
    samples=samples,
    loss=cross_entropy,
    metric=lambda scores, classes: (scores.argmax(-1) == classes).float().mean(),
    metric_name="accuracy",
)
