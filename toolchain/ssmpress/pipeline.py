"""The whole flow on one screen: a checkpoint goes in, a bundle and its report come out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmpress.bundle.files import archive_path, write_archive
from ssmpress.bundle.out_folder import staged
from ssmpress.bundle.pages import add_charts
from ssmpress.cache import remove_expired, unfinished
from ssmpress.callbacks import Note, Progress, silent
from ssmpress.devices.plan import with_runtime
from ssmpress.errors import noting
from ssmpress.files import blaming
from ssmpress.folders import clear_temporary, discard_work, holds_work
from ssmpress.gate.judge import judge
from ssmpress.nets.network import Network
from ssmpress.preflight import Ready, preflight
from ssmpress.prune.resume import StateError
from ssmpress.recipe.recipe import Recipe
from ssmpress.report.schema import build_report, with_verdict
from ssmpress.stages.bundle import (
    add_runtime,
    dense_file,
    export_bundle,
    export_dense,
    manifest_entries,
)
from ssmpress.stages.network_source import source_of_module
from ssmpress.stages.packed import pack_weights, packing_note
from ssmpress.stages.pruned import (
    Pruned,
    prune_weights,
    recovery_name,
    save_checkpoint,
)
from ssmpress.stages.run import Checked, Run
from ssmpress.stages.written import seal_bundle
from ssmpress.validate import describe_dense, validate

if TYPE_CHECKING:
    from torch import nn

GOES_ON = "no bundle was written; the same command goes on where it stopped"
"""What is said of a run that ended early and had saved some of its work."""


@dataclass
class Watch:
    """How a run tells what it does. Both callbacks may be slow; neither may raise.

    progress: (what, done, total) of long work. note: one sentence about a decision.
    timings_s: seconds per stage, filled by the run.
    """

    progress: Progress = silent
    note: Note = silent
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        started = time.monotonic()
        yield
        self.timings_s[name] = round(time.monotonic() - started, 3)


@dataclass(frozen=True)
class Result:
    """A finished run. report: docs/report.md. out: the bundle. exit_code: the gate's."""

    report: dict[str, Any]
    out: Path
    exit_code: int


def compress(recipe: Recipe, watch: Watch | None = None) -> Result:
    """Run a recipe: read, judge the dense model, prune, compact, export, validate, judge, write.

    The bundle appears complete under `recipe.out` or not at all; a failed gate leaves it, with the
    verdict in its report.

        >>> from pathlib import Path
        >>> from ssmpress import (
        ...     DataSettings, GateSettings, PruneSettings, Recipe, RecoverSettings, compress
        ... )
        >>> texts = DataSettings(
        ...     calibration=(Path("train.txt"),), evaluation=(Path("test.txt"),), window=256
        ... )
        >>> recipe = Recipe(
        ...     model=Path("my-mamba"),
        ...     out=Path("bundle"),
        ...     prune=PruneSettings(sparsity=0.3, calibration_batches=2),
        ...     recover=RecoverSettings(steps=0),
        ...     data=texts,
        ...     gate=GateSettings(min_retention=0.8),
        ... )
        >>> result = compress(recipe)
        >>> print(f"{result.report['sparsity']['prunable']:.2f}", result.exit_code)
        0.30 0

    Args:
        recipe: what to compress, and how. watch: told of every stage; None tells nobody.

    Returns:
        The report, the bundle's folder and the gate's exit code.

    Raises:
        SsmpressError: with the exit code and one sentence for the user.
    """
    watch = watch or Watch()
    with watch.stage("read"):
        ready = preflight(recipe, [recipe], watch.note)
        checked = check(recipe, ready)
    return _compress(recipe, ready, checked, watch)


def compress_network(
    module: nn.Module, network: Network, recipe: Recipe, watch: Watch | None = None
) -> Result:
    """Run a recipe on a network of the user's own whose module, with its weights, is at hand.

        >>> from pathlib import Path
        >>> import torch
        >>> from ssmpress import GateSettings, Network, PruneSettings, Recipe, RecoverSettings
        >>> from ssmpress import compress_network, stand_ins
        >>> with stand_ins():  # where mamba-ssm is not installed
        ...     from mamba_ssm import Mamba
        >>> _ = torch.manual_seed(0)
        >>> module = torch.nn.Sequential(Mamba(16, d_state=4), torch.nn.Linear(16, 1))
        >>> batches = [(x, module(x).detach()) for x in torch.randn(24, 4, 32, 16)]
        >>> network = Network(
        ...     build=lambda: torch.nn.Sequential(Mamba(16, d_state=4), torch.nn.Linear(16, 1)),
        ...     inputs={"input": torch.zeros(1, 32, 16)},
        ...     dynamic={"input": {0: "batch"}},
        ...     samples=lambda split: batches[:16] if split == "calibration" else batches[16:],
        ...     loss=torch.nn.functional.mse_loss,
        ...     metric=torch.nn.functional.mse_loss,
        ...     metric_name="MSE",
        ...     higher_is_better=False,
        ... )
        >>> recipe = Recipe(
        ...     model=Path("sequence"),  # its name in the report
        ...     out=Path("sequence-bundle"),
        ...     prune=PruneSettings(sparsity=0.2),
        ...     recover=RecoverSettings(steps=0),
        ...     gate=GateSettings(min_retention=None),
        ... )
        >>> result = compress_network(module, network, recipe)
        >>> print(f"{result.report['sparsity']['prunable']:.2f}")
        0.20

    Args:
        module: it is not changed. network: what is to be known of it; `build` is called for a
            second module, which is exported, where mamba-ssm's own kernels may be in the first.
        recipe: `model` is a name, and nothing is read there. watch: as of `compress`.

    Returns:
        As `compress`.

    Raises:
        SsmpressError: with the exit code and one sentence for the user.
    """
    watch = watch or Watch()
    with watch.stage("read"):
        source = source_of_module(network, module, recipe.model)
        ready = preflight(recipe, [recipe], watch.note, source=source)
        checked = check(recipe, ready)
    return _compress(recipe, ready, checked, watch)


def _compress(recipe: Recipe, ready: Ready, checked: Checked, watch: Watch) -> Result:
    """A run after everything was read and checked."""
    source = ready.source
    name = recovery_name(recipe, source) if recipe.trains else None
    with (
        kept_work(name) as kept,
        staged(recipe.out) as folder,
        work_folder(folder) as work,
    ):
        with watch.stage("dense"):
            known = dense_file(recipe, source, kept)
            dense = export_dense(source, work / "dense", known)
            run = Run(recipe, source, dense, checked)
            watch.note(describe_dense(run, watch.progress))
        with watch.stage("prune"):
            pruned = ready.pruned or prune_weights(
                recipe, source, watch.progress, note=watch.note, work=kept
            )
            if recipe.save_checkpoint is not None:
                save_checkpoint(source, pruned, recipe.save_checkpoint)
        report = make_bundle(run, pruned, folder, watch)
    with noting(f"the bundle {recipe.out} is complete"):
        add_charts(recipe.out, watch.note)
        if recipe.deploy.archive:
            write_archive(recipe.out, archive_path(recipe.out), recipe.out.name)
    return Result(report, recipe.out, report["verdict"]["exit_code"])


def check(recipe: Recipe, ready: Ready) -> Checked:
    """What was found before any long work, with the runtime, which may have to be downloaded.

    What killed runs left goes first.

    Raises:
        DeviceError: it cannot be had.
    """
    clear_temporary()
    remove_expired()
    return Checked(ready.baseline, with_runtime(ready.place, recipe))


@contextmanager
def kept_work(name: str | None) -> Iterator[Path | None]:
    """A folder of the cache for what the same command goes on with, if the block ends early.

    It is emptied when the block has ended well: what was made is in its place. Whatever ends the
    block early gets a note if the same command will go on.

    Args:
        name: made of everything that decides the work; None where there is none to keep.
    """
    if name is None:
        yield None
        return
    with unfinished(name) as folder:
        try:
            yield folder
        except StateError:
            raise
        except BaseException as error:
            if holds_work(folder):
                error.add_note(GOES_ON)
            raise
        discard_work(folder)


def make_bundle(run: Run, pruned: Pruned, folder: Path, watch: Watch) -> dict[str, Any]:
    """Pruned weights -> a bundle in `folder`, measured beside the dense model, and its report."""
    recipe, source, deployment = run.recipe, run.source, run.deployment
    with watch.stage("compact"):
        packed = pack_weights(recipe, source, pruned, watch.progress)
        watch.note(packing_note(packed))
    with watch.stage("export"):
        bundle = export_bundle(source, run.dense, packed, folder, deployment.machine)
        bundle = add_runtime(recipe, source, bundle, deployment)
    with watch.stage("validate"):
        results = validate(run, pruned, packed, bundle, watch.progress)
    with watch.stage("judge"):
        report = build_report(recipe, results)
        verdict = judge(report, recipe.gate, seed=recipe.seed, baseline=run.checked.baseline)
    report = with_verdict(report | {"timings_s": dict(watch.timings_s)}, verdict)
    extra = manifest_entries(source, deployment)
    seal_bundle(recipe, report, bundle.names, folder, extra)
    return report


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A folder in `folder` for what is no part of the bundle; it is gone after the block."""
    work = folder / "work"
    with blaming(work):
        work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
