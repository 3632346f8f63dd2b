"""The options of `compress`: names, help texts, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ssmpress._version import __version__
from ssmpress.errors import UsageError
from ssmpress.formats import Values
from ssmpress.recipe.settings import NAMED_RECIPES, Compute, Head, Method, Scope, SparsityOf, Target
from ssmpress.recipe.suggest import did_you_mean, one_of, values_of

DATA, PRUNING, BUNDLE, RUN = "Data", "Pruning", "Bundle", "Run"
STEP_DIGITS = 9
RECOVER_WORDS: dict[str, int | None] = {"auto": None, "none": 0}


def _option(help_text: str, panel: str, **more: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=panel, **more)


def _choice(name: str, kind: type[StrEnum], help_text: str, panel: str) -> Any:
    """An option with few values: a wrong one is answered with the right one."""
    return _option(
        help_text, panel, metavar=values_of(kind), parser=lambda text: one_of(name, text, kind),
        autocompletion=_completing(tuple(kind)),
    )  # fmt: skip


def _completing(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What a shell offers: the words, for the last part of a list too."""

    def complete(incomplete: str) -> list[str]:
        head, comma, last = incomplete.rpartition(",")
        return [f"{head}{comma}{word}" for word in map(str, words) if word.startswith(last)]

    return complete


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ssmpress {__version__}")
        raise typer.Exit


Model = Annotated[
    Path,
    typer.Argument(
        help="Checkpoint: a folder of mamba-ssm or Hugging Face, or a bare state dict "
        "(.pt, .pth, .bin, .safetensors).",
        show_default=False,
    ),
]
RecipeName = Annotated[
    str,
    _option(
        "Named settings; options given beside it override them.", PRUNING,
        metavar="|".join(NAMED_RECIPES), autocompletion=_completing(tuple(NAMED_RECIPES)),
    ),
]  # fmt: skip
Sparsity = Annotated[
    str,
    _option(
        "Part of the weights that becomes zero; several, such as 0.5,0.6,0.7, are run one after "
        "another and compared.",
        PRUNING,
        metavar="PART[,PART...]",
    ),
]
SparsityOfChoice = Annotated[
    SparsityOf,
    _choice("--sparsity-of", SparsityOf,
            "What --sparsity is a part of: the prunable weights or the whole model.", PRUNING),
]  # fmt: skip
MethodChoice = Annotated[Method, _choice("--method", Method, "Which weights matter.", PRUNING)]
Alpha = Annotated[float, _option("Exponent of the gradient: |w| |dL/dw|^alpha.", PRUNING)]
ScopeChoice = Annotated[
    Scope,
    _choice("--scope", Scope, "One threshold for the whole model, or one in each matrix.", PRUNING),
]
PatternText = Annotated[
    str,
    _option(
        "Which weights go together: each by itself, blocks of R rows x C columns, or all but n of "
        "every m columns.",
        PRUNING,
        metavar="unstructured|block RxC|n:m",
    ),
]
Prunable = Annotated[
    str,
    _option(
        "Components that may be pruned, separated by commas; also embedding, lm_head.", PRUNING
    ),
]
Recover = Annotated[
    str,
    typer.Option(
        "--recover",
        "--steps",
        help="Training during and after pruning, taught by the dense model. auto: the full recipe "
        "on a GPU, a time budget on a CPU.",
        rich_help_panel=PRUNING,
        metavar="auto|none|STEPS",
        autocompletion=_completing(tuple(RECOVER_WORDS)),
    ),
]
ComputeChoice = Annotated[
    Compute, _choice("--compute", Compute, "Where calibration and recovery run.", PRUNING)
]
Distill = Annotated[
    float,
    _option(
        "Weight of the divergence from the dense model in recovery; the rest is cross-entropy.",
        PRUNING,
    ),
]
MaskEvery = Annotated[int, _option("Recovery steps between two tightenings of the masks.", PRUNING)]
MatchHidden = Annotated[
    float,
    _option("Weight of the distance to the dense model's last hidden state in recovery.", PRUNING),
]
Accumulate = Annotated[
    int,
    _option("Micro-batches that a step's batch is split into, to save memory.", PRUNING),
]
ActivationCheckpointing = Annotated[
    bool,
    typer.Option(
        "--activation-checkpointing",
        help="Run every layer again in the backward pass, to save memory.",
        rich_help_panel=PRUNING,
    ),
]
Muon = Annotated[
    bool,
    typer.Option(
        "--muon", help="Muon instead of AdamW for the projections.", rich_help_panel=PRUNING
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="On a GPU too, repeated and resumed runs agree to the byte; slower.",
        rich_help_panel=PRUNING,
    ),
]
CheckpointSeconds = Annotated[
    float,
    _option(
        "Seconds between two saves of an unfinished recovery, from which the same command goes on "
        "after a kill.",
        PRUNING,
    ),
]
ValuesText = Annotated[
    str,
    _option(
        "Type of the stored weights; int8 quantises the activations too. Several, such as "
        "int8,fp16, are all made and compared.",
        BUNDLE,
        metavar=values_of(Values) + "[,...]",
        autocompletion=_completing(tuple(Values)),
    ),
]
Pick = Annotated[
    str | None,
    _option(
        "Of several --sparsity or --values, keep the fastest bundle that meets this, such as "
        "'retention>=0.95 and model_bytes<5e6'.",
        BUNDLE,
        metavar="METRIC>=NUMBER [and ...]",
        show_default=False,
    ),
]
HeadChoice = Annotated[
    Head,
    _choice(
        "--head",
        Head,
        "Type of the head's weights, which a tied embedding shares. auto: 4 bits beside int8, else "
        "as --values.",
        BUNDLE,
    ),
]
KeepDeadChannels = Annotated[
    bool,
    typer.Option(
        "--keep-dead-channels",
        help="Keep channels that pruning left without a way to the output; removing them is exact.",
        rich_help_panel=BUNDLE,
    ),
]
TargetChoice = Annotated[Target, _choice("--target", Target, "What the bundle runs on.", BUNDLE)]
Device = Annotated[
    list[str] | None,
    _option(
        "Where to validate the bundle, and to measure it if it is real; may be given several "
        "times. By default this machine, or QEMU for a target of another one.",
        BUNDLE,
        metavar="qemu[:CPU]|ssh://[USER@]HOST[:PORT]|adb:SERIAL",
        show_default=False,
    ),
]
DeviceThreads = Annotated[
    int | None, _option("Threads on real devices.", BUNDLE, show_default="all their processors")
]
OnnxRuntime = Annotated[
    Path | None,
    _option(
        "Wheel of ONNX Runtime for the target, instead of downloading it.",
        BUNDLE,
        show_default=False,
    ),
]
Archive = Annotated[
    bool, typer.Option("--archive", help="Also write OUT.tar.gz.", rich_help_panel=BUNDLE)
]
Out = Annotated[
    Path | None,
    _option(
        "Folder of the bundle; by default MODEL-sSPARSITY-TARGET here.", BUNDLE, show_default=False
    ),
]
Pruned = Annotated[
    Path | None,
    _option(
        "A checkpoint of MODEL that is pruned already, for example by --save-checkpoint on a "
        "machine with a GPU; packs and measures it beside MODEL.",
        PRUNING,
        show_default=False,
    ),
]
SaveCheckpoint = Annotated[
    Path | None,
    _option(
        "Also write the pruned weights, zeros and all, for mamba-ssm and Hugging Face.",
        BUNDLE,
        show_default=False,
    ),
]
Tokenizer = Annotated[
    Path | None,
    _option("tokenizer.json; by default the one beside the weights.", DATA, show_default=False),
]
Calibration = Annotated[
    list[Path] | None,
    _option(
        "Text (plain, .xz, .gz) or token ids (.npy) to calibrate and recover on; may be given "
        "several times. By default Python's language manual, which every machine has. For a "
        "classifier labelled texts (.jsonl, .csv, .tsv with `text` and `label`, .npz), for a "
        "forecaster a CSV file of the series.",
        DATA,
        show_default=False,
    ),
]
Evaluation = Annotated[
    list[Path] | None,
    _option(
        "Text, labelled texts or series to evaluate on, disjoint from --calibration; may be given "
        "several times.",
        DATA,
        show_default=False,
    ),
]
EvaluationTokens = Annotated[
    int | None, _option("Evaluate at most this many tokens.", DATA, show_default="all")
]
Threads = Annotated[
    int | None, _option("Threads of every stage.", RUN, show_default="all processors")
]
Seed = Annotated[int, _option("Of all random draws.", RUN)]
Json = Annotated[
    bool, typer.Option("--json", help="Print the report as JSON on stdout.", rich_help_panel=RUN)
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the plan: shapes, bytes, memory, time.", rich_help_panel=RUN
    ),
]
Version = Annotated[
    bool,
    typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
]


def sparsities(text: str) -> tuple[float, ...]:
    """`0.5,0.7` as numbers; their range is the recipe's to check.

    Raises:
        UsageError: one of them is not a number, or is there twice.
    """
    numbers = []
    for word in _words(text):
        try:
            numbers.append(float(word))
        except ValueError as error:
            hint = f" Did you mean {float(word[:-1]) / 100:g}?" if _is_percent(word) else ""
            raise UsageError(
                f"--sparsity: expected numbers from 0 to 0.99, separated by commas; got "
                f"{word!r}.{hint}"
            ) from error
    return _once("--sparsity", tuple(numbers))


def _is_percent(word: str) -> bool:
    return word.endswith("%") and word[:-1].isdecimal()


def value_types(text: str) -> tuple[Values, ...]:
    """`int8,fp16` as types.

    Raises:
        UsageError: one of them is none, or is there twice.
    """
    return _once("--values", tuple(one_of("--values", word, Values) for word in _words(text)))


def recovery_steps(text: str) -> int | None:
    """`auto`, `none` or a number.

    Raises:
        UsageError: it is none of them.
    """
    if text in RECOVER_WORDS:
        return RECOVER_WORDS[text]
    if text.isdecimal() and len(text) <= STEP_DIGITS:
        return int(text)
    raise UsageError(
        f"--recover: expected auto, none or a number of steps; got {text[:40]!r}."
        f"{did_you_mean(text, RECOVER_WORDS)}"
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


_Item = TypeVar("_Item")


def _once(option: str, items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    if len(set(items)) < len(items):
        listed = ", ".join(map(str, items))
        raise UsageError(f"{option}: expected each value once; got {listed}.")
    return items
