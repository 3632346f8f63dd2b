"""What a run would do, without doing it: `--dry-run`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.tensors import matrix_specs, tensor_shapes
from ssmpress.checkpoint.read import read_config
from ssmpress.pack.choose import matrix_format
from ssmpress.pack.layouts import LAYOUTS
from ssmpress.prune import mask
from ssmpress.prune.recover import compute_device
from ssmpress.recipe.recipe import Recipe
from ssmpress.stages.pruned import check_save_checkpoint
from ssmpress.stages.source import check_pruned, resolve_sparsity

WEIGHT_TOKENS_PER_SECOND = 45e9
"""Weights x tokens per second that PyTorch trains on one core (forward and backward), a guess
for the plan: 15 to 90 G were measured on server cores. Only the plan's time depends on it."""

PASSES_WITH_GRADIENT = 3
"""Work of a training step in forward passes: the forward one, and twice that backwards."""


@dataclass(frozen=True)
class PlannedMatrix:
    """One matrix as it would be stored, at the same sparsity everywhere."""

    name: str
    rows: int
    columns: int
    format: str
    dense_bytes: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """The plan. model: in words. Bytes are for even sparsity; ram_bytes and seconds are rough upper
    estimates."""

    config: dict[str, Any]
    model: str
    notes: tuple[str, ...]
    sparsity_prunable: float
    sparsity_model: float
    prunable_weights: int
    model_weights: int
    recovery: str
    device: str
    dense_bytes: int
    model_bytes: int
    ram_bytes: int
    disk_bytes: int
    seconds: float
    matrices: tuple[PlannedMatrix, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def make_plan(recipe: Recipe) -> Plan:
    """Read the checkpoint's shapes and work out the rest.

    Raises:
        BadInputError, UsageError: as a run would, but what only the tensors could show.
    """
    config, notes = read_config(recipe.model)
    if recipe.pruned is not None:
        check_pruned(recipe.pruned, read_config(recipe.pruned)[0], config)
    check_save_checkpoint(recipe.save_checkpoint)
    shapes, specs = tensor_shapes(config), matrix_specs(config)
    sparsity = resolve_sparsity(recipe, config)
    prunable = mask.prunable_names(config, recipe.prune.prunable)
    weights = sum(map(prod, shapes.values()))
    prunable_weights = sum(prod(shapes[name]) for name in prunable)
    matrices = tuple(
        _planned(recipe, config, name, shapes[name], sparsity if name in prunable else 0.0)
        for name in shapes
        if name in specs
    )
    unpacked = 4 * sum(prod(shape) for name, shape in shapes.items() if name not in specs)
    device = compute_device(recipe.recover.compute)
    model_bytes = unpacked + sum(m.bytes for m in matrices)
    return Plan(
        config=config.to_dict(),
        model=config.summary(),
        notes=notes,
        sparsity_prunable=sparsity,
        sparsity_model=sparsity * prunable_weights / weights,
        prunable_weights=prunable_weights,
        model_weights=weights,
        recovery=recovery_text(recipe, device.type),
        device=str(device),
        dense_bytes=4 * weights,
        model_bytes=model_bytes,
        ram_bytes=_ram_bytes(recipe, weights),
        disk_bytes=4 * weights + model_bytes,
        seconds=_seconds(recipe, weights),
        matrices=matrices,
    )


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


def _planned(
    recipe: Recipe, config: ModelConfig, name: str, shape: tuple[int, ...], sparsity: float
) -> PlannedMatrix:
    rows, columns = shape
    stored = round((1 - sparsity) * rows * columns)
    chosen, _ = matrix_format(
        config, name, (rows, columns), stored, recipe.pack, recipe.target.machine
    )
    size = LAYOUTS[chosen].predicted_bytes(rows, columns, stored)
    return PlannedMatrix(name, rows, columns, chosen.name, 4 * rows * columns, size)


def _ram_bytes(recipe: Recipe, weights: int) -> int:
    """Model, gradients, optimiser and teacher in float32, activations, PyTorch itself."""
    recovering = recipe.recover.steps != 0 and recipe.pruned is None
    copies = 7 if recovering else 4
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
