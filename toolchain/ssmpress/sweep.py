"""Several sparsities and value types of one model, run one after another from shared work.

Shared: the checkpoint and the text, read once; the dense baseline, exported and judged once; the
saliency of one-shot pruning, or the model of the next lower sparsity, from which iterative recovery
goes on (`continues`); one pruned model for all value types. Latency is not shared: each bundle
takes turns with the dense model, so that the machine's drift slows both.

A finished point waits in the cache until the sweep is whole: after an interruption the same command
skips it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ssmpress import files, folders
from ssmpress._version import __version__
from ssmpress.blocks.config import ModelConfig
from ssmpress.bundle.manifest import MANIFEST_NAME, verify_manifest
from ssmpress.bundle.names import REPORTS
from ssmpress.bundle.out_folder import staged
from ssmpress.bundle.pages import add_charts
from ssmpress.errors import BadInputError, WriteError, noting
from ssmpress.gate.sweep import judge_sweep
from ssmpress.pipeline import Watch, check, kept_work, make_bundle, work_folder
from ssmpress.preflight import preflight
from ssmpress.prune import resume
from ssmpress.prune.one_shot import Scores
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.prune import Method, Scope
from ssmpress.recipe.sweep import Sweep
from ssmpress.report.sweep import tradeoff, write_sweep
from ssmpress.stages.bundle import Dense, dense_file, export_dense
from ssmpress.stages.pruned import Pruned, prune_weights, save_checkpoint
from ssmpress.stages.run import Checked, Run
from ssmpress.stages.source import AnySource
from ssmpress.stages.written import seal_bundle, write_reports
from ssmpress.validate import describe_dense


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep. summary: sweep.json. out: its folder. exit_code: of the pick."""

    summary: dict[str, Any]
    out: Path
    exit_code: int


@dataclass
class _Shared:
    """What the points have in common, found by the first that needs it.

    cache: finished points, and the weights of every sparsity so far. pruned: the last of them.
    """

    sparsities: tuple[float, ...]
    source: AnySource
    dense: Dense
    cache: Path
    checked: Checked
    scores: Scores = field(default_factory=Scores)
    pruned: dict[float, Pruned] = field(default_factory=dict)


def run_sweep(sweep: Sweep, watch: Watch | None = None) -> SweepResult:
    """Run every point, compare them, keep the picked one.

    `sweep.recipe.out` appears whole at the end: a folder per point, or with a pick the picked
    bundle itself and the reports of the others.

    Raises:
        SsmpressError: with the exit code and one sentence for the user.
    """
    watch = watch or Watch()
    points = sweep.points()
    with watch.stage("read"):
        ready = preflight(sweep.recipe, points.values(), watch.note)
        checked = check(sweep.recipe, ready)
    source = ready.source
    with (
        kept_work(_name(sweep, source)) as cache,
        staged(sweep.recipe.out) as folder,
        work_folder(folder) as work,
    ):
        assert cache is not None
        known = dense_file(sweep.recipe, source, cache)
        dense = export_dense(source, work / "dense", known)
        run = Run(sweep.recipe, source, dense, checked)
        watch.note(describe_dense(run, watch.progress))
        shared = _Shared(sweep.sparsities, source, dense, cache, checked)
        if ready.pruned is not None:
            shared.pruned = dict.fromkeys(sweep.sparsities, ready.pruned)
        reports = {}
        for number, (name, recipe) in enumerate(points.items(), 1):
            watch.note(f"{name}, {number} of {len(points)}")
            reports[name] = _point(recipe, name, folder, shared, watch)
            watch.note(_outcome(reports[name]))
        summary = judge_sweep(sweep, reports)
        _collect(summary, reports, points, cache, folder)
    with noting(f"the sweep {sweep.recipe.out} is complete"):
        add_charts(sweep.recipe.out, watch.note)
    return SweepResult(summary, sweep.recipe.out, summary["exit_code"])


def continues(recipe: Recipe) -> bool:
    """Whether recovery may go on from the model of a lower sparsity.

    Only where the masks tighten step by step from any state: not where they come from the unpruned
    weights' activations, fix the zeros of every row, or may loosen again.
    """
    return (
        recipe.trains
        and not recipe.recover.regrow
        and recipe.prune.method in (Method.GRADIENT_MAGNITUDE, Method.MAGNITUDE)
        and recipe.prune.scope is not Scope.OWL
        and recipe.prune.pattern == "unstructured"
    )


def _name(sweep: Sweep, source: AnySource) -> str:
    """A name for unfinished work, made of everything that decides the points but their values."""
    settings = sweep.recipe.to_dict()
    del settings["prune"]["sparsity"], settings["pack"]["values"]
    deciding = [__version__, settings, sorted(sweep.sparsities), source.hashes]
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    digest.update(source.task.digest(source.calibration) + source.task.digest(source.evaluation))
    return f"sweep-{digest.hexdigest()[:24]}"


def _point(
    recipe: Recipe, name: str, folder: Path, shared: _Shared, watch: Watch
) -> dict[str, Any]:
    """The report of one point: from the cache if it is finished, else made there.

    Where the cache takes no more, the point is made in `folder`, the sweep's own.
    """
    home = shared.cache / name
    if (home / MANIFEST_NAME).is_file():
        try:
            verify_manifest(home)
            watch.note("finished before the interruption")
            return files.read_json(home / "report.json")
        except BadInputError as error:
            watch.note(f"made again: {error}")
        shutil.rmtree(home)
    try:
        return _make_point(recipe, home, shared, watch)
    except WriteError as error:
        if not error.path.is_relative_to(shared.cache):
            raise
        watch.note(f"{error} {name} does without; after an interruption it is made again.")
        return _make_point(recipe, folder / name, shared, watch)


def _make_point(recipe: Recipe, home: Path, shared: _Shared, watch: Watch) -> dict[str, Any]:
    with folders.replaced(home, lambda: None) as partial:
        with watch.stage("prune"):
            pruned = _pruned(recipe, shared, watch)
            if recipe.save_checkpoint is not None:
                save_checkpoint(shared.source, pruned, recipe.save_checkpoint)
        run = Run(recipe, shared.source, shared.dense, shared.checked)
        return make_bundle(run, pruned, partial, watch)


def _pruned(recipe: Recipe, shared: _Shared, watch: Watch) -> Pruned:
    """The weights of this sparsity, by whichever point needs them first; only the last stay in
    memory."""
    sparsity = recipe.prune.sparsity
    if sparsity not in shared.pruned:
        weights = _stored(sparsity, shared)
        if weights is None:
            weights = _prune(recipe, shared, watch)
            _store(sparsity, weights, shared, watch)
        shared.pruned = {sparsity: weights}
    return shared.pruned[sparsity]


def _prune(recipe: Recipe, shared: _Shared, watch: Watch) -> Pruned:
    """The weights of a sparsity, made from those of the next lower one where that may be."""
    lower = max((s for s in shared.sparsities if s < recipe.prune.sparsity), default=None)
    start = None
    if lower is not None and continues(recipe):
        start = shared.pruned.get(lower) or _stored(lower, shared)
    weights = prune_weights(
        recipe,
        shared.source,
        watch.progress,
        note=watch.note,
        work=shared.cache if recipe.trains else None,
        start=start,
        scores=shared.scores,
    )
    return weights if start is None else replace(weights, continued_from=lower)


_TOLD = ("seconds", "steps", "tokens", "device", "end")


def _store(sparsity: float, pruned: Pruned, shared: _Shared, watch: Watch) -> None:
    """Keep finished weights in the cache, in place of the state of their recovery."""
    result = pruned.result
    state = {
        "fingerprint": shared.cache.name,
        "tensors": dict(pruned.tensors),
        "told": {name: getattr(result, name) for name in _TOLD},
        "history": [dict(entry) for entry in result.history],
        "continued_from": pruned.continued_from,
        "config": None if pruned.config is None else pruned.config.to_dict(),
    }
    try:
        resume.save(shared.cache / f"weights-{sparsity!r}.pt", state)
    except WriteError as error:
        watch.note(f"{error} The sweep goes on; an interruption may cost these weights.")
        return
    for path in shared.cache.glob("recovery-*.pt"):
        path.unlink(missing_ok=True)


def _stored(sparsity: float, shared: _Shared) -> Pruned | None:
    path = shared.cache / f"weights-{sparsity!r}.pt"
    state = resume.load(path, shared.cache.name, torch.device("cpu"))
    if state is None:
        return None
    result = PruneResult(history=tuple(state["history"]), **state["told"])
    sizes = state.get("config")
    config = None if sizes is None else ModelConfig.from_dict(sizes)
    return Pruned(state["tensors"], result, state["continued_from"], config)


def _outcome(report: Mapping[str, Any]) -> str:
    """One line of what a point gave."""
    speedup = report["latency"]["decode"]["speedup"] if report["latency"] else None
    faster = f", decode {speedup:.2f}x" if speedup else ""
    return (
        f"  quality kept {report['quality']['retention']:.1%}{faster}, "
        f"{report['size']['ratio']:.2f}x smaller: {report['verdict']['status']}"
    )


def _collect(
    summary: dict[str, Any],
    reports: Mapping[str, dict[str, Any]],
    points: Mapping[str, Recipe],
    cache: Path,
    folder: Path,
) -> None:
    """Take the points out of the cache, their reports completed by the comparison.

    The cache keeps its own until the sweep is in place.
    """
    picked = summary["pick"] and summary["pick"]["chosen"]
    out = Path(summary["recipe"]["out"])
    for name, report in reports.items():
        home = folder / name
        if (cache / name).is_dir():
            with files.blaming(home):
                home.mkdir()
            folders.clone(cache / name, home)
        manifest = verify_manifest(home)
        device_files = [file for file in manifest["files"] if file not in REPORTS]
        extra = {key: manifest[key] for key in ("model", "machine", "runtime")}
        complete = {**report, "tradeoff": tradeoff(summary, name)}
        if not picked:
            seal_bundle(points[name], complete, device_files, home, extra)
            continue
        for file in device_files:
            if name == picked:
                with files.blaming(folder / file):
                    (home / file).rename(folder / file)
            else:
                (home / file).unlink()
        if name == picked:
            seal_bundle(replace(points[name], out=out), complete, device_files, folder, extra)
        (home / MANIFEST_NAME).unlink()
        write_reports(points[name], complete, home)
        (home / "README.md").unlink()  # there is nothing to run here
    write_sweep(folder, summary)
