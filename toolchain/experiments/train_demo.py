"""Train the demo model from nothing: a small Mamba on the language manual that comes with CPython.

    python toolchain/experiments/train_demo.py --out toolchain/ssmpress/demo

Text: the calibration part of `ssmpress.data.default_text`; its evaluation part is never read.
Takes about three minutes on two cores: four times through the text, after which the
model would begin to learn it by heart. The result depends on the Python version (its
manual), the seed and the machine's floating point; the model in the repository was made by this
script with the defaults.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.mamba1 import Mamba1Config, Mixer
from ssmpress.blocks.model import Mamba
from ssmpress.data.default_text import default_text
from ssmpress.data.tokenizer import encode

MAMBA_SSM_CONFIG = {
    "d_model": 192,
    "n_layer": 4,
    "vocab_size": 1024,
    "ssm_cfg": {"layer": "Mamba1"},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
    "tie_embeddings": True,
}


def train_tokenizer(text: str, vocab_size: int, path: Path) -> Tokenizer:
    """Byte-level BPE over the text, saved as tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text], trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


@torch.no_grad()
def initialize(model: Mamba) -> None:
    """The initialisation of arXiv 2312.00752: delta log-uniform in 0.001 .. 0.1, A = -1 .. -n."""
    torch.nn.init.normal_(model.backbone.embedding.weight, std=0.02)
    for mixer in model.modules():
        if not isinstance(mixer, Mixer):
            continue
        delta = torch.exp(
            torch.rand_like(mixer.dt_proj.bias) * math.log(0.1 / 0.001) + math.log(0.001)
        )
        mixer.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # inverse softplus
        bound = mixer.dt_rank**-0.5
        torch.nn.init.uniform_(mixer.dt_proj.weight, -bound, bound)
        mixer.out_proj.weight /= math.sqrt(model.config.n_layer)


def batch_of(tokens: np.ndarray, seed: int, step: int, batch: int, window: int) -> torch.Tensor:
    """Random windows, int64 (batch, window + 1), a function of (seed, step)."""
    random = np.random.default_rng([seed, step])
    starts = random.integers(0, len(tokens) - window - 1, batch)
    return torch.from_numpy(np.stack([tokens[s : s + window + 1] for s in starts]).astype(np.int64))


def loss_of(model: Mamba, tokens: torch.Tensor) -> torch.Tensor:
    """Mean negative log likelihood, nats."""
    logits = model.logits(tokens[:, :-1])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def main() -> None:
    """Train, print the loss on a held-out slice, write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    text, _ = default_text()
    tokenizer = train_tokenizer(text, 1024, arguments.out / "tokenizer.json")
    tokens = encode(tokenizer, text, vocab_size=1024)
    held_out, tokens = tokens[-8193:], tokens[:-8193]
    layer = LayerConfig(mixer=Mamba1Config(d_inner=384, dt_rank=12))
    config = ModelConfig(d_model=192, vocab_size=1024, layers=(layer,) * 4)
    model = Mamba(config)
    initialize(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.95), weight_decay=0.1
    )
    started = time.monotonic()
    for step in range(arguments.steps):
        progress = step / arguments.steps
        rate = arguments.learning_rate * min(1, (step + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        rows = batch_of(tokens, arguments.seed, step, arguments.batch, arguments.window)
        loss = loss_of(model, rows)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49 or step == arguments.steps - 1:
            with torch.no_grad():
                unseen = torch.from_numpy(held_out[:-1].reshape(8, 1024).astype(np.int64))
                held = loss_of(model, unseen).item()
            print(
                f"step {step + 1}: loss {loss.item():.3f}, held out {held:.3f} "
                f"(perplexity {math.exp(held):.1f}), {time.monotonic() - started:.0f} s",
                flush=True,
            )
    half = {name: tensor.half() for name, tensor in model.tensors().items()}
    torch.save(half, arguments.out / "pytorch_model.bin")
    (arguments.out / "config.json").write_text(json.dumps(MAMBA_SSM_CONFIG, indent=1) + "\n")


if __name__ == "__main__":
    main()
