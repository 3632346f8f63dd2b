"""Train a classifier or forecaster from nothing: the dense baselines of the task recipes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmpress import tasks
from ssmpress.checkpoint import write_checkpoint
from ssmpress.model import Layer, Mamba, Mixer
from ssmpress.prune.order import SampleOrder
from ssmpress.tasks import Samples


@dataclass(frozen=True)
class Training:
    """Settings of one run; `steps` says how long it is, or `seconds` and `epochs`, the first met.

    batch: samples per step. learning_rate: the highest; it rises during the first `warmup` of the
    run and falls as a cosine. dropout: of what each mixer and the head read. token_noise: part of
    the tokens replaced by random ones. checks: evaluations of the validation part, evenly spread;
    the best one's weights are kept. stage_part: of the run that each of the easier `stages` may
    take at most.
    """

    steps: int | None = None
    seconds: float = 60.0
    epochs: float = 1000.0
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    dropout: float = 0.0
    token_noise: float = 0.0
    warmup: float = 0.05
    clip: float = 1.0
    checks: int = 12
    stage_part: float = 1 / 6
    seed: int = 0


@torch.no_grad()
def initialize(model: Mamba) -> None:
    """The initialisation of arXiv 2312.00752: delta log-uniform in 0.001 .. 0.1, A = -1 .. -n."""
    if model.config.has_vocabulary:
        torch.nn.init.normal_(model.backbone.embedding.weight, std=0.02)
    for mixer in model.modules():
        if not isinstance(mixer, Mixer):
            continue
        low, high = math.log(0.001), math.log(0.1)
        delta = torch.exp(torch.rand_like(mixer.dt_proj.bias) * (high - low) + low)
        mixer.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # inverse softplus
        bound = mixer.dt_rank**-0.5
        torch.nn.init.uniform_(mixer.dt_proj.weight, -bound, bound)
        mixer.out_proj.weight /= math.sqrt(model.config.n_layer)


@contextmanager
def dropout(model: Mamba, part: float) -> Any:
    """Within the block, what every mixer and the head read loses this part of its values."""
    norms = [layer.norm for layer in model.backbone.layers if isinstance(layer, Layer)]

    def hook(module: object, inputs: object, output: Tensor) -> Tensor:
        return F.dropout(output, part) if torch.is_grad_enabled() else output

    handles = [norm.register_forward_hook(hook) for norm in [*norms, model.backbone.norm_f]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Clock:
    """How far a run is, 0 .. 1: by its steps, or by the time it may take."""

    def __init__(self, training: Training, samples: int) -> None:
        self.training, self.started = training, time.monotonic()
        self.epoch_steps = samples / training.batch

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def part(self, step: int) -> float:
        """What is done after so many steps."""
        if self.training.steps is not None:
            return step / self.training.steps
        by_epochs = step / self.epoch_steps / self.training.epochs
        return max(self.seconds() / self.training.seconds, by_epochs)


def learning_rate(training: Training, part: float) -> float:
    """One cycle: linear up, cosine down to 2 %."""
    if part < training.warmup:
        return training.learning_rate * max(0.01, part / training.warmup)
    fallen = min(1.0, (part - training.warmup) / (1 - training.warmup))
    return training.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fallen)))


def optimizer_of(model: Mamba, training: Training) -> torch.optim.Optimizer:
    """AdamW; the projections alone decay."""
    named = dict(model.named_parameters())
    decaying = [p for name, p in named.items() if "_proj.weight" in name]
    others = [p for name, p in named.items() if "_proj.weight" not in name]
    groups = [
        {"params": decaying, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.98), fused=True)


def train(
    model: Mamba,
    stages: Sequence[Samples],
    valid: Samples,
    training: Training,
    log: Callable[[dict[str, Any]], None],
    better: Callable[[dict[str, float]], float],
) -> dict[str, Any]:
    """Train in place; the weights of the best check on `valid` stay.

    Args:
        stages: training parts from easy to hard, the last one the task's own. The next follows when
            nine of ten samples are right, or at the latest after `training.stage_part` each.
        better: of a check's metrics, the higher the better.

    Returns:
        Steps, samples and tokens seen, seconds, and the best check.
    """
    torch.manual_seed(training.seed)
    device = next(model.parameters()).device
    optimizer, clock = optimizer_of(model, training), Clock(training, stages[-1].count)
    orders = [SampleOrder(samples, training.batch, training.seed) for samples in stages]
    lengths = [samples.lengths for samples in stages]
    stage, stage_step, tokens, step, right = 0, 0, 0, 0, 0.5
    best: dict[str, Any] = {"score": -math.inf}
    checks = 0
    while (part := clock.part(step)) < 1:
        order = orders[stage]
        numbers = order.numbers(stage_step)
        batch = tasks.load_batch(order.samples, numbers, device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, part)
        noise_seed = training.seed * 1_000_003 + step
        noisy = tasks.noisy(batch, training.token_noise, model.config.vocab_size, noise_seed)
        with (
            dropout(model, training.dropout),
            torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
        ):
            outputs = tasks.predict(model, noisy)
            loss = tasks.target_loss(outputs, batch.targets, model.config.task.kind)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        tokens += int(lengths[stage][numbers].sum())
        step, stage_step = step + 1, stage_step + 1
        if stage < len(stages) - 1 and step % 10 == 0:
            found = float((outputs.argmax(-1) == batch.targets).float().mean())
            right += 0.1 * (found - right)
            if right > 0.9 or clock.part(step) > (stage + 1) * training.stage_part:
                stage, stage_step, right = stage + 1, 0, 0.5
                log({"step": step, "stage": stage, "seconds": round(clock.seconds(), 1)})
        if clock.part(step) >= (checks + 1) / training.checks:
            checks += 1
            metrics = tasks.metric(model, valid, batch=training.batch)
            line = {
                "step": step,
                "seconds": round(clock.seconds(), 1),
                **({"stage": stage, "right": round(right, 4)} if len(stages) > 1 else {}),
                "loss": float(loss.detach()),
                **metrics,
            }
            log(line)
            if better(metrics) > best["score"] and stage == len(stages) - 1:
                weights = {name: t.clone() for name, t in model.tensors().items()}
                best = {"score": better(metrics), "step": step, "weights": weights, **metrics}
    weights = best.pop("weights", None)
    if weights is not None:
        with torch.no_grad():
            for name, tensor in model.tensors().items():
                tensor.copy_(weights[name])
    best.pop("score")
    return {
        "steps": step, "samples": step * training.batch, "tokens": tokens,
        "seconds": round(clock.seconds(), 1), "best": best,
    }  # fmt: skip


@torch.no_grad()
def round_to_half(model: Mamba) -> None:
    """The weights as a file of halves stores them, so that what is measured is what is kept."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half().float())


def save(model: Mamba, folder: Path, tokenizer: Path | None = None) -> None:
    """A checkpoint in mamba-ssm's layout, with weights of 16 bits."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.tensors().items()}
    write_checkpoint(model.config, tensors, folder, tokenizer=tokenizer)
    new = folder / "pytorch_model.bin.new"
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, new)
    new.replace(folder / "pytorch_model.bin")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(value, indent=1) + "\n")
    new.replace(path)


def logger(path: Path, name: str) -> Callable[[dict[str, Any]], None]:
    """Lines of JSON, appended to a file and printed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return partial(_log, path, name)


def _log(path: Path, name: str, line: dict[str, Any]) -> None:
    text = json.dumps({"run": name, **line})
    print(text, flush=True)
    with path.open("a") as file:
        file.write(text + "\n")
