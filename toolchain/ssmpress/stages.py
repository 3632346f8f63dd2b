"""The stages of `pipeline.compress`: each a function from the results of the ones before."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssmpress import compact as packing
from ssmpress import data
from ssmpress.checkpoint import (
    Checkpoint,
    ModelConfig,
    read_checkpoint,
    write_checkpoint,
)
from ssmpress.errors import BadInputError
from ssmpress.export import PackedModel, export
from ssmpress.int4 import MAX_COLUMNS
from ssmpress.model import Mamba
from ssmpress.ops import LIBRARY_NAME, Format, Structure, Values, get_library_path
from ssmpress.prune import mask
from ssmpress.prune.recover import PruneResult, compute_device, prune_and_recover
from ssmpress.recipe import DataSettings, PackSettings, Recipe
from ssmpress.report import files
from ssmpress.report.html import render_html
from ssmpress.report.junit import render_junit
from ssmpress.report.manifest import write_manifest
from ssmpress.report.markdown import render_markdown
from ssmpress.report.results import TextUse

Progress = Callable[[str, int, int], None]
Note = Callable[[str], None]

EMBEDDING = "backbone.embedding.weight"
CPU_CALIBRATION_TOKENS = 4_000_000
"""More text than a CPU can train on within any time budget."""


@dataclass(frozen=True)
class Source:
    """What was read. calibration: int32 (n,). windows: evaluation, int32 (count, length)."""

    checkpoint: Checkpoint
    tokenizer: Path
    calibration: NDArray[np.int32]
    windows: NDArray[np.int32]
    calibration_use: TextUse
    evaluation_use: TextUse


@dataclass(frozen=True)
class Pruned:
    """tensors: float32 by canonical name, zeros where pruned. result: how it went."""

    tensors: Mapping[str, torch.Tensor]
    result: PruneResult

    def summary(self) -> dict[str, Any]:
        """Recovery, for the report."""
        r = self.result
        return {
            "steps": r.steps,
            "tokens": r.tokens,
            "seconds": round(r.seconds, 3),
            "device": r.device,
            "history": list(r.history),
        }


@dataclass(frozen=True)
class Bundle:
    """Files of the bundle, and the dense baseline beside it. All lie in the staging folder."""

    model: Path
    library: Path
    tokenizer: Path
    dense: Path
    names: tuple[str, ...]
    model_bytes: int


def read(recipe: Recipe, note: Note) -> Source:
    """Checkpoint, tokenizer and text.

    Raises:
        BadInputError: one of them is missing, damaged or disagrees with another.
        UsageError: `--sparsity-of model` asks for more than the prunable weights hold.
    """
    checkpoint = read_checkpoint(recipe.model)
    for sentence in checkpoint.notes:
        note(sentence)
    resolve_sparsity(recipe, checkpoint)
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
    windows = data.windows(evaluation, min(recipe.data.window, len(evaluation)))
    uses = (
        _text_use(recipe.data.calibration, len(calibration)),
        _text_use(recipe.data.evaluation, windows.size),
    )
    for purpose, use in zip(("calibration", "evaluation"), uses, strict=True):
        if use.default_text:
            note(f"{purpose}: no file given, using the default text (Python's language manual)")
    return Source(checkpoint, path, calibration, windows, *uses)


def _needs_default_text(settings: DataSettings) -> bool:
    return not (settings.calibration and settings.evaluation)


def _text_use(paths: tuple[Path, ...], tokens: int) -> TextUse:
    return TextUse(tuple(map(str, paths)), default_text=not paths, tokens=tokens)


def resolve_sparsity(recipe: Recipe, checkpoint: Checkpoint) -> float:
    """Sparsity of the prunable weights, whatever `--sparsity-of` says."""
    settings = recipe.prune
    return mask.resolve_sparsity(
        checkpoint.config, settings.prunable, settings.sparsity, settings.sparsity_of
    )


def _calibration_limit(recipe: Recipe) -> int | None:
    """Tokens of calibration text to read; None is all of it."""
    p = recipe.prune
    saliency = 4 * p.calibration_batches * p.calibration_batch * p.calibration_window
    if recipe.recover.steps == 0:
        return saliency
    if compute_device(recipe.recover.compute).type == "cuda":
        return None
    return max(saliency, CPU_CALIBRATION_TOKENS)


def prune(recipe: Recipe, source: Source, progress: Progress) -> Pruned:
    """The pruned weights: one-shot, iteratively with recovery, or read from `recipe.pruned`."""
    if recipe.pruned is not None:
        return read_pruned(recipe.pruned, source.checkpoint.config)
    torch.set_num_threads(recipe.threads)
    model = Mamba.from_checkpoint(source.checkpoint)
    resume_file = unfinished_file(recipe, source)
    result = prune_and_recover(
        model,
        source.calibration,
        recipe.prune,
        recipe.recover,
        seed=recipe.seed,
        progress=progress,
        resume_file=resume_file,
    )
    resume_file.unlink(missing_ok=True)
    return Pruned({name: t.cpu() for name, t in model.tensors().items()}, result)


def read_pruned(path: Path, config: ModelConfig) -> Pruned:
    """Weights that are pruned already, for example by `--save-checkpoint` on another machine.

    Raises:
        BadInputError: it cannot be read, or has other sizes than the dense model.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.config != config:
        mine, other = config.to_dict(), checkpoint.config.to_dict()
        key = next(k for k in mine if mine[k] != other[k])
        raise BadInputError(
            f"--pruned {path}: expected the dense model's {key}, {mine[key]}; got {other[key]}. "
            "Give the dense model that it was made from as MODEL."
        )
    return Pruned(checkpoint.tensors, PruneResult({}, (), 0.0, 0, 0, f"read from {path}"))


def save_checkpoint(source: Source, pruned: Pruned, folder: Path) -> None:
    """The pruned weights with their zeros, in each of the layouts, in a subfolder of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for layout in ("mamba-ssm", "huggingface"):
        write_checkpoint(
            source.checkpoint.config, pruned.tensors, folder / layout, layout, source.tokenizer
        )


def unfinished_file(recipe: Recipe, source: Source) -> Path:
    """Where recovery saves itself now and then, so that the same command goes on after a kill.

    Under XDG_CACHE_HOME (~/.cache), named after everything that decides the weights.
    """
    settings = recipe.to_dict()
    deciding = {key: settings[key] for key in ("prune", "recover", "seed", "threads")}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    digest.update(json.dumps(source.checkpoint.sha256, sort_keys=True).encode())
    digest.update(source.calibration.tobytes())
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ssmpress" / f"recovery-{digest.hexdigest()[:24]}.pt"


def is_matrix(name: str) -> bool:
    """Whether a tensor is stored as a packed matrix: projections, embedding and head."""
    return name.endswith("_proj.weight") or name in (EMBEDDING, "lm_head.weight")


def compact(recipe: Recipe, source: Source, pruned: Pruned) -> tuple[PackedModel, PackedModel]:
    """The dense float32 baseline of the unpruned checkpoint, and the packed model."""
    config = source.checkpoint.config
    dense = _pack(config, source.checkpoint.tensors, None)
    return dense, _pack(config, pruned.tensors, recipe.pack)


def matrix_format(
    config: ModelConfig, name: str, shape: tuple[int, int], stored: int, settings: PackSettings
) -> tuple[Format, str]:
    """The format of a matrix with `stored` weights, and why."""
    embedding = name == EMBEDDING
    head = embedding if config.tie_embeddings else name == "lm_head.weight"
    values = settings.head_values() if head else settings.values
    if values is Values.INT4 and shape[1] > MAX_COLUMNS:
        values = Values.INT8
    if embedding:
        return Format(Structure.DENSE, values), "rows are read one by one"
    return packing.choose_format(*shape, stored, values)


def _pack(
    config: ModelConfig, tensors: Mapping[str, torch.Tensor], settings: PackSettings | None
) -> PackedModel:
    """settings None: everything dense float32."""
    matrices, rest = {}, {}
    for name, tensor in tensors.items():
        array = tensor.numpy()
        if not is_matrix(name):
            rest[name] = array
            continue
        keep_mask = array != 0
        if settings is None:
            chosen, reason = Format(Structure.DENSE, Values.FP32), "the dense baseline"
        else:
            stored = int(keep_mask.sum())
            chosen, reason = matrix_format(config, name, array.shape, stored, settings)
        matrices[name] = packing.pack(array, keep_mask, chosen, reason)
    return PackedModel(config, rest, matrices)


def export_bundle(
    recipe: Recipe, source: Source, dense: PackedModel, packed: PackedModel, folder: Path
) -> Bundle:
    """Write the bundle's files to `folder`, and the dense baseline to its subfolder `work`."""
    work = folder / "work"
    work.mkdir()
    model_files = export(packed, folder / "model.onnx")
    export(dense, work / "dense.onnx")
    library, tokenizer = folder / LIBRARY_NAME, folder / "tokenizer.json"
    shutil.copyfile(get_library_path(), library)
    shutil.copyfile(source.tokenizer, tokenizer)
    return Bundle(
        model=folder / "model.onnx",
        library=library,
        tokenizer=tokenizer,
        dense=work / "dense.onnx",
        names=(*(f.name for f in model_files), library.name, tokenizer.name),
        model_bytes=sum(f.stat().st_size for f in model_files),
    )


def write(recipe: Recipe, report: dict[str, Any], bundle: Bundle, folder: Path) -> None:
    """Reports and, last, the manifest over every file of the bundle."""
    shutil.rmtree(folder / "work")
    files.write_json(folder / "report.json", report)
    files.write_text(folder / "report.md", render_markdown(report))
    files.write_text(folder / "report.html", render_html(report))
    files.write_text(folder / "junit.xml", render_junit({recipe.out.name: report}))
    reports = ("report.json", "report.md", "report.html", "junit.xml")
    write_manifest(folder, [*bundle.names, *reports], recipe, {"model": report["model"]})
