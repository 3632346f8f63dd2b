"""A speech enhancement network for compress: 30 Mamba blocks along time and frequency, a mask.

Random weights, 8.6 million, and synthetic sound (harmonics in noise), to try the tool with; the
design is that of SEMamba (arXiv 2405.06573), an encoder, blocks along either axis, a mask. Its
checkpoint:

    python speech_enhancement.py speech.pt
    compress speech.pt --net speech_enhancement.py --sparsity 0.7
"""

import sys

import torch
import torch.nn.functional as F
from mamba_ssm import Mamba
from torch import nn

import ssmpress

WIDTH, STATES, PAIRS, WINDOW, HOP = 192, 16, 15, 400, 100
BINS = WINDOW // 2 + 1


class Along(nn.Module):
    """A Mamba block along one axis of (batch, time, frequency, WIDTH)."""

    def __init__(self, axis):
        super().__init__()
        self.axis, self.norm = axis, nn.LayerNorm(WIDTH)
        self.mamba = Mamba(WIDTH, d_state=STATES, d_conv=4, expand=2)

    def forward(self, x):
        y = self.norm(x) if self.axis == 2 else self.norm(x).transpose(1, 2)
        y = self.mamba(y.flatten(0, 1)).unflatten(0, (y.shape[0], y.shape[1]))
        return x + (y if self.axis == 2 else y.transpose(1, 2))


class SpeechEnhancement(nn.Module):
    """Magnitudes and phases (batch, 2, time, BINS) -> enhanced magnitudes (batch, time, BINS)."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(2, WIDTH, 1), nn.PReLU(WIDTH), nn.Conv2d(WIDTH, WIDTH, (1, 3), (1, 2))
        )
        self.blocks = nn.Sequential(*(Along(1 + i % 2) for i in range(2 * PAIRS)))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH, (1, 3), (1, 2)),
            nn.PReLU(WIDTH),
            nn.Conv2d(WIDTH, 1, 1),
        )

    def forward(self, spectrum):
        x = self.encoder(spectrum).permute(0, 2, 3, 1)
        mask = self.decoder(self.blocks(x).permute(0, 3, 1, 2))
        return spectrum[:, 0] * 2 * torch.sigmoid(mask[:, 0])


def spectrum(sound):
    parts = torch.stft(sound, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    return torch.stack([parts.abs() ** 0.3, parts.angle()], 1).mT.contiguous()


def samples(split):
    random = torch.Generator().manual_seed(split == "evaluation")
    time = torch.arange(1600) / 16000
    for _ in range(8):
        pitch = 100 + 200 * torch.rand(2, 1, generator=random)
        clean = sum(torch.sin(6.283 * k * pitch * time) / k for k in range(1, 9))
        noisy = clean + 0.5 * torch.randn(clean.shape, generator=random)
        yield spectrum(noisy), spectrum(clean)[:, 0]


net = ssmpress.Network(
    build=SpeechEnhancement,
    inputs={"spectrum": torch.zeros(1, 2, 11, BINS)},  # 0.07 s
    dynamic={"spectrum": {0: "batch", 2: "frames"}},
    samples=samples,
    loss=F.mse_loss,
    metric=F.mse_loss,
    metric_name="squared error",
    higher_is_better=False,
    outputs=["magnitude"],
)

if __name__ == "__main__":
    torch.save(SpeechEnhancement().state_dict(), sys.argv[1])
