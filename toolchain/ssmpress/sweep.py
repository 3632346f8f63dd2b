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

from ssmpress import files, stages
from ssmpress._version import __version__
from ssmpress.bundle.manifest import MANIFEST_NAME, verify_manifest
from ssmpress.bundle.names import REPORTS
from ssmpress.bundle.out_folder import staged
from ssmpress.cache import cache_folder, check_cache
from ssmpress.errors import BadInputError
from ssmpress.gate.sweep import judge_sweep
from ssmpress.pipeline import Watch, check, make_bundle, work_folder
from ssmpress.prune import resume
from ssmpress.prune.one_shot import Scores
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe.settings import Method, Recipe, Scope, Sweep
from ssmpress.report.sweep import tradeoff, write_sweep


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
    source: stages.Source
    dense: stages.Dense
    cache: Path
    checked: stages.Checked
    scores: Scores = field(default_factory=Scores)
    pruned: dict[float, stages.Pruned] = field(default_factory=dict)


def run_sweep(sweep: Sweep, watch: Watch | None = None) -> SweepResult:
    """Run every point, compare them, keep the picked one.

    `sweep.recipe.out` appears whole at the end: a folder per point, or with a pick the picked
    bundle itself and the reports of the others.

    Raises:
        SsmpressError: with the exit code and one sentence for the user.
    """
    watch = watch or Watch()
    points = sweep.points()
    check_cache()
    checked = check(sweep.recipe, watch.note)
    for recipe in points.values():
        stages.check_save_checkpoint(recipe.save_checkpoint)
    with staged(sweep.recipe.out) as folder, work_folder(folder) as work:
        with watch.stage("read"):
            source = stages.read(next(iter(points.values())), watch.note)
        for recipe in points.values():
            stages.resolve_sparsity(recipe, source.checkpoint.config)
        cache = _cache(sweep, source)
        dense = stages.export_dense(source, work / "dense")
        shared = _Shared(sweep.sparsities, source, dense, cache, checked)
        reports = {}
        for number, (name, recipe) in enumerate(points.items(), 1):
            watch.note(f"{name}, {number} of {len(points)}")
            reports[name] = _point(recipe, cache / name, shared, watch)
            watch.note(_outcome(reports[name]))
        summary = judge_sweep(sweep, reports)
        _collect(summary, reports, points, cache, folder)
    shutil.rmtree(cache, ignore_errors=True)
    return SweepResult(summary, sweep.recipe.out, summary["exit_code"])


def continues(recipe: Recipe) -> bool:
    """Whether recovery may go on from the model of a lower sparsity.

    Only where the masks tighten step by step from any state: not where they come from the unpruned
    weights' activations, fix the zeros of every row, or may loosen again.
    """
    return (
        recipe.recover.steps != 0
        and not recipe.recover.regrow
        and recipe.pruned is None
        and recipe.prune.method in (Method.GRADIENT_MAGNITUDE, Method.MAGNITUDE)
        and recipe.prune.scope is not Scope.OWL
        and recipe.prune.pattern == "unstructured"
    )


def _cache(sweep: Sweep, source: stages.Source) -> Path:
    """Where finished points wait, named after everything that decides them but their values."""
    settings = sweep.recipe.to_dict()
    del settings["prune"]["sparsity"], settings["pack"]["values"]
    deciding = [__version__, settings, sorted(sweep.sparsities), source.checkpoint.sha256]
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    digest.update(source.task.digest(source.calibration) + source.task.digest(source.evaluation))
    folder = cache_folder() / f"sweep-{digest.hexdigest()[:24]}"
    if sweep.recipe.pruned is not None:  # that file may have changed since
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _point(recipe: Recipe, folder: Path, shared: _Shared, watch: Watch) -> dict[str, Any]:
    """The report of one point: from the cache if it is finished, else made there."""
    if (folder / MANIFEST_NAME).is_file():
        try:
            verify_manifest(folder)
            watch.note("finished before the interruption")
            return files.read_json(folder / "report.json")
        except BadInputError as error:
            watch.note(f"made again: {error}")
        shutil.rmtree(folder)
    with staged(folder) as partial:
        with watch.stage("prune"):
            pruned = _pruned(recipe, shared, watch)
            if recipe.save_checkpoint is not None:
                stages.save_checkpoint(shared.source, pruned, recipe.save_checkpoint)
        run = stages.Run(recipe, shared.source, shared.dense, shared.checked)
        return make_bundle(run, pruned, partial, watch)


def _pruned(recipe: Recipe, shared: _Shared, watch: Watch) -> stages.Pruned:
    """Of this sparsity, by whichever point needs it first; only the last one stays in memory."""
    sparsity = recipe.prune.sparsity
    if sparsity not in shared.pruned:
        found = _stored(sparsity, shared)
        if found is None:
            lower = [other for other in shared.sparsities if other < sparsity]
            start = _stored(max(lower), shared) if lower and continues(recipe) else None
            found = stages.prune(
                recipe, shared.source, watch.progress, start=start, scores=shared.scores
            )
            if start is not None:
                found = replace(found, continued_from=max(lower))
            _store(sparsity, found, shared)
        shared.pruned = {sparsity: found}
    return shared.pruned[sparsity]


def _store(sparsity: float, pruned: stages.Pruned, shared: _Shared) -> None:
    result = pruned.result
    state = {
        "fingerprint": shared.cache.name,
        "tensors": dict(pruned.tensors),
        "told": {name: getattr(result, name) for name in ("seconds", "steps", "tokens", "device")},
        "history": [dict(entry) for entry in result.history],
        "continued_from": pruned.continued_from,
    }
    resume.save(shared.cache / f"weights-{sparsity!r}.pt", state)


def _stored(sparsity: float, shared: _Shared) -> stages.Pruned | None:
    path = shared.cache / f"weights-{sparsity!r}.pt"
    state = resume.load(path, shared.cache.name, torch.device("cpu"))
    if state is None:
        return None
    result = PruneResult(history=tuple(state["history"]), **state["told"])
    return stages.Pruned(state["tensors"], result, state["continued_from"])


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
    """Move the points out of the cache, their reports completed by the comparison."""
    picked = summary["pick"] and summary["pick"]["chosen"]
    out = Path(summary["recipe"]["out"])
    for name, report in reports.items():
        home = folder / name
        shutil.move(cache / name, home)
        manifest = verify_manifest(home)
        device_files = [file for file in manifest["files"] if file not in REPORTS]
        extra = {key: manifest[key] for key in ("model", "machine", "runtime")}
        complete = {**report, "tradeoff": tradeoff(summary, name)}
        if not picked:
            stages.write(points[name], complete, device_files, home, extra)
            continue
        for file in device_files:
            if name == picked:
                shutil.move(home / file, folder / file)
            else:
                (home / file).unlink()
        if name == picked:
            stages.write(replace(points[name], out=out), complete, device_files, folder, extra)
        (home / MANIFEST_NAME).unlink()
        stages.write_reports(points[name], complete, home)
        (home / "README.md").unlink()  # there is nothing to run here
    write_sweep(folder, summary)
