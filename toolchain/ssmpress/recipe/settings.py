"""Every setting of a run: its default, its unit and its check. One frozen dataclass per stage."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from ssmpress.errors import UsageError
from ssmpress.formats import Values
from ssmpress.machine import host_machine
from ssmpress.recipe.address import DeviceAddress, parse_device
from ssmpress.recipe.pick import Condition
from ssmpress.recipe.suggest import did_you_mean, one_of


class SparsityOf(StrEnum):
    """The denominator of `--sparsity`."""

    PRUNABLE = "prunable"
    MODEL = "model"


class Target(StrEnum):
    """Instruction set the bundle is made for."""

    HOST = "host"
    X86_64 = "x86_64"
    ARM64 = "arm64"

    @property
    def machine(self) -> str:
        """As `uname -m` names it: x86_64, aarch64; of HOST whatever this machine is."""
        return {"host": host_machine(), "arm64": "aarch64"}.get(self, str(self))


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


def _flag(name: str) -> str:
    """The option that sets it."""
    return "--" + name.replace("_", "-")


def _choose(settings: object, name: str, kind: type[StrEnum]) -> None:
    """A choice given as text becomes the choice itself, since it is compared by identity."""
    choice = one_of(_flag(name), str(getattr(settings, name)), kind)
    object.__setattr__(settings, name, choice)


def _paths(settings: object, *names: str) -> None:
    """A path given as text becomes a path, one file by itself a tuple of one."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, tuple | list):
            value = tuple(map(Path, value))
        elif value is not None:
            value = Path(value) if name in _ONE_PATH else (Path(value),)
        object.__setattr__(settings, name, value)


_ONE_PATH = ("model", "out", "save_checkpoint", "pruned", "tokenizer", "onnxruntime", "baseline")


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
        for name, kind in (("sparsity_of", SparsityOf), ("method", Method), ("scope", Scope)):
            _choose(self, name, kind)
        _require(_in(self.sparsity, 0, 0.99), "--sparsity", "0 to 0.99", self.sparsity)
        _require(_in(self.matrix_limit, self.sparsity, 1), "matrix_limit",
                 "from the sparsity to 1", self.matrix_limit)  # fmt: skip
        _require(_in(self.alpha, 0, 4), "--alpha", "0 to 4", self.alpha)
        choices = ", ".join(PRUNABLE_CHOICES)
        _require(bool(self.prunable), "--prunable", f"at least one of {choices}", "none")
        for name in self.prunable:
            if name not in PRUNABLE_CHOICES:
                raise UsageError(
                    f"--prunable: expected names from {choices}; got {name!r}."
                    f"{did_you_mean(name, PRUNABLE_CHOICES)}"
                )
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
    token_noise: part of a classifier's tokens replaced by random ones in each step, 0 .. 1.
    accumulate: micro-batches that one step's batch is split into.
    activation_checkpointing: run each layer again in the backward pass, to save memory.
    muon: Muon instead of AdamW for the projections.
    compile: compile the loss with torch.compile.
    deterministic: add up gradients in a fixed order on a GPU too, so that repeated and resumed
        runs agree to the byte; a CPU always does.
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
    token_noise: float = 0.0
    accumulate: int = 1
    activation_checkpointing: bool = False
    muon: bool = False
    compile: bool = False
    deterministic: bool = False
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        _choose(self, "compute", Compute)
        _require(self.steps is None or self.steps >= 0, "--recover",
                 "auto, none or a number of steps", self.steps)  # fmt: skip
        _require(_in(self.distill, 0, 1), "--distill", "0 to 1", self.distill)
        _require(_in(self.ramp, 0, 1), "ramp", "0 to 1", self.ramp)
        _require(_in(self.token_noise, 0, 1), "token_noise", "0 to 1", self.token_noise)
        _require(_in(self.settle, 0, 1), "settle", "0 to 1", self.settle)
        for option in ("mask_every", "accumulate", "gpu_steps"):
            name = option if option == "gpu_steps" else _flag(option)
            _require(getattr(self, option) >= 1, name, "at least 1", getattr(self, option))
        for option in ("cpu_seconds", "match_hidden", "checkpoint_seconds", "weight_decay"):
            name = option if option in ("cpu_seconds", "weight_decay") else _flag(option)
            _require(_in(getattr(self, option), 0, 1e9), name, "0 to 1e9", getattr(self, option))
        for option in ("batch", "window"):
            value = getattr(self, option)
            _require(value is None or value >= 2, option, "at least 2", value)


class Head(StrEnum):
    """How the head's weights are stored, and a tied embedding's. `AUTO`: 4 bits beside an int8
    body, which cost 0.6 % of a 70 % mamba-31m's perplexity; else like the body.
    """

    AUTO = "auto"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True)
class PackSettings:
    """How the kept weights are stored. int8 and int4 also quantise the activations, per token.

    keep_dead_channels: keep channels that no longer reach the output; they are removed otherwise.
    """

    values: Values = Values.INT8
    head: Head = Head.AUTO
    keep_dead_channels: bool = False

    def __post_init__(self) -> None:
        _choose(self, "values", Values)
        _choose(self, "head", Head)

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
        _paths(self, "tokenizer", "calibration", "evaluation")
        tokens = self.evaluation_tokens
        _require(tokens is None or tokens >= 2, "--evaluation-tokens", "at least 2", tokens)
        _require(self.window >= 2, "window", "at least 2 tokens", self.window)


@dataclass(frozen=True)
class DeploySettings:
    """Where the bundle is validated and measured, and what comes of it.

    device: qemu[:cpu], ssh://user@host[:port] or adb:serial each; none is this host, or an
        emulator for a target of another machine.
    device_threads: on real devices; None is all of their processors.
    onnxruntime: a wheel to take ONNX Runtime's library from; None finds one.
    archive: also write the bundle as OUT.tar.gz.
    """

    device: tuple[str, ...] = ()
    device_threads: int | None = None
    onnxruntime: Path | None = None
    archive: bool = False

    def __post_init__(self) -> None:
        _paths(self, "onnxruntime")
        threads = self.device_threads
        _require(threads is None or 1 <= threads <= 1024, "--device-threads", "1 to 1024", threads)
        _require(len(set(self.device)) == len(self.device), "--device", "each once",
                 ", ".join(self.device))  # fmt: skip
        self.addresses()

    def addresses(self) -> tuple[DeviceAddress, ...]:
        """The devices, taken apart."""
        return tuple(map(parse_device, self.device))


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

    min_retention: quality kept, 0 .. 2: dense / compressed perplexity or error, or compressed /
        dense accuracy.
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
        _paths(self, "baseline")
        for option, limit in self.limits().items():
            value = limit.factor if isinstance(limit, Relative) else limit
            _require(_in(value, 0, 1e15), _flag(option),
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
    if name not in NAMED_RECIPES:
        raise UsageError(
            f"--recipe: expected {' or '.join(NAMED_RECIPES)}; got {name!r}."
            f"{did_you_mean(name, NAMED_RECIPES)}"
        )
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
    deploy: DeploySettings = field(default_factory=DeploySettings)
    threads: int = field(default_factory=available_threads)
    seed: int = 0
    save_checkpoint: Path | None = None
    pruned: Path | None = None

    def __post_init__(self) -> None:
        _paths(self, "model", "out", "save_checkpoint", "pruned")
        _choose(self, "target", Target)
        _require(1 <= self.threads <= 1024, "--threads", "1 to 1024", self.threads)
        _require(0 <= self.seed < 2**63, "--seed", "0 to 2^63 - 1", self.seed)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON types, for the manifest and the report."""
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Sweep:
    """Several runs of one recipe that share what does not differ, and their comparison.

    recipe: everything but the two lists; `out` is the folder of the whole sweep.
    sparsities, values: every one of the first with every one of the second.
    pick: the fastest bundle that meets these is kept; empty keeps all of them.
    """

    recipe: Recipe
    sparsities: tuple[float, ...]
    values: tuple[Values, ...]
    pick: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.sparsities), "--sparsity", "at least one number", "none")
        _require(bool(self.values), "--values", "at least one type", "none")
        if self.recipe.pruned is not None and len(self.sparsities) > 1:
            raise UsageError(
                "--pruned: expected one --sparsity, the one those weights have; got "
                f"{', '.join(f'{part:g}' for part in self.sparsities)}."
            )
        if self.recipe.deploy.archive and len(self.sparsities) * len(self.values) > 1:
            raise UsageError(
                "--archive: expected one bundle; got several --sparsity or --values. Run the one "
                "you choose again with --archive."
            )
        self.points()

    def points(self) -> dict[str, Recipe]:
        """One recipe per point, by its name such as `s70-int8`; ascending sparsity."""
        return {
            name: self._point(name, sparsity, values)
            for sparsity in sorted(self.sparsities)
            for values in self.values
            for name in [f"s{100 * sparsity:g}-{values}"]
        }

    def _point(self, name: str, sparsity: float, values: Values) -> Recipe:
        base, saved = self.recipe, self.recipe.save_checkpoint
        return replace(
            base,
            out=base.out / name,
            prune=replace(base.prune, sparsity=sparsity),
            pack=replace(base.pack, values=values),
            save_checkpoint=None if saved is None else saved / f"s{100 * sparsity:g}",
        )


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
