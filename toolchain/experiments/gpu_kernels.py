"""A model by the GPU's kernels beside its definition: how near, and how fast a training step is.

    PYTHONPATH=toolchain python toolchain/experiments/gpu_kernels.py --model mamba2-15m \\
        --text valid.detok.txt --out build/gpu_kernels.json

Needs a GPU and the optional packages mamba-ssm and causal-conv1d. Distances are relative, of
2-norms, to the definition in float32: of the last hidden state, and of the gradient of every
parameter. What the definition itself loses in mixed precision stands beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.data.tokens import cut_windows, load_tokens

Result = tuple[Tensor, list[Tensor]]
"""The last hidden state, and the gradients in the order of the parameters."""


def one_step(model: Mamba, tokens: Tensor, mixed: bool, kernels: bool) -> Result:
    """The next tokens' cross-entropy, forwards and backwards.

    Args:
        tokens: int (b, l). mixed: by bfloat16 autocast. kernels: or the definition.
    """
    with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
        if kernels:
            hidden = model.hidden(tokens)
        else:
            hidden = model.backbone.norm_f(model.layer_inputs(tokens)[0])
        loss = model.config.task.target_loss(model.outputs(hidden, tokens), tokens)
    return hidden.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def distances(got: Result, exact: Result) -> dict[str, float]:
    """Relative 2-norms of the differences."""
    gradients = [relative(a, b) for a, b in zip(got[1], exact[1], strict=True)]
    return {
        "hidden": relative(got[0], exact[0]),
        "gradients_median": statistics.median(gradients),
        "gradients_largest": max(gradients),
    }


def relative(got: Tensor, exact: Tensor) -> float:
    """|got - exact| / |exact|."""
    return float((got.float() - exact).norm() / exact.norm())


def seconds_of(step: Callable[[], object], repeats: int) -> float:
    """Median of the repeats, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def compare(model: Mamba, tokens: Tensor, batch: int, repeats: int) -> dict[str, Any]:
    """All of it.

    Args:
        tokens: int (n, l), windows to compare on. batch: windows of a step that is timed.
    """
    exact = one_step(model, tokens, mixed=False, kernels=False)
    many = tokens.repeat(-(-batch // len(tokens)), 1)[:batch]
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "windows": list(tokens.shape),
        "batch": batch,
    }
    for name, kernels in (("definition", False), ("kernels", True)):
        near = distances(one_step(model, tokens, True, kernels), exact)
        torch.cuda.reset_peak_memory_stats()

        def step(kernels: bool = kernels) -> Result:
            return one_step(model, many, True, kernels)

        seconds = seconds_of(step, repeats)
        result[name] = {
            "distance": near,
            "tokens_per_second": round(many.numel() / seconds),
            "peak_bytes": torch.cuda.max_memory_allocated(),
        }
    return result


def main() -> None:
    """Compare, print, and write JSON."""
    parser = argparse.ArgumentParser(description="Kernels beside the definition.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, default=None)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=4, help="of 1024 tokens, to compare on")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/gpu_kernels.json"))
    arguments = parser.parse_args()
    checkpoint = read_checkpoint(arguments.model)
    tokenizer = load_tokenizer(arguments.tokenizer or arguments.model / "tokenizer.json")
    tokens = load_tokens([arguments.text], tokenizer, checkpoint.config.vocab_size)
    rows = torch.from_numpy(cut_windows(tokens, 1024)[: arguments.windows]).long().cuda()
    model = Mamba.from_checkpoint(checkpoint, "cuda")
    result = {"model": arguments.model.name}
    result |= compare(model, rows, arguments.batch, arguments.repeats)
    print(json.dumps(result, indent=1))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
