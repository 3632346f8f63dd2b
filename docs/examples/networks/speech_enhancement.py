"""A speech enhancement network for compress: 30 Mamba blocks along time and frequency, and a mask.

Random weights, 7.8 million, and synthetic sound (harmonics in noise), to try the tool with; the
design is that of SEMamba, arXiv 2405.06573.

    python -c "from speech_enhancement import *; torch.save(net.build().state_dict(), 'speech.pt')"
    compress speech.pt --net speech_enhancement.py --sparsity 0.7
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss

import ssmpress

with ssmpress.stand_ins():  # where mamba-ssm is not installed
    from mamba_ssm import Mamba

WIDTH, BLOCKS, WINDOW, HOP = 192, 30, 400, 100
BINS = WINDOW // 2 + 1


class Along(nn.Module):
    """A Mamba block along axis 1 or 2 of (batch, time, frequency, WIDTH)."""

    def __init__(self, axis):
        super().__init__()
        self.axis, self.norm = axis, nn.LayerNorm(WIDTH)
        self.mamba = Mamba(WIDTH, d_state=16, d_conv=4, expand=2)

    def forward(self, x):
        y = self.norm(x).transpose(self.axis, 2)
        y = self.mamba(y.flatten(0, 1)).unflatten(0, (y.shape[0], y.shape[1]))
        return x + y.transpose(self.axis, 2)


class SpeechEnhancement(nn.Module):
    """Magnitudes and phases (batch, 2, time, BINS) -> enhanced magnitudes (batch, time, BINS)."""

    def __init__(self):
        super().__init__()
        narrow = nn.Conv2d(WIDTH, WIDTH, (1, 3), (1, 2))
        widen = nn.ConvTranspose2d(WIDTH, WIDTH, (1, 3), (1, 2))
        self.encoder = nn.Sequential(nn.Conv2d(2, WIDTH, 1), nn.PReLU(WIDTH), narrow)
        self.blocks = nn.Sequential(*(Along(1 + i % 2) for i in range(BLOCKS)))
        self.decoder = nn.Sequential(widen, nn.PReLU(WIDTH), nn.Conv2d(WIDTH, 1, 1))

    def forward(self, spectrum):
        x = self.blocks(self.encoder(spectrum).permute(0, 2, 3, 1))
        mask = 2 * torch.sigmoid(self.decoder(x.permute(0, 3, 1, 2)))
        return spectrum[:, 0] * mask[:, 0]


def spectrum(sound):
    parts = torch.stft(sound, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    return torch.stack([parts.abs() ** 0.3, parts.angle()], 1).mT.contiguous()


def samples(split):
    random = torch.Generator().manual_seed(int(split == "evaluation"))
    time = torch.arange(1600) / 16000
    for _ in range(8):
        pitch = 100 + 200 * torch.rand(2, 1, generator=random)
        clean = sum(torch.sin(2 * torch.pi * k * pitch * time) / k for k in range(1, 9))
        noisy = clean + 0.5 * torch.randn(clean.shape, generator=random)
        yield spectrum(noisy), spectrum(clean)[:, 0]


net = ssmpress.Network(
    build=SpeechEnhancement,
    inputs={"spectrum": torch.zeros(1, 2, 11, BINS)},  # 0.07 s at 16 kHz
    dynamic={"spectrum": {0: "batch", 2: "frames"}},
    samples=samples,
    loss=mse_loss,
    metric=mse_loss,
    metric_name="squared error",
    higher_is_better=False,
    outputs=["magnitude"],
)
