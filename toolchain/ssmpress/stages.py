"""The stages of `pipeline.compress`: each a function from the results of the ones before."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssmpress import files
from ssmpress.blocks.model import Mamba
from ssmpress.bundle.files import RUNTIME_FILES, run_it, write_runtime_files
from ssmpress.bundle.manifest import write_manifest
from ssmpress.bundle.names import REPORTS
from ssmpress.cache import cache_folder
from ssmpress.callbacks import Note, Progress, silent
from ssmpress.checkpoint.config import EMBEDDING, LM_HEAD, ModelConfig, tensor_shapes
from ssmpress.checkpoint.read import (
    LAYOUTS,
    Checkpoint,
    check_target,
    read_checkpoint,
    write_checkpoint,
)
from ssmpress.data import overlap
from ssmpress.data import text as data
from ssmpress.data.labelled import load_labelled
from ssmpress.data.series import SeriesWindows, load_series
from ssmpress.devices.plan import Deployment
from ssmpress.errors import BadInputError, UsageError
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.machine import LIBRARY_NAME, get_library_path, host_machine
from ssmpress.pack.frequent import frequent_rows
from ssmpress.pack.head_error import TEXT as HEAD_TEXT
from ssmpress.pack.head_error import frequent_tokens, head_hessian
from ssmpress.pack.layout import Matrix
from ssmpress.pack.layouts import int4
from ssmpress.pack.model import PackedModel, pack_model
from ssmpress.prune import dead_channels, mask
from ssmpress.prune.distill import Teacher
from ssmpress.prune.one_shot import Scores, check_combination
from ssmpress.prune.order import Calibration, Tokens
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.recover import PruneResult, compute_device, prune_and_recover
from ssmpress.recipe.settings import DataSettings, Recipe
from ssmpress.report.card import render_card
from ssmpress.report.html import render_html
from ssmpress.report.junit import render_junit
from ssmpress.report.markdown import render_markdown
from ssmpress.report.wording import words
from ssmpress.results import LanguageModelQuality, TaskQuality, TextUse
from ssmpress.tasks import Classification, Forecasting
from ssmpress.tasks.task import Samples

CPU_CALIBRATION_TOKENS = 4_000_000
"""More text than a CPU can train on within any time budget."""


@dataclass(frozen=True)
class Source:
    """What was read.

    tokenizer: None of a forecaster. calibration: int32 (n,), or samples of the model's task.
    windows: evaluation, int32 (count, length), none for a task. samples: a task's evaluation.
    seen: part of the evaluation, 0 .. 1, that the calibration has too.
    """

    checkpoint: Checkpoint
    tokenizer: Path | None
    calibration: Calibration
    windows: NDArray[np.int32]
    calibration_use: TextUse
    evaluation_use: TextUse
    samples: Samples | None = None
    seen: float = 0.0


@dataclass(frozen=True)
class Pruned:
    """tensors: float32 by canonical name, zeros where pruned. result: how it went.

    continued_from: sparsity of the model that recovery went on from; None is the unpruned one.
    """

    tensors: Mapping[str, torch.Tensor]
    result: PruneResult
    continued_from: float | None = None

    def summary(self) -> dict[str, Any]:
        """Recovery, for the report."""
        r = self.result
        return {
            "steps": r.steps,
            "tokens": r.tokens,
            "seconds": round(r.seconds, 3),
            "device": r.device,
            "history": list(r.history),
            "continued_from": self.continued_from,
        }


@dataclass
class Dense:
    """The unpruned model as float32: exported and judged once, the baseline of every bundle.

    quality: set when it is first measured.
    """

    model: Path
    quality: LanguageModelQuality | TaskQuality | None = None


@dataclass(frozen=True)
class Bundle:
    """Files of the bundle.

    dense: the baseline, which is no part of it. machine: that the bundle is for. names: what a
    device needs, in the folder.
    """

    model: Path
    library: Path
    tokenizer: Path | None
    dense: Dense
    names: tuple[str, ...]
    model_bytes: int
    machine: str = field(default_factory=host_machine)

    @property
    def host_library(self) -> Path:
        """The op library that runs it on this host: the bundle's own, if it is for this machine."""
        return self.library if self.machine == host_machine() else get_library_path()

    def bytes_of(self, names: Iterable[str]) -> int:
        """Of some of its files."""
        return sum((self.model.parent / name).stat().st_size for name in names)


def read(recipe: Recipe, note: Note = silent) -> Source:
    """Checkpoint, tokenizer and text.

    Args:
        note: called with one sentence about each decision.

    Raises:
        BadInputError: one of them is missing, damaged or disagrees with another.
        UsageError: `--sparsity-of model` asks for more than the prunable weights hold, or recovery
            would train on the evaluation data.
    """
    checkpoint = read_checkpoint(recipe.model)
    note(f"architecture {checkpoint.architecture}")
    for sentence in checkpoint.notes:
        note(sentence)
    resolve_sparsity(recipe, checkpoint.config)
    if not checkpoint.config.is_language_model:
        return _read_task(recipe, checkpoint, note)
    path = recipe.data.tokenizer or checkpoint.tokenizer
    if path is None:
        raise BadInputError(
            f"{recipe.model}: expected tokenizer.json beside the weights; there is none. "
            "Give it with --tokenizer FILE."
        )
    tokenizer = data.load_tokenizer(path)
    vocab_size = checkpoint.config.vocab_size
    limit = _calibration_limit(recipe)
    parts = data.default_text() if _needs_default_text(recipe.data) else ("", "")

    def tokens(paths: tuple[Path, ...], default: str, limit: int | None) -> NDArray[np.int32]:
        if paths:
            return data.load_tokens(paths, tokenizer, vocab_size, limit=limit)
        return data.encode(tokenizer, default, vocab_size=vocab_size)[:limit]

    calibration = tokens(recipe.data.calibration, parts[0], limit)
    evaluation = tokens(recipe.data.evaluation, parts[1], recipe.data.evaluation_tokens)
    for option, text, window in (
        ("--calibration", calibration, recipe.prune.calibration_window),
        ("--evaluation", evaluation, recipe.data.window),
    ):
        data.check_window(text, window, option)
    windows = data.windows(evaluation, recipe.data.window)
    runs = overlap.every_run(calibration, overlap.TEXT_SPAN)
    seen = overlap.part_in(overlap.run_keys(windows.reshape(-1), overlap.TEXT_SPAN), runs)
    overlap.check_unseen(recipe, seen, note)
    uses = (
        _text_use(recipe.data.calibration, len(calibration)),
        _text_use(recipe.data.evaluation, windows.size),
    )
    for purpose, use in zip(("calibration", "evaluation"), uses, strict=True):
        if use.default_text:
            note(f"{purpose}: no file given, using the default text (Python's language manual)")
    return Source(checkpoint, path, calibration, windows, *uses, seen=seen)


def _read_task(recipe: Recipe, checkpoint: Checkpoint, note: Note) -> Source:
    """The data of a classifier or forecaster; there is no default for either."""
    task, settings = checkpoint.config.task, recipe.data
    what = "labelled texts" if isinstance(task, Classification) else "a CSV file of the series"
    for option, paths in (
        ("--calibration", settings.calibration), ("--evaluation", settings.evaluation),
    ):  # fmt: skip
        if not paths:
            raise UsageError(
                f"{option}: expected {what}, since the model is a {task.kind}; got none."
            )
    if settings.evaluation_tokens is not None:
        raise UsageError("--evaluation-tokens is for language models; give a smaller --evaluation.")
    path = None
    if task.reads_tokens:
        path = settings.tokenizer or checkpoint.tokenizer
    tokenizer = None if path is None else data.load_tokenizer(path)

    def load(paths: tuple[Path, ...]) -> Samples:
        if isinstance(task, Forecasting):
            return load_series(paths, task)
        assert isinstance(task, Classification)
        return load_labelled(paths, tokenizer, task, checkpoint.config.vocab_size)

    def steps(samples: Samples) -> int:
        if isinstance(samples, SeriesWindows):
            return len(samples.values)
        return int(samples.lengths.sum())

    calibration, evaluation = load(settings.calibration), load(settings.evaluation)
    seen = evaluation.part_in(calibration)
    overlap.check_unseen(recipe, seen, note)
    return Source(
        checkpoint, path, calibration, np.empty((0, 0), np.int32),
        _text_use(settings.calibration, steps(calibration)),
        _text_use(settings.evaluation, steps(evaluation)),
        evaluation, seen,
    )  # fmt: skip


def _needs_default_text(settings: DataSettings) -> bool:
    return not (settings.calibration and settings.evaluation)


def _text_use(paths: tuple[Path, ...], tokens: int) -> TextUse:
    return TextUse(tuple(map(str, paths)), default_text=not paths, tokens=tokens)


def resolve_sparsity(recipe: Recipe, config: ModelConfig) -> float:
    """Sparsity of the prunable weights, whatever `--sparsity-of` says.

    Raises:
        UsageError: pruning settings that do not fit one another or the model.
    """
    settings = recipe.prune
    sparsity = mask.resolve_sparsity(
        config, settings.prunable, settings.sparsity, settings.sparsity_of
    )
    if recipe.pruned is None:
        names = mask.prunable_names(config, settings.prunable)
        check_combination(names, settings, sparsity)
        if pattern := Pattern.parse(settings.pattern):
            shapes = tensor_shapes(config)
            for name in names:
                pattern.check_shape(name, shapes[name])
    return sparsity


def _calibration_limit(recipe: Recipe) -> int | None:
    """Tokens of calibration text to read; None is all of it."""
    p = recipe.prune
    saliency = 4 * p.calibration_batches * p.calibration_batch * p.calibration_window
    if recipe.recover.steps == 0:
        return max(saliency, HEAD_TEXT)
    if compute_device(recipe.recover.compute).type == "cuda":
        return None
    return max(saliency, CPU_CALIBRATION_TOKENS)


def prune(
    recipe: Recipe,
    source: Source,
    progress: Progress = silent,
    *,
    start: Pruned | None = None,
    scores: Scores | None = None,
) -> Pruned:
    """The pruned weights: one-shot, iteratively with recovery, or read from `recipe.pruned`.

    Args:
        start: weights to prune further, taught by the unpruned model; None starts from that.
        scores: filled by the first one-shot run, used by the others.
    """
    if recipe.pruned is not None:
        return read_pruned(recipe.pruned, source.checkpoint.config)
    torch.set_num_threads(recipe.threads)
    model, teacher = Mamba.from_checkpoint(source.checkpoint), None
    if start is not None:
        teacher = Teacher(model.to(compute_device(recipe.recover.compute)))
        model = Mamba.from_checkpoint(replace(source.checkpoint, tensors=dict(start.tensors)))
    resume_file = unfinished_file(recipe, source, start)
    result = prune_and_recover(
        model,
        source.calibration,
        recipe.prune,
        recipe.recover,
        seed=recipe.seed,
        progress=progress,
        resume_file=resume_file,
        teacher=teacher,
        scores=scores,
    )
    resume_file.unlink(missing_ok=True)
    return Pruned({name: t.cpu() for name, t in model.tensors().items()}, result)


def read_pruned(path: Path, config: ModelConfig) -> Pruned:
    """Weights that are pruned already, for example by `--save-checkpoint` on another machine.

    Raises:
        BadInputError: it cannot be read, or has other sizes than the dense model.
    """
    checkpoint = read_checkpoint(path)
    check_pruned(path, checkpoint.config, config)
    return Pruned(checkpoint.tensors, PruneResult((), 0.0, 0, 0, f"read from {path}"))


def check_pruned(path: Path, found: ModelConfig, config: ModelConfig) -> None:
    """Whether pruned weights belong to the dense model. found: their sizes. config: its sizes.

    Raises:
        BadInputError: a size differs.
    """
    if found != config:
        mine, other = config.to_dict(), found.to_dict()
        key = next(k for k in mine if mine[k] != other[k])
        raise BadInputError(
            f"--pruned {path}: expected the dense model's {key}, {mine[key]}; got {other[key]}. "
            "Give the dense model that it was made from as MODEL."
        )


def save_checkpoint(source: Source, pruned: Pruned, folder: Path) -> None:
    """The pruned weights with their zeros, in each of the layouts, in a subfolder of its name."""
    for layout in _layouts(source.checkpoint.config):
        write_checkpoint(
            source.checkpoint.config, pruned.tensors, folder / layout, layout, source.tokenizer
        )


def check_save_checkpoint(folder: Path | None) -> None:
    """Whether `save_checkpoint` will be able to write there, as far as can be seen beforehand.

    Raises:
        BadInputError: a file is in the way, files of others are there, or it cannot be written.
    """
    if folder is not None:
        for layout in LAYOUTS:
            check_target(folder / layout)


def _layouts(config: ModelConfig) -> tuple[str, ...]:
    """Hugging Face has none for classifiers and forecasters."""
    return LAYOUTS if config.is_language_model else LAYOUTS[:1]


def unfinished_file(recipe: Recipe, source: Source, start: Pruned | None = None) -> Path:
    """Where recovery saves itself now and then, so that the same command goes on after a kill.

    In the cache, named after everything that decides the weights.
    """
    settings = recipe.to_dict()
    deciding = {key: settings[key] for key in ("prune", "recover", "seed", "threads")}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    digest.update(json.dumps(source.checkpoint.sha256, sort_keys=True).encode())
    digest.update(contents(source.calibration))
    for tensor in start.tensors.values() if start else ():
        digest.update(tensor.numpy().tobytes())
    return cache_folder() / f"recovery-{digest.hexdigest()[:24]}.pt"


def contents(text: Calibration) -> bytes:
    """What makes a text, or a task's samples, different from others: for names in the cache."""
    return text.tobytes() if isinstance(text, np.ndarray) else text.digest()


def compact(
    recipe: Recipe, source: Source, pruned: Pruned, progress: Progress = silent
) -> PackedModel:
    """The packed model: without dead channels, each matrix in the format that suits it.

    A 4-bit head is rounded to what costs least on the calibration text, and the errors of the rows
    that are used most often are kept; without text it is rounded to the nearest.
    """
    config = source.checkpoint.config
    text = _head_text(source)
    rounding = {}
    name = EMBEDDING if config.tie_embeddings else LM_HEAD
    calibrated = len(text) > 1 and name in pruned.tensors
    if calibrated:
        rounding[name] = partial(_round_head, recipe, source, pruned, progress=progress)
    tensors: Mapping[str, torch.Tensor] = pruned.tensors
    if not recipe.pack.keep_dead_channels:
        config, tensors = dead_channels.remove(config, tensors)
    packed = pack_model(config, tensors, recipe.pack, rounding, recipe.target.machine)
    if calibrated and packed.matrices[name].format.values is Values.INT4:
        frequent = frequent_tokens(text, config.vocab_size)
        packed = correct_rows(packed, tensors[name].numpy(), frequent)
    return packed


def _head_text(source: Source) -> Tokens:
    """The calibration text for the head, int32 (n,); none for a task."""
    text = source.calibration
    return text[:HEAD_TEXT] if isinstance(text, np.ndarray) else np.zeros(0, np.int32)


def correct_rows(packed: PackedModel, weight: Matrix, rows: NDArray[np.int64]) -> PackedModel:
    """With the rounding errors of `rows` of its head's matrix, which was packed from `weight`."""
    found = frequent_rows(weight, packed.matrices[packed.head_name], rows)
    return replace(packed, frequent=found)


def _round_head(
    recipe: Recipe, source: Source, pruned: Pruned, weight: Matrix, progress: Progress
) -> int4.Rounded:
    """On the CPU wherever the training was: the same bytes."""
    torch.set_num_threads(recipe.threads)
    model = Mamba.from_checkpoint(replace(source.checkpoint, tensors=dict(pruned.tensors)))
    hessian = head_hessian(model, _head_text(source), recipe.seed, progress)
    return int4.round_weights(weight, hessian, partial(progress, "rounding the head"))


def packing_note(packed: PackedModel) -> str:
    """What was removed, and which formats were chosen: one sentence."""
    removed = sum(packed.removed_channels)
    gone = f"removed {removed:,} channels that no longer reach the output; " if removed else ""
    chosen = Counter(matrix.format.name for matrix in packed.matrices.values())
    told = ", ".join(f"{count} x {name}" for name, count in chosen.most_common())
    return (
        f"{gone}packed to {packed.nbytes / 1e6:.2f} MB: {told}, each the smallest that is not "
        "slower (the report says why)"
    )


def export_dense(source: Source, folder: Path) -> Dense:
    """Write the unpruned checkpoint as dense float32 to `folder`."""
    with files.blaming(folder):
        folder.mkdir()
    export(
        pack_model(source.checkpoint.config, source.checkpoint.tensors, None), folder / "dense.onnx"
    )
    return Dense(folder / "dense.onnx")


def export_bundle(
    source: Source, dense: Dense, packed: PackedModel, folder: Path, machine: str | None = None
) -> Bundle:
    """Write model, op library and tokenizer to `folder`. machine: for it; None is this one."""
    machine = machine or host_machine()
    model_files = export(packed, folder / "model.onnx")
    library, tokenizer = folder / LIBRARY_NAME, folder / "tokenizer.json"
    files.copy(get_library_path(machine), library)
    if source.tokenizer is not None:
        files.copy(source.tokenizer, tokenizer)
    return Bundle(
        model=folder / "model.onnx",
        library=library,
        tokenizer=None if source.tokenizer is None else tokenizer,
        dense=dense,
        names=(
            *(f.name for f in model_files),
            library.name,
            *([] if source.tokenizer is None else [tokenizer.name]),
        ),
        model_bytes=sum(f.stat().st_size for f in model_files),
        machine=machine,
    )


def add_runtime(recipe: Recipe, source: Source, bundle: Bundle, deployment: Deployment) -> Bundle:
    """Put what runs the model into the bundle, and a manifest that ssmrun accepts."""
    folder = bundle.model.parent
    write_runtime_files(folder, deployment.machine, deployment.runtime)
    complete = replace(bundle, names=(*bundle.names, *RUNTIME_FILES))
    write_manifest(folder, complete.names, recipe, manifest_entries(source, deployment))
    return complete


def manifest_entries(source: Source, deployment: Deployment) -> dict[str, Any]:
    """What the manifest says beside its files and the recipe."""
    return {
        "model": describe_model(source.checkpoint),
        "machine": deployment.machine,
        "runtime": deployment.runtime.describe(),
    }


def describe_model(checkpoint: Checkpoint) -> dict[str, Any]:
    """Configuration and provenance, for the report."""
    return {
        "config": checkpoint.config.to_dict(),
        "architecture": asdict(checkpoint.architecture),
        "layout": checkpoint.layout,
        "sha256": checkpoint.sha256,
        "notes": list(checkpoint.notes),
    }


def write(
    recipe: Recipe, report: dict[str, Any], names: Iterable[str], folder: Path,
    extra: dict[str, Any],
) -> None:  # fmt: skip
    """Reports and, last, the manifest over every file of the bundle.

    Args:
        names: the files that a device needs. extra: `manifest_entries`.
    """
    write_reports(recipe, report, folder)
    write_manifest(folder, [*names, *REPORTS], recipe, extra)


def write_reports(recipe: Recipe, report: dict[str, Any], folder: Path) -> None:
    """The report in each of its renderings."""
    files.write_json(folder / "report.json", report)
    files.write_text(folder / "report.md", render_markdown(report))
    files.write_text(folder / "report.html", render_html(report))
    files.write_text(folder / "junit.xml", render_junit({recipe.out.name: report}))
    command = words(report).command
    commands = run_it(recipe.out.name, recipe.target.machine, command)
    files.write_text(folder / "README.md", render_card(report, commands))
