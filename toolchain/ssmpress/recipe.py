"""Every setting of a run: its default, its unit and its check. One frozen dataclass per stage."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from ssmpress.errors import UsageError
from ssmpress.ops import Values


class SparsityOf(StrEnum):
    """The denominator of `--sparsity`."""

    PRUNABLE = "prunable"
    MODEL = "model"


class Target(StrEnum):
    """Instruction set the bundle is made for."""

    HOST = "host"
    X86_64 = "x86_64"
    ARM64 = "arm64"


class Method(StrEnum):
    """Saliency of a weight; the lowest are pruned."""

    GRADIENT_MAGNITUDE = "gradient-magnitude"
    MAGNITUDE = "magnitude"
    WANDA = "wanda"
    SPARSEGPT = "sparsegpt"


class Scope(StrEnum):
    """Where one threshold applies: over all prunable weights, or in each matrix by itself.

    OWL is LAYER with more weights left to the layers that have more outliers.
    """

    GLOBAL = "global"
    LAYER = "layer"
    OWL = "owl"


class Compute(StrEnum):
    """Where calibration and recovery run. `AUTO` is a GPU if there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")
PRUNABLE_CHOICES = (*PROJECTIONS, "embedding", "lm_head")


def _require(ok: bool, option: str, expected: str, got: object) -> None:
    if not ok:
        raise UsageError(f"{option}: expected {expected}; got {got}.")


def _in(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high


@dataclass(frozen=True)
class PruneSettings:
    """Which weights go.

    sparsity: zeros / (prunable weights, or all weights), 0 .. 1 exclusive.
    alpha: exponent of the gradient in |w| |dL/dw|^alpha, 0 .. 4.
    prunable: components whose weights may go.
    pattern: unstructured, "block RxC" or "n:m".
    matrix_limit: no matrix loses more than this part of its weights, sparsity .. 1.
    calibration_batches, calibration_batch, calibration_window: windows of tokens that the
        gradients are averaged over: batches x windows per batch x tokens per window.
    """

    sparsity: float = 0.7
    sparsity_of: SparsityOf = SparsityOf.PRUNABLE
    method: Method = Method.GRADIENT_MAGNITUDE
    alpha: float = 1.0
    scope: Scope = Scope.GLOBAL
    prunable: tuple[str, ...] = PROJECTIONS
    pattern: str = "unstructured"
    matrix_limit: float = 1.0
    calibration_batches: int = 16
    calibration_batch: int = 2
    calibration_window: int = 512

    def __post_init__(self) -> None:
        _require(_in(self.sparsity, 0, 0.99), "--sparsity", "0 to 0.99", self.sparsity)
        _require(_in(self.matrix_limit, self.sparsity, 1), "matrix_limit",
                 "from the sparsity to 1", self.matrix_limit)  # fmt: skip
        _require(_in(self.alpha, 0, 4), "--alpha", "0 to 4", self.alpha)
        choices = ", ".join(PRUNABLE_CHOICES)
        _require(bool(self.prunable), "--prunable", f"at least one of {choices}", "none")
        for name in self.prunable:
            _require(name in PRUNABLE_CHOICES, "--prunable", f"names from {choices}", repr(name))
        _require(
            len(set(self.prunable)) == len(self.prunable),
            "--prunable", "each name once", ", ".join(self.prunable),
        )  # fmt: skip
        for option in ("calibration_batches", "calibration_batch", "calibration_window"):
            _require(getattr(self, option) >= 1, option, "at least 1", getattr(self, option))


@dataclass(frozen=True)
class RecoverSettings:
    """Training after and between the pruning steps: the dense model teaches the pruned one.

    steps: optimiser steps; None is automatic: `gpu_steps` on a GPU, `cpu_seconds` on a CPU;
        0 is no recovery (one-shot pruning).
    batch, window: sequences per step and tokens per sequence; None chooses 64 x 1024 on a GPU and
        8 x 256 on a CPU.
    distill: weight of the KL divergence to the dense model, 0 .. 1; the rest is cross-entropy.
    mask_every: steps between two tightenings of the mask.
    ramp: part of the steps during which sparsity rises, 0 .. 1.
    gradient_decay: the gradient's magnitude is averaged exponentially with this factor.
    regrow: pruned weights keep a value behind the mask and may come back until `settle`.
    settle: part of the steps after which the masks stay, 0 .. 1; only with `regrow`.
    match_hidden: weight of the relative squared distance to the dense model's last hidden state.
    accumulate: micro-batches that one step's batch is split into.
    activation_checkpointing: run each layer again in the backward pass, to save memory.
    muon: Muon instead of AdamW for the projections.
    compile: compile the loss with torch.compile.
    checkpoint_seconds: time between two writes of the file that a killed run goes on from.
    """

    steps: int | None = None
    gpu_steps: int = 1344
    cpu_seconds: float = 110.0
    compute: Compute = Compute.AUTO
    batch: int | None = None
    window: int | None = None
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.02
    warmup_steps: int = 20
    weight_decay: float = 0.05
    clip: float = 1.0
    distill: float = 0.9
    mask_every: int = 20
    ramp: float = 0.6
    gradient_decay: float = 0.9
    regrow: bool = False
    settle: float = 0.75
    match_hidden: float = 0.0
    accumulate: int = 1
    activation_checkpointing: bool = False
    muon: bool = False
    compile: bool = False
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        _require(self.steps is None or self.steps >= 0, "--recover",
                 "auto, none or a number of steps", self.steps)  # fmt: skip
        _require(_in(self.distill, 0, 1), "--distill", "0 to 1", self.distill)
        _require(_in(self.ramp, 0, 1), "ramp", "0 to 1", self.ramp)
        _require(_in(self.settle, 0, 1), "settle", "0 to 1", self.settle)
        for option in ("mask_every", "accumulate", "gpu_steps"):
            name = "--" + option.replace("_", "-")
            _require(getattr(self, option) >= 1, name, "at least 1", getattr(self, option))
        for option in ("cpu_seconds", "match_hidden", "checkpoint_seconds", "weight_decay"):
            _require(_in(getattr(self, option), 0, 1e9), option, "0 to 1e9", getattr(self, option))
        for option in ("batch", "window"):
            value = getattr(self, option)
            _require(value is None or value >= 2, option, "at least 2", value)


class Head(StrEnum):
    """How the head's weights are stored, and a tied embedding's. `AUTO`: 4 bits beside an int8
    body, which costs 0.3 % of the perplexity; else like the body.
    """

    AUTO = "auto"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True)
class PackSettings:
    """How the kept weights are stored. int8 and int4 also quantise the activations, per token."""

    values: Values = Values.INT8
    head: Head = Head.AUTO

    def head_values(self) -> Values:
        """Type of the head's weights."""
        if self.head is not Head.AUTO:
            return Values(self.head)
        return Values.INT4 if self.values is Values.INT8 else self.values


@dataclass(frozen=True)
class DataSettings:
    """Text for calibration, recovery and evaluation; none means the default text.

    evaluation_tokens: at most this many tokens are evaluated; None is all of them.
    window: tokens per evaluation window; windows do not overlap, each starts from the zero state.
    """

    tokenizer: Path | None = None
    calibration: tuple[Path, ...] = ()
    evaluation: tuple[Path, ...] = ()
    evaluation_tokens: int | None = None
    window: int = 1024

    def __post_init__(self) -> None:
        tokens = self.evaluation_tokens
        _require(tokens is None or tokens >= 2, "--evaluation-tokens", "at least 2", tokens)
        _require(self.window >= 2, "window", "at least 2 tokens", self.window)


@dataclass(frozen=True)
class Relative:
    """A limit as a multiple of the baseline's value: 1.05 is written `1.05x`."""

    factor: float

    def __str__(self) -> str:
        return f"{self.factor:g}x"


Limit = float | Relative


@dataclass(frozen=True)
class GateSettings:
    """Limits the result must keep, each a number or `Relative` to a baseline. None: not checked.

    min_retention: dense perplexity / compressed perplexity (quality kept), 0 .. 2.
    max_decode_ms, max_decode_p99_ms: milliseconds for one token, median and 99th percentile.
    min_speedup: dense / compressed median decode time.
    max_perplexity_increase: compressed / dense perplexity - 1; `Relative` limits the compressed
        model's perplexity by the baseline's.
    max_bundle_bytes: every file a device needs. max_rss_bytes: peak of the compressed model.
    baseline: report.json that relative limits refer to.
    """

    min_retention: Limit | None = 0.95
    max_decode_ms: Limit | None = None
    min_speedup: Limit | None = None
    max_perplexity_increase: Limit | None = None
    max_decode_p99_ms: Limit | None = None
    max_bundle_bytes: Limit | None = None
    max_rss_bytes: Limit | None = None
    baseline: Path | None = None

    def __post_init__(self) -> None:
        for option, limit in self.limits().items():
            value = limit.factor if isinstance(limit, Relative) else limit
            _require(_in(value, 0, 1e15), "--" + option.replace("_", "-"),
                     "a number of at least 0", limit)  # fmt: skip
            _require(not isinstance(limit, Relative) or self.baseline is not None, "--baseline",
                     f"a report.json that {option} = {limit} refers to", "none")  # fmt: skip

    def limits(self) -> dict[str, Limit]:
        """The limits that are set, by rule."""
        return {name: getattr(self, name) for name in RULES if getattr(self, name) is not None}


RULES = tuple(item.name for item in fields(GateSettings) if item.name != "baseline")
"""Names of the limits: keys of a policy file, and options with dashes."""


NAMED_RECIPES: dict[str, tuple[PruneSettings, RecoverSettings]] = {
    "default": (PruneSettings(), RecoverSettings()),
    "wikitext": (
        PruneSettings(alpha=0.5),
        RecoverSettings(gpu_steps=2300, ramp=0.4, muon=True, match_hidden=0.7, compile=True),
    ),
}
"""Settings by the name that `--recipe` takes. `wikitext` is the one of docs/pruning.md: found on
WikiText-103's validation text, and meant for a GPU and tens of millions of tokens."""


def named_recipe(name: str) -> tuple[PruneSettings, RecoverSettings]:
    """The settings of a named recipe.

    Raises:
        UsageError: no recipe has that name.
    """
    _require(name in NAMED_RECIPES, "--recipe", " or ".join(NAMED_RECIPES), repr(name))
    return NAMED_RECIPES[name]


def available_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Recipe:
    """One run of the toolchain, from a checkpoint to a bundle and a report.

    save_checkpoint: folder for the pruned weights with their zeros, in mamba-ssm's layout and in
        Hugging Face's; None writes none.
    pruned: a checkpoint of the same shapes that is pruned already; it takes the place of pruning
        and recovery.
    """

    model: Path
    out: Path
    target: Target = Target.HOST
    prune: PruneSettings = field(default_factory=PruneSettings)
    recover: RecoverSettings = field(default_factory=RecoverSettings)
    pack: PackSettings = field(default_factory=PackSettings)
    data: DataSettings = field(default_factory=DataSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    threads: int = field(default_factory=available_threads)
    seed: int = 0
    save_checkpoint: Path | None = None
    pruned: Path | None = None

    def __post_init__(self) -> None:
        _require(1 <= self.threads <= 1024, "--threads", "1 to 1024", self.threads)
        _require(0 <= self.seed < 2**63, "--seed", "0 to 2^63 - 1", self.seed)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON types, for the manifest and the report."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return value
