"""What a model learns from is one file: a material unknown to the package works as it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import mamba1_config, random_checkpoint
from extending import package_files
from paths import ROOT
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import weights_of
from ssmpress.data.held_out import MIN_SAMPLES, PART
from ssmpress.errors import BadInputError
from ssmpress.prune.mask import prunable_names
from ssmpress.prune.material import CalibrationBatch, Course, Lesson, Losses
from ssmpress.prune.recover import prune_and_recover
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope
from ssmpress.recipe.settings.recover import Compute, RecoverSettings
from ssmpress.tasks import Forecasting
from ssmpress.tasks.task import Metric

TASK = Forecasting(
    lookback=16, horizon=4, variates=("a",), mean=(0.0,), std=(1.0,), patch=4, stride=4
)
CONFIG = mamba1_config(2, d_model=16, d_state=4, d_inner=32, dt_rank=2, vocab_size=0, task=TASK)
PRUNE = PruneSettings(calibration_batches=2, calibration_batch=4)
RECOVER = RecoverSettings(steps=12, batch=8, mask_every=3, compute=Compute.CPU)


@dataclass(frozen=True)
class Pairs:
    """Samples of (inputs, target) of a network of one's own, with a loss and a metric of one's own:
    float32 (n, 16, 1) and (n, 4, 1)."""

    inputs: Tensor
    targets: Tensor

    def part(self, numbers: Any) -> Pairs:
        chosen = torch.as_tensor(numbers)
        return Pairs(self.inputs[chosen], self.targets[chosen])

    def loss(self, model: Mamba) -> Tensor:
        return F.smooth_l1_loss(model.predict(self.inputs), self.targets)

    # ---- Material ----

    def shape(self, settings: RecoverSettings, cuda: bool) -> tuple[int, int]:
        return settings.batch or 32, 16

    def pieces(self) -> Iterator[bytes]:
        yield self.inputs.numpy().tobytes() + self.targets.numpy().tobytes()

    def calibration(
        self, prune: PruneSettings, seed: int, device: torch.device
    ) -> list[CalibrationBatch]:
        size = prune.calibration_batch
        parts = [self.part(range(i, i + size)) for i in range(prune.calibration_batches)]
        return [CalibrationBatch(part.inputs, part.loss) for part in parts]

    def hold_out(self, batch: int, window: int, seed: int) -> tuple[Pairs, Errors] | None:
        count = len(self.inputs) // PART
        if count < MIN_SAMPLES:
            return None
        return self.part(range(count, len(self.inputs))), Errors(self.part(range(count)))

    def lessons(self, course: Course) -> Drawn:
        return Drawn(self, course)


@dataclass(frozen=True)
class Drawn:
    """Pairs by lot."""

    pairs: Pairs
    course: Course

    def numbers(self, step: int) -> Any:
        random = np.random.default_rng([self.course.seed, step])
        return random.integers(len(self.pairs.inputs), size=self.course.batch)

    def lesson(self, numbers: Any, place: tuple[int, int]) -> Lesson:
        part = self.pairs.part(numbers)
        with torch.no_grad():
            taught = self.course.teacher.model.predict(part.inputs)
        return partial(self.losses, part, taught)

    def losses(self, part: Pairs, taught: Tensor, model: Mamba) -> Losses:
        own, distance = part.loss(model), F.l1_loss(model.predict(part.inputs), taught)
        return {"loss": own + distance, "own": own, "distance": distance}

    def remember(self, steps: int, progress: object) -> None:
        pass


@dataclass(frozen=True)
class Errors:
    """The mean absolute error of each."""

    pairs: Pairs
    metric = Metric("MAE", "an MAE", higher_is_better=False)

    @property
    def numbers(self) -> Any:
        return np.arange(len(self.pairs.inputs))

    @property
    def independent(self) -> float:
        return len(self.pairs.inputs)

    def scores(self, model: Mamba, numbers: Any) -> Tensor:
        part = self.pairs.part(numbers)
        return (model.predict(part.inputs) - part.targets).abs().flatten(1).mean(1)


def pairs(count: int = 200) -> Pairs:
    time = torch.arange(count)[:, None] + torch.arange(20)
    waves = torch.sin(time / 3)[..., None]
    return Pairs(waves[:, :16].clone(), waves[:, 16:].clone())


def run(
    prune: PruneSettings = PRUNE, recover: RecoverSettings = RECOVER, **options: Any
) -> tuple[Mamba, Any]:
    model = Mamba.from_checkpoint(random_checkpoint(CONFIG))
    return model, prune_and_recover(model, pairs(), prune, recover, **options)


def same(one: Mamba, other: Mamba) -> bool:
    return all(torch.equal(t, other.tensors()[name]) for name, t in one.tensors().items())


@pytest.mark.parametrize(
    ("prune", "steps"),
    [
        ({}, 12),
        ({}, 0),
        ({"scope": Scope.OWL}, 4),
        ({"method": Method.WANDA}, 4),
        ({"method": Method.SPARSEGPT, "scope": Scope.LAYER}, 0),
    ],
)
def test_a_material_of_ones_own_is_pruned_by_every_method(
    prune: dict[str, Any], steps: int
) -> None:
    model, result = run(replace(PRUNE, **prune), replace(RECOVER, steps=steps))
    weights = [model.tensors()[name] for name in prunable_names(weights_of(CONFIG), PRUNE.prunable)]
    total = sum(w.numel() for w in weights)
    assert sum(int((w == 0).sum()) for w in weights) == round(0.7 * total)
    assert result.steps == steps
    if steps:
        assert result.history[-1].keys() == {"step", "sparsity", "loss", "own", "distance"}
        assert result.tokens == steps * 8 * 16


def test_its_own_metric_ends_its_recovery() -> None:
    notes: list[str] = []
    recover = replace(RECOVER, steps=None, seconds=36_000, ramp=0.0)
    _, result = run(recover=recover, quality=0.3, note=notes.append)
    assert result.end["ended"] == "quality"
    assert "the quality asked is reached on held-out calibration data" in notes[-1]


def test_its_run_goes_on_and_others_are_refused(tmp_path: Path) -> None:
    whole, result = run(resume_file=tmp_path / "state")
    again, repeated = run(resume_file=tmp_path / "state")
    assert same(whole, again) and repeated.history == result.history
    model = Mamba.from_checkpoint(random_checkpoint(CONFIG))
    with pytest.raises(BadInputError, match="another model, text, device or settings"):
        prune_and_recover(model, pairs(201), PRUNE, RECOVER, resume_file=tmp_path / "state")


def test_it_touches_what_extending_says() -> None:
    """Where `material_of` does not choose it, not even the second of the two."""
    files = {"prune/materials/NAME.py", "prune/materials/__init__.py"}
    assert package_files("What a model learns from") == files


def test_pruning_knows_no_kind_of_data() -> None:
    """Only materials/ knows what is learned from: no fork on its kind is left elsewhere."""
    folder = ROOT / "toolchain" / "ssmpress" / "prune"
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                module = str(node.module)
                assert not module.startswith("ssmpress.data"), (path.name, module)
                known = module.startswith("ssmpress.tasks") and module != "ssmpress.tasks.task"
                assert not known, (path.name, module)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                kind = ast.unparse(node.args[1])
                assert kind in {"Tensor", "Projection", "Layer"}, (path.name, ast.unparse(node))
