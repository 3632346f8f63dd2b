"""Prune a language model with recovery, by a list of runs, and measure what it cost.

    PYTHONPATH=toolchain python toolchain/experiments/wikitext.py --model mamba-31m \\
        --train wiki_*.xz --valid valid.detok.txt --test test.detok.txt \\
        --runs toolchain/experiments/wikitext.json --only wikitext-70 --out build/wikitext

A run is settings of recipe.PruneSettings and recipe.RecoverSettings, a seed, and optionally `from`:
an earlier run whose weights it starts with; the dense model is the teacher in every run. The test
text is touched only by runs that say `"test": true`. Perplexity is over windows that do not
overlap, in bfloat16 on a GPU and float32 on a CPU, of the weights rounded to float16 as stored.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.data.tokens import cut_windows, load_tokens
from ssmpress.prune.distill import Teacher
from ssmpress.prune.mask import prunable_names, sparsity_summary
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.order import Tokens
from ssmpress.prune.recover import prune_and_recover
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope
from ssmpress.recipe.settings.recover import RecoverSettings


@dataclass
class Bench:
    """The model and texts that all runs share."""

    checkpoint: Checkpoint
    train: Tokens
    valid: Tokens
    test: Tokens | None
    out: Path
    device: torch.device
    window: int = 1024

    def __post_init__(self) -> None:
        self.teacher = Teacher(self.load())

    def load(self, run: str | None = None) -> Mamba:
        """The dense model, or the result of an earlier run, on the device."""
        path = None if run is None else self.out / run
        checkpoint = self.checkpoint if path is None else read_checkpoint(path)
        return Mamba.from_checkpoint(checkpoint, self.device)

    def quality(self, model: Mamba, test: bool) -> dict[str, float]:
        """Perplexity on the valid text, and on the test text if asked for."""
        result = {"valid": perplexity(model, self.valid, self.window)}
        if test and self.test is not None:
            result["test"] = perplexity(model, self.test, self.window)
        return result


@torch.no_grad()
def perplexity(model: Mamba, tokens: Tokens, window: int, batch: int = 16) -> float:
    """exp(mean negative log likelihood per token) over windows that do not overlap."""
    device = model.lm_head.weight.device
    total, count = 0.0, 0
    rows = torch.from_numpy(cut_windows(np.asarray(tokens, np.int32), window)).long()
    for part in torch.split(rows, batch):
        part = part.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model.logits(part)
        total += float(model.config.task.target_loss(logits, part)) * part[:, 1:].numel()
        count += part[:, 1:].numel()
    return math.exp(total / count)


def settings_of(run: dict[str, Any]) -> tuple[PruneSettings, RecoverSettings]:
    """The settings that a run's JSON describes."""
    prune = dict(run.get("prune", {}))
    for key, kind in (("method", Method), ("scope", Scope)):
        if key in prune:
            prune[key] = kind(prune[key])
    return PruneSettings(**prune), RecoverSettings(**run.get("recover", {}))


def run_one(bench: Bench, run: dict[str, Any]) -> dict[str, Any]:
    """Prune, recover, measure; writes OUT/NAME.json, and the weights to OUT/NAME if `save`."""
    model = bench.load(run.get("from"))
    prune, recover = settings_of(run)

    def progress(what: str, done: int, total: int) -> None:
        print(f"{time.strftime('%H:%M:%S')} {run['name']} {what} {done}/{total}", flush=True)

    result = prune_and_recover(
        model,
        TextMaterial(bench.train),
        prune,
        recover,
        seed=run.get("seed", 0),
        progress=progress,
        teacher=bench.teacher,
        resume_file=bench.out / f"{run['name']}.resume" if run.get("resume") else None,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    prunable = prunable_names(model, prune.prunable)
    weights = {name: w for name, w in model.tensors().items() if name in prunable}
    report = {
        **run,
        "perplexity": bench.quality(model, bool(run.get("test"))),
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 1),
        "device": result.device,
        "torch": torch.__version__,
        "sparsity": sparsity_summary(model, weights),
        "history": result.history,
    }
    bench.out.mkdir(parents=True, exist_ok=True)
    (bench.out / f"{run['name']}.json").write_text(json.dumps(report, indent=1) + "\n")
    if run.get("save"):
        tensors = {name: tensor.cpu() for name, tensor in model.tensors().items()}
        write_checkpoint(
            bench.checkpoint.config,
            tensors,
            bench.out / run["name"],
            layout=bench.checkpoint.layout,
            tokenizer=bench.checkpoint.tokenizer,
        )
    print(run["name"], report["perplexity"], f"{result.seconds:.0f} s", flush=True)
    return report


def open_bench(arguments: argparse.Namespace) -> Bench:
    """Read the model and the texts."""
    checkpoint = read_checkpoint(arguments.model)
    tokenizer = load_tokenizer(arguments.tokenizer or arguments.model / "tokenizer.json")

    def read(paths: list[Path]) -> Tokens:
        return load_tokens(paths, tokenizer, checkpoint.config.vocab_size)

    return Bench(
        checkpoint=checkpoint,
        train=read(arguments.train),
        valid=read([arguments.valid]),
        test=read([arguments.test]) if arguments.test else None,
        out=arguments.out,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        window=arguments.window,
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Prune with recovery and measure.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, default=None)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--test", type=Path, default=None)
    parser.add_argument("--runs", type=Path, default=Path(__file__).with_name("wikitext.json"))
    parser.add_argument("--only", nargs="*", default=None, help="names of runs; default all")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=Path("build/wikitext"))
    return parser.parse_args(argv)


def main() -> None:
    """Do the runs in order."""
    arguments = parse()
    bench = open_bench(arguments)
    print("dense", bench.quality(bench.teacher.model, test=True), flush=True)
    for run in json.loads(arguments.runs.read_text()):
        if arguments.only is None or run["name"] in arguments.only:
            run_one(bench, run)


if __name__ == "__main__":
    main()
