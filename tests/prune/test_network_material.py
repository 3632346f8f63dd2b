"""A network of one's own is pruned and recovered: zeros, ties, its loss and metric, resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import small_network as small
from paths import TESTS
from ssmpress.blocks.tensors import MatrixSpec, Role
from ssmpress.errors import BadInputError, UsageError
from ssmpress.nets.module import NetworkModule
from ssmpress.prune import mask
from ssmpress.prune.held_out import quality_kept
from ssmpress.prune.one_shot import check_combination
from ssmpress.prune.order import BatchOrder
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.recover import PruneResult, prune_and_recover
from ssmpress.prune.training import Training
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope, SparsityOf
from ssmpress.recipe.settings.recover import Compute, RecoverSettings

PRUNE = PruneSettings(sparsity=0.7, calibration_batches=4)
RECOVER = RecoverSettings(steps=16, batch=16, mask_every=2, compute=Compute.CPU)


def run(
    prune: PruneSettings = PRUNE,
    recover: RecoverSettings = RECOVER,
    net: Any = None,
    **options: Any,
) -> tuple[NetworkModule, PruneResult]:
    model = small.dense()
    return model, prune_and_recover(model, small.material(net), prune, recover, **options)


def same(one: NetworkModule, other: NetworkModule) -> bool:
    return all(torch.equal(t, other.tensors()[name]) for name, t in one.tensors().items())


def exact_zeros(model: NetworkModule, prune: PruneSettings = PRUNE) -> None:
    """As many zeros as asked for where it may be pruned, and the tied weight one tensor."""
    names = mask.prunable_names(model, prune.prunable)
    weights = [model.tensors()[name] for name in names]
    total = sum(w.numel() for w in weights)
    assert sum(int((w == 0).sum()) for w in weights) == round(prune.sparsity * total)
    assert model.module.second.weight is model.module.first.weight
    others = {n: t for n, t in small.dense().tensors().items() if n not in names}
    assert all(bool((t != 0).eq(model.tensors()[n] != 0).all()) for n, t in others.items())


def loss_of(model: NetworkModule) -> float:
    """The mean loss over the evaluation, in eval mode."""
    with torch.no_grad():
        losses = [F.cross_entropy(model.module(x), kind) for x, kind in small.batches(2, 40)]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize(
    ("prune", "recover"),
    [
        ({}, {}),
        ({}, {"steps": 0}),
        ({}, {"regrow": True}),
        ({}, {"distill": 0.0, "accumulate": 2}),
        ({}, {"distill": 1.0, "ramp": 0.0}),
        ({"method": Method.MAGNITUDE, "scope": Scope.LAYER}, {"steps": 4}),
        ({"prunable": ("*.in_proj.weight", "embed", "first")}, {"steps": 4}),
    ],
)
def test_pruned_weights_are_exactly_zero_and_tied_ones_stay_tied(
    prune: dict[str, Any], recover: dict[str, Any]
) -> None:
    chosen = replace(PRUNE, **prune)
    model, result = run(chosen, replace(RECOVER, **recover))
    exact_zeros(model, chosen)
    assert result.tokens == result.steps * 16
    assert not model.module.training


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon needs PyTorch 2.9")
def test_muon_leaves_convolutions_to_adam() -> None:
    exact_zeros(run(recover=replace(RECOVER, muon=True))[0])


def test_recovery_lowers_the_loss_of_a_network_with_a_scan_backwards() -> None:
    prune = replace(PRUNE, sparsity=0.85)
    at_once, _ = run(prune, replace(RECOVER, steps=0))
    model, result = run(prune, replace(RECOVER, steps=30, learning_rate=5e-3))
    exact_zeros(model, prune)
    assert loss_of(model) < 0.5 * loss_of(at_once)
    assert result.history[-1].keys() == {"step", "sparsity", "loss", "teacher", "target"}


def test_the_masks_of_a_run_only_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    plain = Training.update_masks

    def remember(self: Training, step: int) -> None:
        plain(self, step)
        seen.append(self.keep)

    monkeypatch.setattr(Training, "update_masks", remember)
    run()
    assert len(seen) > 3
    for before, after in pairwise(seen):
        assert not any(bool((after[name] & ~before[name]).any()) for name in before)


CONVOLUTIONS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2)), min_size=1, max_size=3
)


@given(CONVOLUTIONS, st.floats(0, 1), st.sampled_from(Scope), st.integers(0, 5))
@settings(max_examples=50)
def test_weights_of_convolutions_are_counted_as_those_of_matrices(
    shapes: list[tuple[int, int, int]], sparsity: float, scope: Scope, seed: int
) -> None:
    """(rows, columns), (rows, columns, 1) and (rows, columns, 1, 1), with ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = {
        f"m{i}": torch.randint(4, (r, c, *[1] * ones), generator=generator).float()
        for i, (r, c, ones) in enumerate(shapes)
    }
    keep = mask.keep_masks(scores, sparsity, scope)
    flat = mask.keep_masks({n: s.flatten(1) for n, s in scores.items()}, sparsity, scope)
    total = sum(s.numel() for s in scores.values())
    assert sum(int((~k).sum()) for k in keep.values()) == round(sparsity * total)
    assert all(keep[name].shape == scores[name].shape for name in scores)
    assert all(torch.equal(keep[name].flatten(1), flat[name]) for name in scores)


@pytest.mark.parametrize("words", ["block 2x1", "1:2"])
def test_patterns_hold_in_convolutions(words: str) -> None:
    pattern = Pattern.parse(words)
    scores = {"c": torch.rand(4, 6, 1, generator=torch.Generator().manual_seed(0))}
    keep = mask.keep_masks(scores, 0.5, pattern=pattern)
    assert keep["c"].shape == (4, 6, 1)
    assert torch.equal(
        keep["c"][..., 0], mask.keep_masks({"c": scores["c"][..., 0]}, 0.5, pattern=pattern)["c"]
    )


# ---- which weights ----


def test_names_components_and_patterns_say_what_is_pruned() -> None:
    model = small.dense()
    every = mask.prunable_names(model, ("projections",))
    assert every == tuple(model.matrices)
    assert "second.weight" not in every  # it is first.weight
    backwards = mask.prunable_names(model, ("layers.*.back.*",))
    assert len(backwards) == 8
    assert all(".back." in name for name in backwards)
    assert len(mask.prunable_names(model, ("in_proj",))) == 4
    assert len(mask.prunable_names(model, ("*_proj",))) == 16
    assert mask.prunable_names(model, ("head", "embed.weight")) == ("embed.weight", "head.weight")
    assert len(mask.prunable_names(model, ("in_proj", "layers.0.ahead.in_proj.weight"))) == 4


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("in_porj", "got 'in_porj'. Did you mean in_proj?"),
        ("layers.0.ahed.in_proj.weight", "Did you mean layers.0.ahead.in_proj.weight?"),
        ("lm_head", "expected names from embed, in_proj, x_proj, dt_proj, out_proj, first, head"),
        ("A_log", "A_log cannot be pruned: it is no matrix that an input is multiplied with."),
        ("norm.weight", "norm.weight cannot be pruned: it is no matrix"),
        ("", "got ''"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest_name(word: str, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        mask.prunable_names(small.dense(), (word,))
    assert sentence in str(error.value)


def test_the_summary_counts_every_matrix_of_a_layer() -> None:
    """Both directions have an in_proj."""
    model = small.dense()
    names = mask.prunable_names(model, ("projections",))
    keep = {n: torch.ones_like(model.tensors()[n], dtype=torch.bool) for n in names}
    keep["layers.1.back.in_proj.weight"][:] = False
    summary = mask.sparsity_summary(model, keep)
    assert summary["matrix"][1]["in_proj"] == 0.5
    assert summary["by_component"]["in_proj"] == 0.25
    assert summary["by_layer"][0] == 0.0 < summary["by_layer"][1] < 0.5
    found = mask.resolve_sparsity(model, ("projections",), 0.3, SparsityOf.MODEL)
    weights = sum(model.tensors()[name].numel() for name in names)
    every = sum(t.numel() for t in model.tensors().values())
    assert found == pytest.approx(0.3 * every / weights)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": Method.WANDA}, "--method wanda looks at the inputs of every matrix"),
        ({"method": Method.SPARSEGPT}, "--method sparsegpt looks at the inputs"),
        ({"scope": Scope.OWL}, "--scope owl looks at the inputs of every matrix"),
    ],
)
@pytest.mark.parametrize("steps", [0, 4])
def test_methods_that_look_at_inputs_are_refused(
    changes: dict[str, Any], sentence: str, steps: int
) -> None:
    with pytest.raises(UsageError) as error:
        run(replace(PRUNE, **changes), replace(RECOVER, steps=steps))
    assert sentence in str(error.value)
    assert "known of Mamba checkpoints only; got embed.weight of a network." in str(error.value)


def test_a_pattern_is_refused_where_a_weight_is_stored_by_columns() -> None:
    spec = MatrixSpec(Role.PROJECTION, "w", transposed=True)
    prune = replace(PRUNE, sparsity=0.5, pattern="block 2x1")
    with pytest.raises(UsageError, match=r"stored row by row; got w, which the network multiplies"):
        check_combination({"w": spec}, ("w",), prune, 0.5)
    check_combination({"w": replace(spec, transposed=False)}, ("w",), prune, 0.5)


@pytest.mark.parametrize("name", ["activation_checkpointing", "match_hidden"])
def test_settings_that_need_layers_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: expected none for a network of your own"):
        run(recover=replace(RECOVER, **{name: True}))


@pytest.mark.parametrize("steps", [0, 4])
def test_a_weight_that_the_loss_does_not_depend_on_is_named(steps: int) -> None:
    """Nothing would say which of its weights matter: all of them would go first."""
    model = small.dense()
    unused = torch.nn.Linear(4, 4)
    model.module.unused = unused
    model = NetworkModule(model.module, small.specs_of(model.module))
    recover = replace(RECOVER, steps=steps, distill=0.0)
    with pytest.raises(UsageError, match=r"got unused.weight, on which it does not"):
        prune_and_recover(model, small.material(), PRUNE, recover)


# ---- what it learns from ----


def test_every_batch_once_per_epoch_and_as_many_samples_as_asked_for() -> None:
    order = BatchOrder(7, 2, seed=3)
    seen = np.concatenate([order.numbers(step) for step in range(7)])
    assert sorted(seen) == sorted([*range(7)] * 2)
    assert sorted(seen[:7]) == list(range(7))
    material = small.material()
    assert material.shape(replace(RECOVER, batch=None), cuda=False) == (1, 8)
    assert material.shape(replace(RECOVER, batch=None), cuda=True) == (8, 8)
    assert material.shape(replace(RECOVER, batch=20), cuda=False) == (2, 8)
    assert material.shape(replace(RECOVER, batch=10_000), cuda=False) == (40, 8)


def test_the_users_own_distillation_and_its_metric() -> None:
    """D is what the user says it is; the run ends by the user's metric."""
    kept, calls = list[str](), list[torch.Tensor]()

    def distill(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        assert not teacher.requires_grad
        calls.append(teacher)
        return 3 * F.l1_loss(student, teacher)

    net = small.network(distill=distill)
    recover = replace(RECOVER, steps=None, batch=8, seconds=36_000, ramp=0.0)
    model, result = run(recover=recover, net=net, quality=0.3, note=kept.append)
    assert "it ends when on held-out calibration data 30.0% of the quality is kept" in kept[0]
    assert result.end["ended"] == "quality"
    exact_zeros(model)
    assert len(calls) > result.steps


def test_a_lower_metric_may_be_better_and_a_negative_one_ends_nothing() -> None:
    metric = replace(small.METRIC, higher_is_better=False)
    dense, pruned = np.full(4, 2.0), np.full(4, 4.0)
    assert quality_kept(dense, pruned, metric, 4) == (0.5, 0.5)
    for negative in (metric, small.METRIC):
        assert quality_kept(-dense, -pruned, negative, 4) == (0.0, 0.0)


def test_what_is_held_out_is_neither_trained_on_nor_lost() -> None:
    material = small.material()
    divided = material.hold_out(1, 8, seed=0)
    assert divided is not None
    training, exam = divided
    assert training.data.count + exam.data.count == 40
    assert exam.data.part_in(training.data) == 0.0  # type: ignore[attr-defined]
    assert (exam.data.count, exam.independent, len(exam.numbers)) == (5, 5, 5)
    again = material.hold_out(1, 8, seed=0)
    assert again is not None and again[1].data.digest() == exam.data.digest()
    few = small.material(small.network(samples=lambda split: small.batches(1, 31)))
    assert few.hold_out(1, 8, seed=0) is None
    with torch.no_grad():
        scores = exam.scores(small.dense(), np.arange(3))
        inputs, target = exam.data.batch(2)
        right = small.dense().module(**inputs).argmax(-1) == target
    assert float(scores[2]) == float(right.float().mean())


def test_a_loss_that_changes_its_kind_ends_the_run_with_a_sentence() -> None:
    calls: list[int] = []

    def loss(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return outputs if calls[-1] == 3 else F.cross_entropy(outputs, target)

    with pytest.raises(BadInputError, match=r"Network: loss: expected a tensor with one"):
        run(net=small.network(loss=loss))


# ---- going on ----

KILLED = """
import os, signal, sys
from itertools import pairwise
from pathlib import Path
import test_network_material as t

def die(what, done, total):
    if done >= 10:
        os.kill(os.getpid(), signal.SIGKILL)

t.torch.set_num_threads(int(sys.argv[2]))
t.run(recover=t.SAVED, seed=5, resume_file=Path(sys.argv[1]), progress=die)
"""
SAVED = replace(RECOVER, steps=20, checkpoint_seconds=0.0)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Its dropout too; and the means of its BatchNorm are those of the dense network."""
    paths = [str(TESTS), str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    state, threads = tmp_path / "state", str(torch.get_num_threads())
    command = [sys.executable, "-c", KILLED, str(state), threads]
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert 0 < torch.load(state, weights_only=True)["step"] < 20
    part, _ = run(recover=SAVED, seed=5, resume_file=state)
    whole, _ = run(recover=SAVED, seed=5)
    assert same(part, whole)
    assert not same(whole, run(recover=SAVED, seed=6)[0])
    dense, found = small.dense().tensors(), whole.tensors()
    assert torch.equal(found["norm.running_mean"], dense["norm.running_mean"])
    assert not torch.equal(found["norm.weight"], dense["norm.weight"])


def test_other_batches_are_another_run(tmp_path: Path) -> None:
    run(resume_file=tmp_path / "state")
    other = small.network(samples=lambda split: small.batches(7, 40))
    with pytest.raises(BadInputError, match="another model, text, device or settings"):
        run(net=other, resume_file=tmp_path / "state")
