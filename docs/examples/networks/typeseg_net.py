"""typeseg's network for compress: which of 35 file types each byte of a text belongs to.

typeseg 0.2.7 (PyPI, Apache-2.0) was trained in JAX; this is its network with mamba-ssm's names. The
samples are files of Python's standard library, the targets what the trained network says of them.

    python -c "from typeseg_net import *; torch.save(trained().state_dict(), 'typeseg.pt')"
    compress typeseg.pt --net typeseg_net.py --sparsity 0.7
"""

import sysconfig
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad, silu, softplus

import ssmpress

with ssmpress.stand_ins():  # where mamba-ssm is not installed
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

D, STATES, RANK = 256, 16, 16
PARTS = {"Dense_0": "in_proj", "Dense_1": "x_proj", "Dense_2": "dt_proj", "Dense_3": "out_proj"}
PARTS |= {"Conv_0": "conv", "LayerNorm_0": "norm", "Embed_0": "0"}
PARTS |= dict.fromkeys(("kernel", "scale", "embedding"), "weight")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.LayerNorm(D, eps=1e-6), nn.Conv1d(D, D, 4, groups=D)
        self.in_proj, self.out_proj = nn.Linear(D, 2 * D), nn.Linear(D, D)
        self.x_proj, self.dt_proj = nn.Linear(D, RANK + 2 * STATES), nn.Linear(RANK, D)
        self.A_log, self.D = nn.Parameter(torch.zeros(D, STATES)), nn.Parameter(torch.ones(D))

    def forward(self, x):
        u, gate = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        u = silu(self.conv(pad(u.mT, (1, 2))))  # (batch, D, length)
        delta, B, C = self.x_proj(u.mT).mT.split([RANK, STATES, STATES], dim=1)
        delta, A = softplus(self.dt_proj(delta.mT)).mT + 1e-4, -torch.exp(self.A_log)
        y = selective_scan_fn(u, delta, A, B, C, self.D)
        u, delta, B, C = (t.flip(-1) for t in (u, delta, B, C))
        y = y + selective_scan_fn(u, delta, A, B, C, self.D).flip(-1)
        return x + self.out_proj(y.mT * silu(gate))


def build():
    blocks = [Block() for _ in range(6)]
    return nn.Sequential(nn.Embedding(130, D), *blocks, nn.LayerNorm(D, 1e-6), nn.Linear(D, 35))


def trained():  # typeseg's own weights; JAX keeps matrices as (in, out)
    module, tensors = build().eval(), {}
    for name, array in np.load(files("typeseg") / "data" / "mamba_al.npz").items():
        words = [f"{1 + int(w[-1])}" if "Block" in w else PARTS.get(w, w) for w in name.split("__")]
        words[0] = {"norm": "7", "in_proj": "8"}.get(words[0], words[0])
        tensors[".".join(words)] = torch.from_numpy((array.T if "kernel" in name else array).copy())
    module.load_state_dict(tensors)
    return module


def samples(split):
    library, kinds = Path(sysconfig.get_paths()["stdlib"]), (".py", ".txt", ".html", ".css", ".bat")
    texts = [p.read_bytes()[:512] for p in sorted(library.rglob("*")) if p.suffix in kinds]
    texts = [t for t in texts if len(t) == 512][split == "evaluation" :: 8][:128]
    for batch in torch.tensor([[min(byte, 128) for byte in text] for text in texts]).split(8):
        yield batch, trained()(batch).argmax(-1)


net = ssmpress.Network(
    build=build,
    inputs={"bytes": torch.zeros(1, 2048, dtype=torch.int64)},
    dynamic={"bytes": {0: "batch", 1: "length"}},
    samples=samples,
    loss=lambda scores, types: cross_entropy(scores.flatten(0, 1), types.flatten()),
    metric=lambda scores, types: (scores.argmax(-1) == types).float().mean(),
    metric_name="agreement with the trained network",
)
