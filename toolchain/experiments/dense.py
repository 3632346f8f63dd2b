"""Train a classifier or forecaster from nothing: the dense baselines of the task recipes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from recorded import Recorded
from torch import Tensor, nn

from ssmpress.blocks.gpu import How
from ssmpress.blocks.mamba1 import Mixer
from ssmpress.blocks.model import Layer, Mamba
from ssmpress.blocks.tensors import Role, matrix_specs
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.data.labelled import LabelledTexts
from ssmpress.prune import batches
from ssmpress.prune.order import SampleOrder
from ssmpress.tasks.task import Samples

CHECK_BATCH = 256
"""Samples at once where nothing is kept for a backward pass."""


@dataclass(frozen=True)
class Training:
    """Settings of one run; `steps` says how long it is, or `seconds` and `epochs`, the first met.

    batch: samples per step. learning_rate: the highest; it rises during the first `warmup` of the
    run and falls as a cosine. dropout: of what each mixer and the head read. token_noise: part of
    the tokens replaced by random ones. checks: evaluations of the validation part, evenly spread;
    the best one's weights are kept. stage_part: of the run that each of the easier `stages` may
    take at most. hint_weight: of a hint's loss beside the task's.
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
    hint_weight: float = 0.5
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
    """A context in which what every mixer and the head read loses this part of its values."""
    norms = [
        layer.get_submodule(norm)
        for layer in model.backbone.layers
        if isinstance(layer, Layer)
        for norm in dict.fromkeys(part.norm for part in layer.parts)
    ]

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
        """The seconds since the start."""
        return time.monotonic() - self.started

    def rounded(self) -> float:
        """The same to a tenth, for the log."""
        return round(self.seconds(), 1)

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


@dataclass(frozen=True)
class Hint:
    """More to learn from than the task's targets, in some of the stages.

    head: from the last hidden states and a batch of the targets to a loss; it is trained along and
    not kept. targets: of each stage, by sample; None where it has none.
    """

    head: nn.Module
    targets: Sequence[NDArray[Any] | None]


class Batches:
    """Batches on the model's device.

    Args:
        targets: a hint's, by sample. resident: let labelled texts wait there as a whole, which
            pays on a GPU.
    """

    LENGTHS = 256  # resident texts are padded to a multiple of so many: few shapes to record

    def __init__(
        self, samples: Samples, targets: NDArray[Any] | None, device: torch.device, resident: bool
    ) -> None:
        self.samples, self.device = samples, device
        self.targets = None if targets is None else torch.from_numpy(targets).to(device)
        self.resident: tuple[Tensor, Tensor, Tensor] | None = None
        if resident and isinstance(samples, LabelledTexts):
            arrays = (samples.tokens.astype("int32"), samples.starts, samples.labels)
            tokens, starts, labels = (torch.from_numpy(array).to(device) for array in arrays)
            self.resident = tokens, starts, labels
        self.lengths = samples.lengths

    def __call__(self, numbers: NDArray[Any]) -> tuple[batches.Batch, Tensor]:
        """The samples with these numbers and the hint's targets, empty without any."""
        chosen = torch.from_numpy(numbers).to(self.device)
        if self.resident is None:
            batch = batches.load_batch(self.samples, numbers, self.device)
        else:
            tokens, starts, labels = self.resident
            longest = -(-int(self.lengths[numbers].max()) // self.LENGTHS) * self.LENGTHS
            lengths = starts[chosen + 1] - starts[chosen]
            steps = torch.arange(longest, device=self.device)
            inside = steps < lengths[:, None]
            places = torch.where(inside, starts[chosen][:, None] + steps, 0)
            inputs = torch.where(inside, tokens[places], 0).long()
            batch = batches.Batch(inputs, labels[chosen], lengths)
        if self.targets is None:
            return batch, torch.empty(0, device=self.device)
        return batch, self.targets[chosen]


def optimizer_of(
    model: Mamba, training: Training, others: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """AdamW; the projections alone decay. On a GPU its rate is a tensor, as a recording needs."""
    named, specs = dict(model.named_parameters()), matrix_specs(model.config)
    projections = {name for name, spec in specs.items() if spec.role is Role.PROJECTION}
    decaying = [p for name, p in named.items() if name in projections]
    others = [*(p for name, p in named.items() if name not in projections), *others]
    groups = [
        {"params": decaying, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    cuda = decaying[0].is_cuda
    rate = torch.tensor(training.learning_rate, device="cuda") if cuda else training.learning_rate
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True, capturable=cuda)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def step_of(
    model: Mamba, optimizer: torch.optim.Optimizer, training: Training, hint: Hint | None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    """One step: inputs, targets, lengths, the hint's targets -> outputs, loss, the hint's loss.

    An empty tensor stands for none.
    """
    task = model.config.task
    device = next(model.parameters()).device.type
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(inputs: Tensor, targets: Tensor, lengths: Tensor, hints: Tensor) -> tuple[Tensor, ...]:
        optimizer.zero_grad(set_to_none=True)
        with (
            dropout(model, training.dropout),
            torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False),
        ):
            hidden = model.hidden(inputs, How(checkpoint_level=0))
            outputs = model.outputs(hidden, inputs, lengths if lengths.numel() else None)
            loss = task.target_loss(outputs, targets)
            hinted = loss.new_zeros(())
            if hint is not None and hints.numel():
                hinted = training.hint_weight * hint.head(hidden, hints)
        torch.autograd.backward(loss + hinted)
        nn.utils.clip_grad_norm_(parameters, training.clip)
        optimizer.step()
        return outputs.detach(), loss.detach(), hinted.detach()

    return Recorded(step)


@dataclass
class Curriculum:
    """Which of the training parts, from easy to hard, the steps are of.

    last: number of the hardest part. stage: of the one in use. step: how many were taken in it.
    right: running part of its samples that are right, 0 .. 1.
    """

    last: int
    stage: int = 0
    step: int = 0
    right: float = 0.5

    def see(self, outputs: Tensor, targets: Tensor) -> None:
        """Let a step's answers move the running part."""
        right = float((outputs.argmax(-1) == targets).float().mean())
        self.right += 0.1 * (right - self.right)

    def is_learned(self, late: bool) -> bool:
        """Whether the next part is due. late: this one has had its share of the run."""
        return self.stage < self.last and (self.right > 0.9 or late)

    def advance(self) -> None:
        """Go on to the next part."""
        self.stage, self.step, self.right = self.stage + 1, 0, 0.5


def train(
    model: Mamba,
    stages: Sequence[Samples],
    valid: Samples,
    training: Training,
    log: Callable[[dict[str, Any]], None],
    better: Callable[[dict[str, float]], float],
    hint: Hint | None = None,
) -> dict[str, Any]:
    """Train in place; the weights of the best check on `valid` stay.

    Args:
        stages: training parts from easy to hard, the last one the task's own. The next follows when
            nine of ten samples are right, or at the latest after `training.stage_part` each.
        better: of a check's metrics, the higher the better.
        hint: more to learn from.

    Returns:
        Steps, samples and tokens seen, seconds, and the best check.
    """
    torch.manual_seed(training.seed)
    device = next(model.parameters()).device
    heads = [] if hint is None else list(hint.head.to(device).parameters())
    optimizer, clock = optimizer_of(model, training, heads), Clock(training, stages[-1].count)
    take_step = step_of(model, optimizer, training, hint)
    orders = [SampleOrder(samples, training.batch, training.seed) for samples in stages]
    hints = [None] * len(stages) if hint is None else hint.targets
    cuda = device.type == "cuda"
    feeds = [Batches(*pair, device, cuda) for pair in zip(stages, hints, strict=True)]
    nothing = torch.empty(0, device=device)
    course, tokens, step = Curriculum(len(stages) - 1), 0, 0
    best: dict[str, Any] = {"score": -math.inf}
    checks = 0
    while (part := clock.part(step)) < 1:
        numbers = orders[course.stage].numbers(course.step)
        batch, hinted = feeds[course.stage](numbers)
        set_rate(optimizer, learning_rate(training, part))
        noise_seed = training.seed * 1_000_003 + step
        noisy = batches.noisy(batch, training.token_noise, model.config.vocab_size, noise_seed)
        lengths = nothing if batch.lengths is None else batch.lengths
        outputs, loss, hint_loss = take_step(noisy.inputs, batch.targets, lengths, hinted)
        tokens += int(feeds[course.stage].lengths[numbers].sum())
        step, course.step = step + 1, course.step + 1
        if len(stages) > 1 and step % 10 == 0:
            course.see(outputs, batch.targets)
            if course.is_learned(clock.part(step) > (course.stage + 1) * training.stage_part):
                done = {"step": step, "stage_done": course.stage, "right": round(course.right, 4)}
                log({**done, "seconds": clock.rounded(), "hint_loss": float(hint_loss)})
                course.advance()
        if clock.part(step) >= (checks + 1) / training.checks:
            checks += 1
            metrics = batches.metric(model, valid, batch=CHECK_BATCH)
            line = {
                "step": step,
                "seconds": clock.rounded(),
                **({"stage": course.stage, "right": round(course.right, 4)} if course.last else {}),
                "loss": float(loss),
                **({} if hint is None else {"hint_loss": float(hint_loss)}),
                **metrics,
            }
            log(line)
            if better(metrics) > best["score"] and course.stage == course.last:
                weights = {name: t.clone() for name, t in model.tensors().items()}
                best = {"score": better(metrics), "step": step, "weights": weights, **metrics}
    restore(model, best.pop("weights", {}))
    best.pop("score")
    return {
        "steps": step,
        "samples": step * training.batch,
        "tokens": tokens,
        "seconds": clock.rounded(),
        "best": best,
    }


@torch.no_grad()
def restore(model: Mamba, weights: Mapping[str, Tensor]) -> None:
    """Copy weights back into the model; none leave it as it is."""
    for name, tensor in model.tensors().items() if weights else ():
        tensor.copy_(weights[name])


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
