"""Every setting of a run: its default, its unit and its check. One frozen dataclass per stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from ssmpress.errors import UsageError
from ssmpress.formats import Values
from ssmpress.machine import host_machine
from ssmpress.processors import usable_processors
from ssmpress.recipe.address import DeviceAddress, parse_device
from ssmpress.recipe.limit import (
    LIMIT_CHECK,
    LIMIT_METAVAR,
    LIMIT_TYPED,
    GivenLimit,
    Limit,
    Relative,
    parse_limit,
)
from ssmpress.recipe.option import (
    Check,
    Option,
    Panel,
    at_least,
    between,
    check_settings,
    names_from,
    require,
    settings_of,
)
from ssmpress.recipe.pick import Condition
from ssmpress.recipe.suggest import did_you_mean
from ssmpress.recipe.typed import PART, RECOVERY_STEPS


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


PROJECTIONS = ("projections",)
"""The word for all projections of a model's layers, whatever they are called there."""


@dataclass(frozen=True)
class PruneSettings:
    """Which weights go."""

    sparsity: Annotated[
        float,
        Option(
            "Part of the weights that becomes zero; several, such as 0.5,0.6,0.7, are run one "
            "after another and compared.",
            Panel.PRUNING,
            metavar="PART",
            check=between(0, 0.99),
            typed=PART,
            swept=True,
            always=True,
        ),
    ] = 0.7
    sparsity_of: Annotated[
        SparsityOf,
        Option(
            "What --sparsity is a part of: the prunable weights or the whole model.", Panel.PRUNING
        ),
    ] = SparsityOf.PRUNABLE
    method: Annotated[Method, Option("Which weights matter.", Panel.PRUNING)] = (
        Method.GRADIENT_MAGNITUDE
    )
    alpha: Annotated[
        float,
        Option(
            "Exponent of the gradient: |w| |dL/dw|^alpha.",
            Panel.PRUNING,
            metavar="NUMBER",
            check=between(0, 4),
        ),
    ] = 1.0
    scope: Annotated[
        Scope, Option("One threshold for the whole model, or one in each matrix.", Panel.PRUNING)
    ] = Scope.GLOBAL
    prunable: Annotated[
        tuple[str, ...],
        Option(
            "Components that may be pruned, separated by commas: all projections, or some by name, "
            "such as in_proj,out_proj; also embedding, lm_head.",
            Panel.PRUNING,
            metavar="NAME[,...]",
            typed=names_from((*PROJECTIONS, "embedding", "lm_head")),
        ),
    ] = PROJECTIONS
    pattern: Annotated[
        str,
        Option(
            "Which weights go together: each by itself, blocks of R rows x C columns, or all but "
            "n of every m columns.",
            Panel.PRUNING,
            metavar="unstructured|block RxC|n:m",
        ),
    ] = "unstructured"
    matrix_limit: Annotated[
        float, Option("No matrix loses more than this part of its weights; from the sparsity to 1.")
    ] = 1.0
    calibration_batches: Annotated[
        int, Option("Batches that the gradients are averaged over.", check=at_least(1))
    ] = 16
    calibration_batch: Annotated[
        int, Option("Windows of a calibration batch.", check=at_least(1))
    ] = 2
    calibration_window: Annotated[
        int, Option("Tokens of a calibration window.", unit="tokens", check=at_least(1))
    ] = 512

    def __post_init__(self) -> None:
        check_settings(self)
        require(
            between(self.sparsity, 1).passes(self.matrix_limit),
            "matrix_limit",
            "from the sparsity to 1",
            self.matrix_limit,
        )
        require(
            len(set(self.prunable)) == len(self.prunable),
            "--prunable",
            "each name once",
            ", ".join(self.prunable),
        )


CPU_SECONDS = 600.0
"""Most seconds of a recovery on a CPU, where none are given."""


@dataclass(frozen=True)
class RecoverSettings:
    """Training after and between the pruning steps: the dense model teaches the pruned one."""

    steps: Annotated[
        int | None,
        Option(
            "Training during and after pruning, taught by the dense model. auto: the full recipe "
            "on a GPU; on a CPU until the quality that the gate asks for is kept on held-out "
            "calibration data or no longer improves, at most --recover-seconds.",
            Panel.PRUNING,
            metavar="auto|none|STEPS",
            check=Check(lambda steps: steps >= 0, "auto, none or a number of steps"),
            names=("--recover", "--steps"),
            typed=RECOVERY_STEPS,
        ),
    ] = None
    gpu_steps: Annotated[
        int, Option("Steps on a GPU where `steps` is None.", check=at_least(1))
    ] = 1344
    seconds: Annotated[
        float | None,
        Option(
            "Most seconds that --recover auto takes; given on a GPU, it ends there as on a CPU.",
            Panel.PRUNING,
            unit="seconds",
            check=between(0, 1e9),
            names=("--recover-seconds",),
            default=f"{CPU_SECONDS:g} on a CPU",
        ),
    ] = None
    compute: Annotated[Compute, Option("Where calibration and recovery run.", Panel.PRUNING)] = (
        Compute.AUTO
    )
    batch: Annotated[
        int | None,
        Option("Sequences per step; None chooses 64 on a GPU and 8 on a CPU.", check=at_least(2)),
    ] = None
    window: Annotated[
        int | None,
        Option(
            "Tokens per sequence; None chooses 1024 on a GPU and 256 on a CPU.",
            unit="tokens",
            check=at_least(2),
        ),
    ] = None
    learning_rate: Annotated[float, Option("Highest learning rate.", check=between(0, 1e9))] = 1e-3
    final_learning_rate: Annotated[
        float, Option("Learning rate at the end, as a part of the highest.", check=between(0, 1))
    ] = 0.02
    warmup_steps: Annotated[
        int, Option("Steps in which the learning rate rises.", unit="steps")
    ] = 20
    weight_decay: Annotated[float, Option("AdamW's weight decay.", check=between(0, 1e9))] = 0.05
    clip: Annotated[float, Option("Largest norm of a step's gradient.")] = 1.0
    distill: Annotated[
        float,
        Option(
            "Weight of the divergence from the dense model in recovery; the rest is cross-entropy.",
            Panel.PRUNING,
            metavar="PART",
            check=between(0, 1),
        ),
    ] = 0.9
    mask_every: Annotated[
        int,
        Option(
            "Recovery steps between two tightenings of the masks.",
            Panel.PRUNING,
            unit="steps",
            check=at_least(1),
        ),
    ] = 20
    ramp: Annotated[
        float, Option("Part of the steps during which sparsity rises.", check=between(0, 1))
    ] = 0.6
    gradient_decay: Annotated[
        float, Option("Factor of the exponential average of the gradient's magnitude.")
    ] = 0.9
    regrow: Annotated[
        bool,
        Option("Pruned weights keep a value behind the mask and may come back until `settle`."),
    ] = False
    settle: Annotated[
        float,
        Option(
            "Part of the steps after which the masks stay; only with `regrow`.", check=between(0, 1)
        ),
    ] = 0.75
    match_hidden: Annotated[
        float,
        Option(
            "Weight of the relative squared distance to the dense model's last hidden state in "
            "recovery.",
            Panel.PRUNING,
            metavar="NUMBER",
            check=between(0, 1e9),
        ),
    ] = 0.0
    token_noise: Annotated[
        float,
        Option(
            "Part of a classifier's tokens replaced by random ones in each step.",
            check=between(0, 1),
        ),
    ] = 0.0
    accumulate: Annotated[
        int,
        Option(
            "Micro-batches that a step's batch is split into, to save memory.",
            Panel.PRUNING,
            metavar="NUMBER",
            check=at_least(1),
        ),
    ] = 1
    activation_checkpointing: Annotated[
        bool, Option("Run every layer again in the backward pass, to save memory.", Panel.PRUNING)
    ] = False
    muon: Annotated[bool, Option("Muon instead of AdamW for the projections.", Panel.PRUNING)] = (
        False
    )
    compile: Annotated[bool, Option("Compile the loss with torch.compile.")] = False
    deterministic: Annotated[
        bool,
        Option(
            "On a GPU too, repeated and resumed runs agree to the byte; slower. A CPU always adds "
            "up gradients in a fixed order.",
            Panel.PRUNING,
        ),
    ] = False
    checkpoint_seconds: Annotated[
        float,
        Option(
            "Seconds between two saves of an unfinished recovery, from which the same command "
            "goes on after a kill.",
            Panel.PRUNING,
            unit="seconds",
            check=between(0, 1e9),
        ),
    ] = 60.0

    def __post_init__(self) -> None:
        check_settings(self)
        require(
            self.steps is None or self.seconds is None,
            "--recover-seconds",
            "--recover auto beside it, which ends by itself",
            f"--recover {RECOVERY_STEPS.write(self.steps)}",
        )

    def ceiling(self, cuda: bool) -> float | None:
        """Most seconds of a run that ends by itself; None where its number of steps is known."""
        if self.steps is not None or (cuda and self.seconds is None):
            return None
        return CPU_SECONDS if self.seconds is None else self.seconds


class Head(StrEnum):
    """How the head's weights are stored, and a tied embedding's. `AUTO`: 4 bits beside an int8
    body, which cost 0.6 % of a 70 % mamba-31m's perplexity; else like the body.
    """

    AUTO = "auto"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True)
class PackSettings:
    """How the kept weights are stored. int8 and int4 also quantise the activations, per token."""

    values: Annotated[
        Values,
        Option(
            "Type of the stored weights; int8 quantises the activations too. Several, such as "
            "int8,fp16, are all made and compared.",
            Panel.BUNDLE,
            swept=True,
        ),
    ] = Values.INT8
    head: Annotated[
        Head,
        Option(
            "Type of the head's weights, which a tied embedding shares. auto: 4 bits beside int8, "
            "else as --values.",
            Panel.BUNDLE,
        ),
    ] = Head.AUTO
    keep_dead_channels: Annotated[
        bool,
        Option(
            "Keep channels that pruning left without a way to the output; removing them is exact.",
            Panel.BUNDLE,
        ),
    ] = False

    def __post_init__(self) -> None:
        check_settings(self)

    def head_values(self) -> Values:
        """Type of the head's weights."""
        if self.head is not Head.AUTO:
            return Values(self.head)
        return Values.INT4 if self.values is Values.INT8 else self.values


@dataclass(frozen=True)
class DataSettings:
    """Text for calibration, recovery and evaluation; none means the default text."""

    tokenizer: Annotated[
        Path | None,
        Option(
            "tokenizer.json; by default the one beside the weights.", Panel.DATA, metavar="FILE"
        ),
    ] = None
    calibration: Annotated[
        tuple[Path, ...],
        Option(
            "Text (plain, .xz, .gz) or token ids (.npy) to calibrate and recover on; may be given "
            "several times. By default Python's language manual, which every machine has. For a "
            "classifier labelled texts (.jsonl, .csv, .tsv with `text` and `label`, .npz), for a "
            "forecaster a CSV file of the series.",
            Panel.DATA,
            metavar="FILE",
        ),
    ] = ()
    evaluation: Annotated[
        tuple[Path, ...],
        Option(
            "Text, labelled texts or series to evaluate on, disjoint from --calibration; may be "
            "given several times.",
            Panel.DATA,
            metavar="FILE",
        ),
    ] = ()
    evaluation_tokens: Annotated[
        int | None,
        Option(
            "Evaluate at most this many tokens.",
            Panel.DATA,
            unit="tokens",
            check=at_least(2),
            default="all",
        ),
    ] = None
    window: Annotated[
        int,
        Option(
            "Tokens per evaluation window; windows do not overlap, each starts from the zero "
            "state.",
            unit="tokens",
            check=at_least(2, "tokens"),
        ),
    ] = 1024
    allow_leak: Annotated[
        bool,
        Option(
            "Let recovery train on data that --evaluation holds too; the verdict says so.",
            Panel.DATA,
        ),
    ] = False

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class DeploySettings:
    """Where the bundle is validated and measured, and what comes of it."""

    device: Annotated[
        tuple[str, ...],
        Option(
            "Where to validate the bundle, and to measure it if it is real; may be given several "
            "times. By default this machine, or QEMU for a target of another one.",
            Panel.BUNDLE,
            metavar="qemu[:CPU]|ssh://[USER@]HOST[:PORT]|adb:SERIAL",
        ),
    ] = ()
    device_threads: Annotated[
        int | None,
        Option(
            "Threads on real devices.",
            Panel.BUNDLE,
            metavar="NUMBER",
            check=between(1, 1024),
            default="all their processors",
        ),
    ] = None
    onnxruntime: Annotated[
        Path | None,
        Option(
            "Wheel of ONNX Runtime for the target, instead of downloading it.",
            Panel.BUNDLE,
            metavar="FILE",
        ),
    ] = None
    archive: Annotated[bool, Option("Also write OUT.tar.gz.", Panel.BUNDLE)] = False

    def __post_init__(self) -> None:
        check_settings(self)
        require(
            len(set(self.device)) == len(self.device),
            "--device",
            "each once",
            ", ".join(self.device),
        )
        self.addresses()

    def addresses(self) -> tuple[DeviceAddress, ...]:
        """The devices, taken apart."""
        return tuple(map(parse_device, self.device))


def _limit(text: str, default: str = "") -> Option:
    return Option(
        text,
        Panel.GATES,
        default=default,
        metavar=LIMIT_METAVAR,
        check=LIMIT_CHECK,
        typed=LIMIT_TYPED,
    )


@dataclass(frozen=True)
class GateSettings:
    """Limits the result must keep. None: not checked.

    Each is a number, or a multiple of the baseline's value: `Relative(1.05)`, or as text `"1.05x"`.
    """

    min_retention: Annotated[
        GivenLimit | None,
        _limit(
            "Least quality kept: dense / compressed perplexity or error, compressed / dense "
            "accuracy.",
            default="0.95; none with --gate",
        ),
    ] = 0.95
    max_decode_ms: Annotated[
        GivenLimit | None,
        _limit("Most milliseconds per decoded token, text or forecast (median)."),
    ] = None
    min_speedup: Annotated[
        GivenLimit | None,
        _limit("Least dense decode time / compressed decode time, of the medians."),
    ] = None
    max_perplexity_increase: Annotated[
        GivenLimit | None,
        _limit(
            "Most of compressed / dense perplexity - 1, of a language model; FACTORx compares with "
            "the baseline's."
        ),
    ] = None
    max_decode_p99_ms: Annotated[
        GivenLimit | None,
        _limit("Most milliseconds per decoded token, text or forecast (99th percentile)."),
    ] = None
    max_bundle_bytes: Annotated[GivenLimit | None, _limit("Most bytes of what a device needs.")] = (
        None
    )
    max_rss_bytes: Annotated[GivenLimit | None, _limit("Most bytes of peak memory.")] = None
    baseline: Annotated[
        Path | None,
        Option(
            "report.json that limits such as 1.05x are multiples of.", Panel.GATES, metavar="FILE"
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in RULES:
            limit = getattr(self, name)
            if isinstance(limit, str):
                object.__setattr__(self, name, parse_limit(limit, name))
        check_settings(self)
        for name, limit in self.limits().items():
            require(
                not isinstance(limit, Relative) or self.baseline is not None,
                "--baseline",
                f"a report.json that {name} = {limit} refers to",
                "none",
            )

    def limits(self) -> dict[str, Limit]:
        """The limits that are set, by rule."""
        return {name: getattr(self, name) for name in RULES if getattr(self, name) is not None}

    def quality(self) -> float | None:
        """Least part of the quality that the limits ask for; None where none does as a number."""
        limits = self.limits()
        kept, increase = limits.get("min_retention"), limits.get("max_perplexity_increase")
        asked = [] if kept is None or isinstance(kept, Relative) else [kept]
        if increase is not None and not isinstance(increase, Relative):
            asked.append(1 / (1 + increase))
        return max(asked, default=0.0) or None


RULES = tuple(setting.key for setting in settings_of(GateSettings) if setting.key != "baseline")
"""Names of the limits: keys of a policy file, and options with dashes."""


NAMED_RECIPES: dict[str, tuple[PruneSettings, RecoverSettings]] = {
    "default": (PruneSettings(), RecoverSettings()),
    "wikitext": (
        PruneSettings(alpha=0.5),
        RecoverSettings(gpu_steps=3200, ramp=0.4, muon=True, match_hidden=0.7, compile=True),
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


@dataclass(frozen=True)
class Recipe:
    """One run of the toolchain, from a checkpoint to a bundle and a report."""

    model: Annotated[
        Path,
        Option(
            "Checkpoint: a folder of mamba-ssm or Hugging Face, or a bare state dict (.pt, .pth, "
            ".bin, .safetensors).",
            metavar="MODEL",
            argument=True,
        ),
    ]
    out: Annotated[
        Path,
        Option(
            "Folder of the bundle; by default MODEL-sSPARSITY-TARGET here.",
            Panel.BUNDLE,
            metavar="FOLDER",
            always=True,
        ),
    ]
    target: Annotated[Target, Option("What the bundle runs on.", Panel.BUNDLE)] = Target.HOST
    prune: PruneSettings = field(default_factory=PruneSettings)
    recover: RecoverSettings = field(default_factory=RecoverSettings)
    pack: PackSettings = field(default_factory=PackSettings)
    data: DataSettings = field(default_factory=DataSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    deploy: DeploySettings = field(default_factory=DeploySettings)
    threads: Annotated[
        int,
        Option(
            "Threads of every stage.",
            Panel.RUN,
            metavar="NUMBER",
            check=between(1, 1024),
            default="all that can be used",
        ),
    ] = field(default_factory=usable_processors)
    seed: Annotated[
        int,
        Option(
            "Seed of all random draws.",
            Panel.RUN,
            metavar="NUMBER",
            check=between(0, 2**63 - 1, "0 to 2^63 - 1"),
            always=True,
        ),
    ] = 0
    save_checkpoint: Annotated[
        Path | None,
        Option(
            "Also write the pruned weights, zeros and all, for mamba-ssm and Hugging Face, and the "
            "matrices as scipy's CSR.",
            Panel.BUNDLE,
            metavar="FOLDER",
        ),
    ] = None
    pruned: Annotated[
        Path | None,
        Option(
            "A checkpoint of MODEL that is pruned already, for example by --save-checkpoint on a "
            "machine with a GPU; packs and measures it beside MODEL.",
            Panel.PRUNING,
            metavar="MODEL",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_settings(self)

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
        require(bool(self.sparsities), "--sparsity", "at least one number", "none")
        require(bool(self.values), "--values", "at least one type", "none")
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
