"""What part of the state of a model costs, without recovery: perplexity, bytes and decode time.

    PYTHONPATH=toolchain python toolchain/experiments/states.py --model mamba2-15m \\
        --train wiki_000.xz --valid valid.detok.txt --out state_pruning.json

Every choice of what goes is measured in ONNX Runtime with float32 weights on the same windows of
the valid text: by gradient with one threshold or as many in each layer, by magnitude, and by lot.
Decoding is timed with int8 weights, whole and smaller models taking turns. OUT gets a block for the
model and keeps those of others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.data.tokens import cut_windows, load_tokens
from ssmpress.graph.export import export
from ssmpress.machine import get_library_path
from ssmpress.measure.interleaved import host_environment
from ssmpress.pack.model import pack_model
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.narrow import narrow
from ssmpress.prune.saliency import magnitude
from ssmpress.prune.states import (
    States,
    keep_highest,
    magnitude_of,
    prunable_states,
    score_states,
)
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import PruneSettings, Scope
from ssmpress.runtime.loading import open_session
from ssmpress.runtime.session import Session
from ssmpress.stages.states import compared_states
from ssmpress.tasks.perplexity import perplexity

DRAWS = 3
"""Choices by lot."""

ROUNDS, STEPS = 9, 64


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    checkpoint: Checkpoint
    windows: np.ndarray[Any, np.dtype[np.int32]]
    threads: int

    def smaller(self, kept: States) -> Checkpoint:
        """The model without what is not kept."""
        config, tensors = narrow(self.checkpoint.config, self.checkpoint.tensors, kept)
        return replace(self.checkpoint, config=config, tensors=tensors)

    def session(self, checkpoint: Checkpoint, settings: PackSettings | None) -> Session:
        """In ONNX Runtime; None is float32."""
        packed = pack_model(checkpoint.config, checkpoint.tensors, settings)
        with tempfile.TemporaryDirectory() as folder:
            path = export(packed, Path(folder) / "model.onnx")[0]
            return open_session(path, threads=self.threads, library=get_library_path())

    def perplexity(self, checkpoint: Checkpoint) -> float:
        """Of the float32 weights."""
        predict = self.session(checkpoint, None).predict
        return round(perplexity(predict, self.windows).perplexity, 3)


def choices(bench: Bench, train: Any) -> list[tuple[str, Scope, Sequence[torch.Tensor]]]:
    """Name, scope and scores of every choice."""
    model, states = (
        Mamba.from_checkpoint(bench.checkpoint),
        prunable_states(bench.checkpoint.config),
    )
    batches = TextMaterial(train).calibration(PruneSettings(), 0, torch.device("cpu"))
    by_gradient = score_states(model, batches)
    weights = magnitude(model, [name for state in states for name in state.weights])
    by_magnitude = [magnitude_of(state, weights) for state in states]
    generator = torch.Generator().manual_seed(0)

    def draw() -> list[torch.Tensor]:
        return [torch.rand(s.axis.groups, s.each, generator=generator) for s in states]

    return [
        ("gradient", Scope.GLOBAL, by_gradient),
        ("gradient", Scope.LAYER, by_gradient),
        ("magnitude", Scope.GLOBAL, by_magnitude),
        ("magnitude", Scope.LAYER, by_magnitude),
        *(("random", Scope.LAYER, draw()) for _ in range(DRAWS)),
    ]


def row(bench: Bench, name: str, scope: Scope, kept: States, part: float) -> dict[str, Any]:
    """One choice, measured."""
    smaller = bench.smaller(kept)
    states = compared_states(bench.checkpoint.config, smaller.config)
    return {
        "choice": name,
        "scope": scope,
        "part": part,
        "perplexity": bench.perplexity(smaller),
        "state": [state.numbers for state in states if state.numbers is not None],
        "state_bytes": sum(state.bytes for state in states),
        "weights": sum(tensor.numel() for tensor in smaller.tensors.values()),
    }


def decode_times(bench: Bench, models: dict[str, Checkpoint]) -> dict[str, dict[str, float]]:
    """Median ms of a step with int8 weights, and the spread of the rounds' medians."""
    sessions = {name: bench.session(model, PackSettings()) for name, model in models.items()}
    medians: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(ROUNDS + 1):  # the first is to warm up
        for name, session in sessions.items():
            _, state = session.predict(bench.windows[:1, :64].astype(np.int64))
            times = []
            for token in bench.windows[0, 64 : 64 + STEPS]:
                start = time.perf_counter()
                _, state = session.step(np.array([token]), state)
                times.append(1e3 * (time.perf_counter() - start))
            if turn:
                medians[name].append(statistics.median(times))
    return {
        name: {
            "p50_ms": round(statistics.median(values), 4),
            "low_ms": round(min(values), 4),
            "high_ms": round(max(values), 4),
        }
        for name, values in medians.items()
    }


def measure(bench: Bench, train: Any, parts: Sequence[float]) -> dict[str, Any]:
    """All rows of one model."""
    config = bench.checkpoint.config
    dense = bench.perplexity(bench.checkpoint)
    rows, timed = [], {"dense": bench.checkpoint}
    for name, scope, scores in choices(bench, train):
        for part in parts:
            kept = keep_highest(config, scores, part, scope)
            rows.append(row(bench, name, scope, kept, part))
            print(json.dumps(rows[-1]), flush=True)
            if name == "gradient" and scope is Scope.GLOBAL:
                timed[f"{part:g}"] = bench.smaller(kept)
    return {
        "tokens": int(bench.windows.shape[0] * (bench.windows.shape[1] - 1)),
        "window": int(bench.windows.shape[1]),
        "dense": dense,
        "dense_state_bytes": sum(s.bytes for s in compared_states(config, config)),
        "rows": rows,
        "decode_int8": decode_times(bench, timed),
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", type=float, nargs="+", default=(0.25, 0.5))
    parser.add_argument("--windows", type=int, default=24, help="of 1024 tokens")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Measure one model, and add it to the file."""
    given = parse()
    checkpoint = read_checkpoint(given.model)
    assert checkpoint.tokenizer is not None
    tokenizer, words = load_tokenizer(checkpoint.tokenizer), checkpoint.config.vocab_size
    train = load_tokens([given.train], tokenizer, words, limit=500_000)
    valid = load_tokens([given.valid], tokenizer, words, limit=1024 * given.windows)
    windows = cut_windows(np.asarray(valid, np.int32), 1024)
    torch.set_num_threads(given.threads)
    result = measure(Bench(checkpoint, windows, given.threads), train, given.parts)
    git = ["git", "rev-parse", "--short", "HEAD"]
    result |= {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": subprocess.run(git, capture_output=True, check=True, text=True).stdout.strip(),
        "torch": torch.__version__,
        "environment": host_environment(threads=given.threads, library=get_library_path()),
    }
    whole = json.loads(given.out.read_text()) if given.out.exists() else {}
    given.out.write_text(json.dumps(whole | {given.model.name: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
