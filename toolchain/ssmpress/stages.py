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
from ssmpress.blocks.config import ModelConfig, first_difference
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from ssmpress.bundle.files import RUNTIME_FILES, run_it, write_runtime_files
from ssmpress.bundle.manifest import write_manifest
from ssmpress.bundle.names import REPORTS
from ssmpress.callbacks import Note, Progress, silent
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint, read_config
from ssmpress.checkpoint.write import check_target, write_checkpoint
from ssmpress.data import overlap
from ssmpress.devices.plan import Deployment
from ssmpress.errors import BadInputError
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.machine import LIBRARY_NAME, get_library_path, host_machine
from ssmpress.pack.choose import BEYOND_FP16
from ssmpress.pack.csr import CSR_FOLDER, check_csr_target, write_csr
from ssmpress.pack.frequent import frequent_rows
from ssmpress.pack.head_error import TEXT as HEAD_TEXT
from ssmpress.pack.head_error import frequent_tokens, head_hessian
from ssmpress.pack.layout import Matrix
from ssmpress.pack.layouts import int4
from ssmpress.pack.model import PackedModel, pack_model
from ssmpress.prune import dead_channels, mask
from ssmpress.prune.distill import Teacher
from ssmpress.prune.one_shot import Scores, check_combination
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.recover import PruneResult, compute_device, prune_and_recover
from ssmpress.recipe.recipe import Recipe
from ssmpress.report.card import render_card
from ssmpress.report.html import render_html
from ssmpress.report.junit import render_junit
from ssmpress.report.markdown import render_markdown
from ssmpress.report.wording import words
from ssmpress.results.quality import VariantQuality
from ssmpress.results.report import Report
from ssmpress.results.run import TextUse
from ssmpress.tasks import Task
from ssmpress.tasks.task import Request

CPU_CALIBRATION_TOKENS = 4_000_000
"""More text than a CPU can train on within any time budget."""


@dataclass(frozen=True)
class Source:
    """What was read.

    tokenizer: None where the model reads no tokens. calibration, evaluation: in the form of the
    model's task; of a language model tokens int32 (n,), and windows int32 (count, length).
    seen: part of the evaluation, 0 .. 1, that the calibration has too.
    """

    checkpoint: Checkpoint
    tokenizer: Path | None
    calibration: Any
    evaluation: Any
    calibration_use: TextUse
    evaluation_use: TextUse
    seen: float = 0.0

    @property
    def task(self) -> Task:
        """What the model is for."""
        return self.checkpoint.config.task


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
            **r.end,
            "continued_from": self.continued_from,
        }


@dataclass
class Dense:
    """The unpruned model as float32: exported and judged once, the baseline of every bundle.

    quality: set when it is first measured.
    """

    model: Path
    quality: VariantQuality | None = None


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
        """Bytes of some of its files."""
        return sum((self.model.parent / name).stat().st_size for name in names)


@dataclass(frozen=True)
class Checked:
    """What is found before any long work. baseline: the gate's, or None."""

    baseline: Report | None
    deployment: Deployment


@dataclass(frozen=True)
class Run:
    """What all stages after pruning have in common."""

    recipe: Recipe
    source: Source
    dense: Dense
    checked: Checked

    @property
    def deployment(self) -> Deployment:
        """What the bundle is for, and the devices."""
        return self.checked.deployment


def read(recipe: Recipe, note: Note = silent) -> Source:
    """Checkpoint, tokenizer and data.

    Args:
        note: called with one sentence about each decision.

    Raises:
        BadInputError: one of them is missing, damaged or disagrees with another.
        UsageError: `--sparsity-of model` asks for more than the prunable weights hold, or recovery
            would train on the evaluation data.
    """
    checkpoint, settings = read_checkpoint(recipe.model), recipe.data
    note(f"architecture {checkpoint.architecture}")
    for sentence in checkpoint.notes:
        note(sentence)
    if recipe.pruned is not None:
        check_pruned(recipe.pruned, read_config(recipe.pruned)[0], checkpoint.config)
    if recipe.save_checkpoint is not None:
        dialects.check_writable(checkpoint.config)
    resolve_sparsity(recipe, checkpoint.config)
    request = Request(
        settings=settings,
        model=recipe.model,
        tokenizer=checkpoint.tokenizer,
        vocab_size=checkpoint.config.vocab_size,
        calibration_window=recipe.prune.calibration_window,
        calibration_tokens=_calibration_limit(recipe),
    )
    data = checkpoint.config.task.read(request, note)
    overlap.check_unseen(recipe, data.seen, note)
    return Source(
        checkpoint,
        data.tokenizer,
        data.calibration,
        data.evaluation,
        _text_use(settings.calibration, data.calibration_steps),
        _text_use(settings.evaluation, data.evaluation_steps),
        data.seen,
    )


def _text_use(paths: tuple[Path, ...], steps: int) -> TextUse:
    return TextUse(tuple(map(str, paths)), default_text=not paths, tokens=steps)


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
        check_combination(config, names, settings, sparsity)
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
    note: Note = silent,
    work: Path | None = None,
    start: Pruned | None = None,
    scores: Scores | None = None,
) -> Pruned:
    """The pruned weights: one-shot, iteratively with recovery, or read from `recipe.pruned`.

    Args:
        note: called with what recovery plans, what ended it, and where it cannot be saved.
        work: folder where recovery saves itself, and from which the same call goes on, be it
            finished; None saves nothing.
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
    name = recovery_name(recipe, source, start)
    result = prune_and_recover(
        model,
        source.calibration,
        recipe.prune,
        recipe.recover,
        seed=recipe.seed,
        progress=progress,
        note=note,
        resume_file=None if work is None else work / f"{name}.pt",
        teacher=teacher,
        scores=scores,
        quality=recipe.gate.quality(),
    )
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
        size, mine, other = first_difference(config, found)
        raise BadInputError(
            f"--pruned {path}: expected the dense model's {size}, {mine}; got {other}. "
            "Give the dense model that it was made from as MODEL."
        )


def save_checkpoint(source: Source, pruned: Pruned, folder: Path) -> None:
    """The pruned weights with their zeros, in each of the layouts, in a subfolder of its name.

    The matrices also as CSR, for people who look at them.
    """
    for layout in dialects.that_can_say(source.checkpoint.config):
        write_checkpoint(
            source.checkpoint.config, pruned.tensors, folder / layout, layout, source.tokenizer
        )
    write_csr(source.checkpoint.config, pruned.tensors, folder / CSR_FOLDER)


def check_save_checkpoint(folder: Path | None) -> None:
    """Whether `save_checkpoint` will be able to write there, as far as can be seen beforehand.

    Raises:
        BadInputError: a file is in the way, files of others are there, or it cannot be written.
    """
    if folder is not None:
        for dialect in dialects.DIALECTS:
            check_target(folder / dialect.NAME)
        check_csr_target(folder / CSR_FOLDER)


def recovery_name(recipe: Recipe, source: Source, start: Pruned | None = None) -> str:
    """A name for unfinished recovery, made of everything that decides the weights."""
    settings = recipe.to_dict()
    deciding = {key: settings[key] for key in ("prune", "recover", "seed", "threads")}
    if recipe.recover.steps is None:
        deciding["quality"] = recipe.gate.quality()
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    digest.update(json.dumps(source.checkpoint.sha256, sort_keys=True).encode())
    digest.update(source.task.digest(source.calibration))
    for tensor in start.tensors.values() if start else ():
        digest.update(tensor.numpy().tobytes())
    return f"recovery-{digest.hexdigest()[:24]}"


def compact(
    recipe: Recipe, source: Source, pruned: Pruned, progress: Progress = silent
) -> PackedModel:
    """The packed model: without dead channels, each matrix in the format that suits it.

    A 4-bit head is rounded to what costs least on the calibration text, and the errors of the rows
    that are used most often are kept; without text it is rounded to the nearest.
    """
    config = source.checkpoint.config
    rounding = {}
    name = EMBEDDING if config.tie_embeddings else LM_HEAD
    scores_tokens = not config.outputs and name in pruned.tensors
    calibrated = scores_tokens and len(source.calibration) > 1
    if calibrated:
        rounding[name] = partial(_round_head, recipe, source, pruned, progress=progress)
    tensors: Mapping[str, torch.Tensor] = pruned.tensors
    if not recipe.pack.keep_dead_channels:
        config, tensors = dead_channels.remove(config, tensors)
    packed = pack_model(config, tensors, recipe.pack, rounding, recipe.target.machine)
    removed = dead_channels.removed_channels(source.checkpoint.config, config)
    packed = replace(packed, removed_channels=removed)
    if calibrated and packed.matrices[name].format.values is Values.INT4:
        frequent = frequent_tokens(source.calibration[:HEAD_TEXT], config.vocab_size)
        packed = correct_rows(packed, tensors[name].numpy(), frequent)
    return packed


def correct_rows(packed: PackedModel, weight: Matrix, rows: NDArray[np.int64]) -> PackedModel:
    """With the rounding errors of `rows` of its head's matrix, which was packed from `weight`."""
    found = frequent_rows(weight, packed.matrices[packed.head_name], rows)
    return replace(packed, frequent=found)


def _round_head(
    recipe: Recipe, source: Source, pruned: Pruned, weight: Matrix, progress: Progress
) -> int4.Rounded:
    """The head in 4 bits; on the CPU wherever the training was, for the same bytes."""
    torch.set_num_threads(recipe.threads)
    model = Mamba.from_checkpoint(replace(source.checkpoint, tensors=dict(pruned.tensors)))
    hessian = head_hessian(model, source.calibration[:HEAD_TEXT], recipe.seed, progress)
    return int4.round_weights(weight, hessian, partial(progress, "rounding the head"))


def packing_note(packed: PackedModel) -> str:
    """What was removed, and which formats were chosen; which matrices fp16 could not hold."""
    removed = sum(packed.removed_channels)
    gone = f"removed {removed:,} channels that no longer reach the output; " if removed else ""
    chosen = Counter(matrix.format.name for matrix in packed.matrices.values())
    told = ", ".join(f"{count} x {name}" for name, count in chosen.most_common())
    reasons = {name: matrix.reason for name, matrix in packed.matrices.items()}
    beyond = {name: why for name, why in reasons.items() if why.endswith(BEYOND_FP16)}
    wide = "".join(f"; {name} is kept in float32: {why}" for name, why in beyond.items())
    return (
        f"{gone}packed to {packed.nbytes / 1e6:.2f} MB: {told}, each the smallest that is not "
        f"slower (the report says why){wide}"
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
    recipe: Recipe, report: Report, names: Iterable[str], folder: Path, extra: dict[str, Any]
) -> None:
    """Reports and, last, the manifest over every file of the bundle.

    Args:
        names: the files that a device needs. extra: `manifest_entries`.
    """
    write_reports(recipe, report, folder)
    write_manifest(folder, [*names, *REPORTS], recipe, extra)


def write_reports(recipe: Recipe, report: Report, folder: Path) -> None:
    """The report in each of its renderings, the page without its charts."""
    files.write_json(folder / "report.json", dict(report))
    files.write_text(folder / "report.md", render_markdown(report))
    files.write_text(folder / "report.html", render_html(report, charts=False))
    files.write_text(folder / "junit.xml", render_junit({recipe.out.name: report}))
    commands = run_it(recipe.out.name, recipe.target.machine, words(report).command)
    files.write_text(folder / "README.md", render_card(report, commands))
