"""What a run would do, without doing it: `--dry-run`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from ssmpress import folders
from ssmpress.bundle.runtime_library import RuntimeLibrary, describe_download, present_library
from ssmpress.callbacks import Note, silent
from ssmpress.formats import PLAN_BYTES
from ssmpress.machine import get_library_path, get_runner_path
from ssmpress.preflight import Ready, preflight
from ssmpress.prune import mask
from ssmpress.prune.device import compute_device
from ssmpress.prune.one_shot import Scores
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.sweep import Sweep
from ssmpress.results.sizes import LayerState
from ssmpress.stages.estimate import Estimate, estimate
from ssmpress.stages.network_source import NetworkSource
from ssmpress.stages.pruned import narrowed
from ssmpress.stages.source import AnySource, resolve_sparsity
from ssmpress.stages.states import compared_states, planned

WEIGHT_TOKENS_PER_SECOND = 45e9
"""Weights x tokens per second that PyTorch trains on one core (forward and backward), a guess
for the plan: 15 to 90 G were measured on server cores. Only the plan's time depends on it."""

PASSES_WITH_GRADIENT = 3
"""Work of a training step in forward passes: the forward one, and twice that backwards."""


@dataclass(frozen=True)
class PlannedMatrix:
    """One matrix as it would be stored; rows, columns: as in the checkpoint."""

    name: str
    rows: int
    columns: int
    format: str
    dense_bytes: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """The plan.

    model: in words. notes: what was decided on the way. at_most: recovery may leave channels
    without use, so that the model gets smaller than told. model_weights, prunable_weights: without
    the state that goes before. states: of each layer, dense and left. bundle_bytes: model, op
    library and tokenizer. runtime_bytes: ONNX Runtime and ssmrun; None before the download.
    devices: where the bundle will run. gates: limits by rule. downloads: what is not here yet.
    ram_bytes and seconds are rough upper estimates.
    """

    config: dict[str, Any]
    model: str
    notes: tuple[str, ...]
    weights_read: bool
    target: str
    machine: str
    devices: tuple[str, ...]
    not_run: str
    calibration: dict[str, Any]
    evaluation: dict[str, Any]
    out: str
    gates: dict[str, str]
    baseline: str | None
    downloads: tuple[str, ...]
    sparsity_prunable: float
    sparsity_model: float
    prunable_weights: int
    model_weights: int
    states: tuple[LayerState, ...]
    recovery: str
    device: str
    dense_bytes: int
    model_bytes: int
    at_most: bool
    bundle_bytes: int
    runtime_bytes: int | None
    ram_bytes: int
    disk_bytes: int
    seconds: float
    matrices: tuple[PlannedMatrix, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types."""
        return asdict(self)


def make_plan(recipe: Recipe, note: Note = silent, values_up_to: int | None = PLAN_BYTES) -> Plan:
    """Check and read all that a run would, and work out the rest.

    Args:
        note: called with one sentence about each decision, as in a run.
        values_up_to: bytes of weight files above which their values are not read.

    Raises:
        SsmpressError: as the run would before its work.
    """
    notes = _Notes(note)
    ready = preflight(recipe, [recipe], notes, values_up_to)
    return _plan(recipe, ready, _runtime(recipe, ready), notes)


def make_plans(
    sweep: Sweep, note: Note = silent, values_up_to: int | None = PLAN_BYTES
) -> dict[str, Plan]:
    """The plan of every point of a sweep, by name; what they share is checked and read once.

    Raises:
        SsmpressError: as the sweep would before its work.
    """
    points, notes = sweep.points(), _Notes(note)
    ready = preflight(sweep.recipe, points.values(), notes, values_up_to)
    runtime, scores = _runtime(sweep.recipe, ready), Scores()
    return {name: _plan(recipe, ready, runtime, notes, scores) for name, recipe in points.items()}


def _runtime(recipe: Recipe, ready: Ready) -> RuntimeLibrary | None:
    """ONNX Runtime for the bundle's machine, if it is here."""
    return present_library(ready.place.machine, recipe.deploy.onnxruntime)


class _Notes:
    """Hands notes on, and keeps them."""

    def __init__(self, note: Note) -> None:
        self.note, self.kept = note, list[str]()

    def __call__(self, text: str) -> None:
        self.kept.append(text)
        self.note(text)


def _plan(
    recipe: Recipe,
    ready: Ready,
    runtime: RuntimeLibrary | None,
    notes: _Notes,
    scores: Scores | None = None,
) -> Plan:
    source, place = ready.source, ready.place
    left = _left(recipe, ready)
    tensors, dense_shapes = left.weights, source.weights.shapes
    sparsity = resolve_sparsity(recipe, tensors)
    dense_weights = sum(map(prod, dense_shapes.values()))
    weights = sum(map(prod, tensors.shapes.values()))
    prunable = mask.prunable_names(tensors, recipe.prune.prunable)
    prunable_weights = sum(prod(tensors.shapes[name]) for name in prunable)
    device = compute_device(recipe.recover.compute)
    size = estimate(recipe, left, ready.pruned, sparsity, scores)
    library = get_library_path(place.machine).stat().st_size
    tokenizer = 0 if source.tokenizer is None else source.tokenizer.stat().st_size
    model_bytes = size.model_bytes
    disk_bytes = 4 * dense_weights + model_bytes + library
    _check_room(recipe.out, disk_bytes, notes)
    return Plan(
        config=source.describe()["config"],
        model=source.summary,
        notes=tuple(notes.kept),
        weights_read=bool(source.tensors),
        target=str(recipe.target),
        machine=place.machine,
        devices=_devices(ready),
        not_run=place.unvalidated,
        calibration=asdict(source.calibration_use) | {"steps": source.task.words.steps},
        evaluation=asdict(source.evaluation_use) | {"steps": source.task.words.steps},
        out=str(recipe.out),
        gates={name: str(limit) for name, limit in recipe.gate.limits().items()},
        baseline=None if recipe.gate.baseline is None else str(recipe.gate.baseline),
        downloads=() if runtime else (describe_download(place.machine),),
        sparsity_prunable=sparsity,
        sparsity_model=sparsity * prunable_weights / weights,
        prunable_weights=prunable_weights,
        model_weights=weights,
        states=_states(source, left),
        recovery=recovery_text(recipe, device.type),
        device=str(device),
        dense_bytes=4 * dense_weights,
        model_bytes=model_bytes,
        at_most=ready.pruned is None and not recipe.pack.keep_dead_channels,
        bundle_bytes=model_bytes + library + tokenizer,
        runtime_bytes=None if runtime is None else _runtime_bytes(runtime, place.machine),
        ram_bytes=_ram_bytes(recipe, dense_weights),
        disk_bytes=disk_bytes,
        seconds=_seconds(recipe, dense_weights),
        matrices=_matrices(size, dense_shapes),
    )


def _left(recipe: Recipe, ready: Ready) -> AnySource:
    """The model whose weights are pruned: without the state that goes before."""
    source = ready.source
    if ready.pruned is not None:
        return narrowed(source, ready.pruned)
    return source if isinstance(source, NetworkSource) else planned(recipe, source)


def _states(source: AnySource, left: AnySource) -> tuple[LayerState, ...]:
    if isinstance(source, NetworkSource) or isinstance(left, NetworkSource):
        return ()
    return compared_states(source.checkpoint.config, left.checkpoint.config)


def _runtime_bytes(runtime: RuntimeLibrary, machine: str) -> int:
    """The bytes of ONNX Runtime and ssmrun."""
    return runtime.path.stat().st_size + get_runner_path(machine).stat().st_size


def _check_room(out: Path, needed: int, note: Note) -> None:
    """Tell of a disk that has not enough room now; by the time of the run it may."""
    place = folders.nearest(out)
    free = shutil.disk_usage(place).free
    if free < needed:
        note(f"{place} has {free / 1e6:,.0f} MB free; the run needs about {needed / 1e6:,.0f} MB")


def _devices(ready: Ready) -> tuple[str, ...]:
    """The devices on which the bundle will run."""
    own = ("this machine",) if ready.place.measures_host else ()
    return (*own, *(address.text for address in ready.place.addresses))


def _matrices(size: Estimate, shapes: Mapping[str, tuple[int, ...]]) -> tuple[PlannedMatrix, ...]:
    """shapes: of the checkpoint, from which some channels may go; (rows, columns, ...)."""
    planned = []
    for name, matrix in size.model.matrices.items():
        rows, columns = shapes[name][:2]
        dense, stored = 4 * rows * columns, size.bytes_of(name)
        planned.append(PlannedMatrix(name, rows, columns, matrix.format.name, dense, stored))
    return tuple(planned)


def recovery_text(recipe: Recipe, device: str) -> str:
    """What `--recover` will do, in words."""
    settings = recipe.recover
    if recipe.pruned is not None:
        return f"none, the pruned weights come from {recipe.pruned}"
    if settings.steps is not None:
        return "none" if settings.steps == 0 else f"{settings.steps} steps on the {device}"
    ceiling = settings.ceiling(device == "cuda")
    if ceiling is None:
        return f"{settings.gpu_steps} steps on the GPU"
    quality = recipe.gate.quality()
    reached = "" if quality is None else f"{quality:.1%} of the quality is kept or "
    return f"until {reached}the quality no longer improves, at most {ceiling:.0f} s on the {device}"


def plan_lines(plan: Plan) -> list[str]:
    """What the plan names beside its sizes, one line each."""
    where = ", ".join(plan.devices)
    runs = f"runs on {where}" if where else f"runs nowhere: {plan.not_run}"
    data = (("Calibration", plan.calibration), ("Evaluation", plan.evaluation))
    limits = ", ".join(f"{name} {limit}" for name, limit in plan.gates.items()) or "none"
    against = f", against {plan.baseline}" if plan.baseline else ""
    return [
        f"Target: {plan.target} ({plan.machine}), {runs}",
        *(_data_line(purpose, use) for purpose, use in data),
        *_state_line(plan.states),
        f"Gates: {limits}{against}",
        f"Out: {plan.out}",
        f"Downloads: {', '.join(plan.downloads) or 'none'}",
    ]


def _state_line(states: tuple[LayerState, ...]) -> list[str]:
    """What `--prune-state` takes."""
    dense, left = (sum(getattr(s, key) for s in states) for key in ("dense_bytes", "bytes"))
    if dense == left:
        return []
    before, after = (
        sum(getattr(s, key) or 0 for s in states) for key in ("dense_numbers", "numbers")
    )
    return [
        f"State: {before:,} to {after:,} numbers of all layers, {dense / 1e3:,.1f} to about "
        f"{left / 1e3:,.1f} KB a sequence"
    ]


def _data_line(purpose: str, use: Mapping[str, Any]) -> str:
    source = "the default text" if use["default_text"] else ", ".join(use["files"])
    return f"{purpose}: {source}, {use['tokens']:,} {use['steps']}"


def _ram_bytes(recipe: Recipe, weights: int) -> int:
    """Model, gradients, optimiser and teacher in float32, activations, PyTorch itself."""
    copies = 7 if recipe.trains else 4
    p = recipe.prune
    tokens = p.calibration_batch * p.calibration_window
    return 4 * weights * copies + tokens * 200_000 + 600_000_000


def _seconds(recipe: Recipe, weights: int) -> float:
    p, rate = recipe.prune, WEIGHT_TOKENS_PER_SECOND * recipe.threads / max(1, weights)
    calibration = p.calibration_batches * p.calibration_batch * p.calibration_window
    evaluation = recipe.data.evaluation_tokens or 300_000
    recovery = recipe.recover.ceiling(cuda=False) or 0.0
    if recipe.pruned is not None:
        calibration, recovery = 0, 0.0
    elif recipe.recover.steps:
        recovery = recipe.recover.steps * 8 * 256 / rate * (4 / 3)
    return calibration / rate + 2 * evaluation / rate / PASSES_WITH_GRADIENT + recovery + 30
