"""The bundle's files, and those of the dense baseline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssmpress import files
from ssmpress._version import __version__
from ssmpress.bundle.files import RUNTIME_FILES, write_runtime_files
from ssmpress.bundle.manifest import write_manifest
from ssmpress.devices.plan import Deployment
from ssmpress.graph.export import export
from ssmpress.graph.traced import export_network
from ssmpress.machine import LIBRARY_NAME, get_library_path, host_machine
from ssmpress.pack.model import PackedModel, PackedTensors
from ssmpress.recipe.recipe import Recipe
from ssmpress.results.quality import Guess, VariantQuality
from ssmpress.runtime.onnx_runtime import import_onnxruntime
from ssmpress.stages.network_source import NetworkSource
from ssmpress.stages.source import AnySource


@dataclass
class Dense:
    """The unpruned model as float32: exported and judged once, the baseline of every bundle.

    quality, guess: set when they are first measured. kept: file of the quality for the same command
    when it goes on after an interruption, or None.
    """

    model: Path
    quality: VariantQuality | None = None
    guess: Guess | None = None
    kept: Path | None = None


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


def export_dense(source: AnySource, folder: Path, kept: Path | None = None) -> Dense:
    """Write the unpruned checkpoint as dense float32 to `folder`. kept: see `Dense`."""
    with files.blaming(folder):
        folder.mkdir()
    write_graph(source, source.pack_dense(), folder / "dense.onnx")
    return Dense(folder / "dense.onnx", kept=kept)


def write_graph(source: AnySource, packed: PackedTensors, path: Path) -> tuple[Path, ...]:
    """Write the model in ONNX; the files written."""
    if isinstance(source, NetworkSource):
        return export_network(source.traced, packed, source.config, path)
    assert isinstance(packed, PackedModel)
    return export(packed, path)


def dense_file(recipe: Recipe, source: AnySource, kept: Path | None) -> Path | None:
    """`Dense.kept`, named after everything that decides the quality on this machine.

    Args:
        kept: folder for what the same command goes on with. The file counts as no work in it.
    """
    if kept is None:
        return None
    runtime, checkpoint = import_onnxruntime().__version__, source.hashes["dense"]
    deciding = [__version__, runtime, recipe.threads, checkpoint, files.sha256(get_library_path())]
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    digest.update(source.task.digest(source.evaluation))
    return kept / f".dense-{digest.hexdigest()[:24]}.json"


def export_bundle(
    source: AnySource, dense: Dense, packed: PackedTensors, folder: Path, machine: str | None = None
) -> Bundle:
    """Write model, op library and tokenizer to `folder`. machine: for it; None is this one."""
    machine = machine or host_machine()
    model_files = write_graph(source, packed, folder / "model.onnx")
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


def add_runtime(
    recipe: Recipe, source: AnySource, bundle: Bundle, deployment: Deployment
) -> Bundle:
    """Put what runs the model into the bundle, and a manifest that ssmrun accepts."""
    folder = bundle.model.parent
    write_runtime_files(folder, deployment.machine, deployment.runtime)
    complete = replace(bundle, names=(*bundle.names, *RUNTIME_FILES))
    write_manifest(folder, complete.names, recipe, manifest_entries(source, deployment))
    return complete


def manifest_entries(source: AnySource, deployment: Deployment) -> dict[str, Any]:
    """What the manifest says beside its files and the recipe."""
    return {
        "model": source.describe(),
        "machine": deployment.machine,
        "runtime": deployment.runtime.describe(),
    }
