"""typeseg's network for compress: which of 35 file types each byte of a text belongs to.

typeseg 0.2.7 (PyPI, Apache-2.0) brings trained weights for JAX as an .npz. Written here with
mamba-ssm's names: six bidirectional Mamba blocks with LayerNorm and a convolution that looks ahead.

    pip install typeseg==0.2.7
    python typeseg_net.py typeseg.pt                       # the weights under this file's names
    compress typeseg.pt --net typeseg_net.py --sparsity 0.7

The samples are texts of Python's standard library, the targets what the trained network says.
"""

import sys
import sysconfig
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import nn

import ssmpress

D, STATES, RANK, TOKENS, TYPES = 256, 16, 16, 130, 35


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(D, eps=1e-6)
        self.in_proj, self.out_proj = nn.Linear(D, 2 * D), nn.Linear(D, D)
        self.conv = nn.Conv1d(D, D, 4, groups=D)
        self.x_proj, self.dt_proj = nn.Linear(D, RANK + 2 * STATES), nn.Linear(RANK, D)
        self.A_log, self.D = nn.Parameter(torch.zeros(D, STATES)), nn.Parameter(torch.ones(D))

    def forward(self, x):
        u, gate = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        u = F.silu(self.conv(F.pad(u.mT, (1, 2))))  # (batch, channels, length)
        delta, B, C = self.x_proj(u.mT).split([RANK, STATES, STATES], dim=-1)
        delta, A = F.softplus(self.dt_proj(delta)) + 1e-4, -torch.exp(self.A_log)
        inputs = u, delta.mT, B.mT, C.mT
        forwards = selective_scan_fn(inputs[0], inputs[1], A, inputs[2], inputs[3], self.D)
        u, delta, B, C = (t.flip(-1) for t in inputs)
        backwards = selective_scan_fn(u, delta, A, B, C, self.D).flip(-1)
        return x + self.out_proj((forwards + backwards).mT * F.silu(gate))


def build():
    return nn.Sequential(
        nn.Embedding(TOKENS, D),
        *(Block() for _ in range(6)),
        nn.LayerNorm(D, 1e-6),
        nn.Linear(D, TYPES),
    )


def trained_weights():
    """typeseg's tensors under the names of `build()`; JAX keeps matrices as (in, out)."""
    names = {"Embed_0": "0", "LayerNorm_0": "7", "Dense_0": "8"}
    parts = {"Dense_0": "in_proj", "Dense_1": "x_proj", "Dense_2": "dt_proj", "Dense_3": "out_proj"}
    parts |= {"Conv_0": "conv", "LayerNorm_0": "norm"}
    tensors = {}
    with np.load(files("typeseg") / "data" / "mamba_al.npz") as arrays:
        for name in arrays:
            *where, kind = name.split("__")
            if "Block" in where[0]:
                number = str(1 + int(where[0].rpartition("_")[2]))
                where = [number, *(parts[part] for part in where[1:])]
            else:
                where = [names[where[0]]]
            tensor = torch.from_numpy(arrays[name])
            tensor = tensor.permute(*range(tensor.dim())[::-1]) if kind == "kernel" else tensor
            kind = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(kind, kind)
            tensors[".".join([*where, kind])] = tensor.contiguous()
    return tensors


@cache
def samples(split):
    library = Path(sysconfig.get_paths()["stdlib"])
    kinds = (".py", ".txt", ".html", ".css", ".ps1", ".bat", ".fish", ".cfg", ".json")
    texts = [p.read_bytes()[:512] for p in sorted(library.rglob("*")) if p.suffix in kinds]
    texts = [t for t in texts if len(t) == 512][split == "evaluation" :: 8][:128]
    tokens = torch.tensor([[min(byte, 128) for byte in text] for text in texts])
    trained = build().eval()
    trained.load_state_dict(trained_weights())
    with torch.no_grad():
        return [(batch, trained(batch).argmax(-1)) for batch in tokens.split(8)]


net = ssmpress.Network(
    build=build,
    inputs={"input": torch.zeros(1, 2048, dtype=torch.int64)},
    dynamic={"input": {0: "batch", 1: "length"}},
    samples=samples,
    loss=lambda scores, types: F.cross_entropy(scores.flatten(0, 1), types.flatten()),
    metric=lambda scores, types: (scores.argmax(-1) == types).float().mean(),
    metric_name="agreement with the trained network",
    outputs=["scores"],
)

if __name__ == "__main__":
    torch.save(trained_weights(), sys.argv[1])
