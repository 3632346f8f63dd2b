"""`--prune-state`: part of the state of every layer goes before any weight, exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import small_network
import thoroughness
import tolerances
from conftest import draw_tokens, random_checkpoint, small_config
from families import FAMILIES, attention, model
from graph_checks import check_graph
from ssmpress import validate
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.read import Checkpoint
from ssmpress.errors import BadInputError, UsageError
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.pack.model import PackedModel, pack_model
from ssmpress.pipeline import Watch, compress
from ssmpress.plan import make_plan, plan_lines
from ssmpress.prune.material import CalibrationBatch
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.narrow import narrow
from ssmpress.prune.one_shot import Scores
from ssmpress.prune.states import (
    States,
    choose_states,
    fewer_states,
    has_lost_states,
    keep_highest,
    left_of,
    prunable_states,
    score_states,
)
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.recipe.sweep import Sweep
from ssmpress.runtime.loading import open_session
from ssmpress.stages.network_source import source_of_module
from ssmpress.stages.packed import pack_weights
from ssmpress.stages.pruned import given_pruned, narrowed, prune_weights
from ssmpress.stages.source import check_source, load_model
from ssmpress.sweep import run_sweep
from tiny_run import CONFIG, tiny_recipe
from tolerances import assert_close

WITH_STATES = {"Mamba-1": small_config()} | {
    name: config
    for name, config in FAMILIES.items()
    if any(part.block.state_axis for layer in config.layers for part in layer.parts())
}
SETTINGS = PruneSettings(calibration_batches=2, calibration_batch=1, calibration_window=16)


def drawn(config: ModelConfig, seed: int, part: float) -> States:
    """States by lot."""
    generator = torch.Generator().manual_seed(seed)
    scores = [
        torch.rand(state.axis.groups, state.each, generator=generator)
        for state in prunable_states(config)
    ]
    return keep_highest(config, scores, part)


def silenced(checkpoint: Checkpoint, kept: States) -> Checkpoint:
    """The whole model, in which nobody reads the states that are not kept: C is 0 there."""
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    for state in prunable_states(checkpoint.config):
        gone = torch.ones(state.count, dtype=torch.bool)
        gone[kept[state.layer][state.part][state.axis.size]] = False
        for name, (axis, begins) in state.weights.items():
            if not name.endswith("A_log"):
                rows = begins[-1] + torch.nonzero(gone)[:, 0]  # C comes last
                tensors[name].index_fill_(axis, rows, 0)
    return replace(checkpoint, tensors=tensors)


@given(
    name=st.sampled_from(list(WITH_STATES)),
    seed=st.integers(0, 2**20),
    part=st.floats(0.05, 0.99),
)
@settings(max_examples=thoroughness.examples(40))
def test_a_state_is_removed_exactly(name: str, seed: int, part: float) -> None:
    """The smaller model computes what the whole one does where nobody reads what went; its own
    states are those of the whole one that stayed, and as many as were asked for."""
    config = WITH_STATES[name]
    checkpoint, kept = random_checkpoint(config, seed), drawn(config, seed, part)
    smaller, tensors = narrow(config, checkpoint.tensors, kept)
    assert smaller == fewer_states(config, part)
    assert has_lost_states(config, smaller)
    assert smaller == config or not has_lost_states(smaller, config)
    for before, after in zip(prunable_states(config), prunable_states(smaller), strict=True):
        assert after.each == max(1, before.each - round(part * before.each))
    tokens = draw_tokens(config, 2, 13)
    with torch.no_grad():
        expected, whole = Mamba.from_checkpoint(silenced(checkpoint, kept))(tokens)
        twin = replace(checkpoint, config=smaller, tensors=tensors)
        got, after_tokens = Mamba.from_checkpoint(twin)(tokens)
    assert_close(got, expected, tolerances.REFERENCE_LOGITS, "logits")
    for state in prunable_states(config):
        rows = kept[state.layer][state.part][state.axis.size]
        one = f"scan_state.{state.layer}"
        left, full = after_tokens.by_name()[one], whole.by_name()[one]
        if left.dim() == 3:  # Mamba-1: (b, n, d)
            assert_close(left, full[:, rows], tolerances.CARRIED_STATE, one)
            continue
        by_group = full.unflatten(1, (state.axis.groups, -1)).movedim(3, 2)  # (b, g, n, heads, p)
        chosen = by_group.flatten(1, 2)[:, rows].unflatten(1, (state.axis.groups, -1))
        assert_close(left, chosen.movedim(2, 3).flatten(1, 2), tolerances.CARRIED_STATE, one)


@pytest.mark.parametrize("name", ["Mamba-1", "mamba2", "granite"])
def test_the_graph_of_a_smaller_state(name: str, library: Path, tmp_path: Path) -> None:
    config = WITH_STATES[name]
    smaller, tensors = narrow(config, random_checkpoint(config).tensors, drawn(config, 1, 0.5))
    packed = pack_model(smaller, tensors, PackSettings(values=Values.FP32))
    shapes = [state.shape for state in packed.config.layers[0].mixer.states()]
    after = check_graph(packed, library, tmp_path)[0].arrays()
    assert [after[f"{kind}_state.0"].shape[1:] for kind in ("conv", "scan")] == shapes


@pytest.mark.parametrize("name", ["Mamba-1", "mamba2"])
@pytest.mark.parametrize("method", [Method.GRADIENT_MAGNITUDE, Method.MAGNITUDE])
def test_the_states_that_matter_stay(name: str, method: Method) -> None:
    """Of every group those that are written and read by weights that are not tiny."""
    config, part = WITH_STATES[name], 0.5
    checkpoint, weak = random_checkpoint(config), []
    for state in prunable_states(config):
        order = torch.randperm(state.each, generator=torch.Generator().manual_seed(state.layer))
        gone = order[: state.each - left_of(state.each, part)].expand(state.axis.groups, -1)
        rows = state.kept(gone)[state.axis.size]
        weak.append(set(rows.tolist()))
        for tensor, (axis, begins) in state.weights.items():
            for begin in begins:
                moved = checkpoint.tensors[tensor].movedim(axis, 0)
                moved[begin + rows] *= 1e-3
    prune = replace(SETTINGS, method=method, prune_state=part, scope=Scope.LAYER)
    kept = choose_states(Mamba.from_checkpoint(checkpoint), text_of(config), prune, seed=0)
    for state, gone_ones in zip(prunable_states(config), weak, strict=True):
        stays = set(kept[state.layer][state.part][state.axis.size].tolist())
        assert stays == set(range(state.count)) - gone_ones


def text_of(config: ModelConfig) -> TextMaterial:
    return TextMaterial(draw_tokens(config, 1, 200)[0].numpy().astype(np.int32))


@pytest.mark.parametrize("name", ["Mamba-1", "mamba2"])
def test_the_score_is_the_change_without_a_number(name: str) -> None:
    """To first order: of one token, by B and by C that are a little smaller and larger there."""
    config, little = WITH_STATES[name], 0.05
    whole, tokens = Mamba.from_checkpoint(random_checkpoint(config)), draw_tokens(config, 1, 1)
    target = torch.randn(config.vocab_size, generator=torch.Generator().manual_seed(0))
    batch = CalibrationBatch(tokens, lambda model: model.logits(tokens)[0, -1] @ target)
    scores = score_states(whole, [batch])

    def changed(mixer: torch.nn.Module, i: int, which: int, factor: float) -> float:
        def scale(*written_and_read: torch.Tensor) -> None:
            written_and_read[which][..., i] *= factor

        mixer.observer = scale
        with torch.no_grad():
            loss = float(batch.loss(whole))
        mixer.observer = None
        return loss

    for state, score in zip(prunable_states(config), scores, strict=True):
        mixer = whole.backbone.layers[state.layer].mixer
        expected = [
            sum(
                (
                    (changed(mixer, i, w, 1 + little) - changed(mixer, i, w, 1 - little))
                    / (2 * little)
                )
                ** 2
                for w in (0, 1)
            )
            for i in range(state.count)
        ]
        assert max(expected) > 0
        assert score.flatten().tolist() == pytest.approx(expected, rel=0.02, abs=max(expected) / 50)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    part=st.floats(0, 0.99),
    seed=st.integers(0, 2**20),
)
def test_one_threshold_takes_the_lowest_of_all_layers(
    sizes: list[int], part: float, seed: int
) -> None:
    """Exactly the part that was asked for, and no layer loses all."""
    config = replace(small_config(), layers=tuple(small_config(d_state=n).layers[0] for n in sizes))
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(1, n, generator=generator) for n in sizes]
    kept = keep_highest(config, scores, part, Scope.GLOBAL)
    numbers = [layer["mixer"]["d_state"] for layer in kept]
    total = sum(sizes)
    assert sum(map(len, numbers)) == max(len(sizes), total - round(part * total))
    stays = [score[0, n] for score, n in zip(scores, numbers, strict=True)]
    gone = torch.cat(
        [
            s[0][~torch.isin(torch.arange(len(s[0])), n)]
            for s, n in zip(scores, numbers, strict=True)
        ]
    )
    for score in stays:
        least = score.min() if len(score) > 1 else 2.0
        assert not len(gone) or gone.max() <= least


def test_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan, recovery, bundle and report tell the same; the saved checkpoint is packed again."""
    monkeypatch.setattr(validate, "measure_latency", lambda *_: {})
    prune = replace(SETTINGS, prune_state=0.4, sparsity=0.5, scope=Scope.LAYER)
    recipe = tiny_recipe(tmp_path, prune=prune, save_checkpoint=tmp_path / "saved")
    plan = make_plan(recipe)
    result = compress(recipe)
    session = open_session(result.out / "model.onnx", threads=1, library=None)
    assert session.interface.config["layers"][0]["mixer"]["d_state"] == 3
    report = result.report
    assert report["sparsity"]["prunable"] == pytest.approx(0.5, abs=1e-3)
    block = report["state"]
    sizes = [(layer["dense_numbers"], layer["numbers"]) for layer in block["by_layer"]]
    assert sizes == [(5, 3)]
    assert block["dense_bytes"] - block["bytes"] == 4 * 2 * 40
    assert [(s.dense_numbers, s.numbers) for s in plan.states] == sizes
    assert any("State: 5 to 3 numbers" in line for line in plan_lines(plan))
    assert report["sparsity"]["prunable_weights"] == plan.prunable_weights
    assert report["sparsity"]["model_weights"] == plan.model_weights
    text = (result.out / "report.md").read_text()
    assert "2 of 5 states of the layers are gone" in text
    assert "--prune-state 0.4" in text

    again = replace(
        recipe,
        prune=replace(prune, prune_state=0.0),
        pruned=tmp_path / "saved" / "mamba-ssm",
        save_checkpoint=None,
    )
    source = load_model(again)
    pruned = given_pruned(again, source)
    assert pruned is not None and pruned.config == fewer_states(CONFIG, 0.4)
    packed = pack_weights(again, source, pruned)
    assert isinstance(packed, PackedModel)
    assert (
        export(packed, tmp_path / "again.onnx")[0].read_bytes()
        == (result.out / "model.onnx").read_bytes()
    )


def test_recovery_goes_on_with_the_states_it_had(tmp_path: Path) -> None:
    """They are in a file beside its own: nothing is scored twice, and the weights are the same."""
    recipe = tiny_recipe(tmp_path, prune=replace(SETTINGS, prune_state=0.6))
    source = load_model(recipe)
    work = tmp_path / "work"
    work.mkdir()
    notes: list[str] = []
    first = prune_weights(recipe, source, note=notes.append, work=work)
    assert notes[0] == "state: 2 of 5 numbers stay, layer by layer 2"
    steps: list[str] = []
    second = prune_weights(recipe, source, lambda what, *_: steps.append(what), work=work)
    assert "states" not in steps
    assert first.config == second.config == fewer_states(CONFIG, 0.6)
    for name, tensor in first.tensors.items():
        assert torch.equal(second.tensors[name], tensor), name
    assert narrowed(source, first).weights.shapes == {n: t.shape for n, t in first.tensors.items()}

    path = next(work.glob(".states-*.pt"))
    path.write_bytes(b"damaged")
    with pytest.raises(BadInputError, match="Delete it to start again"):
        prune_weights(recipe, source, work=work)


def test_a_sweep_has_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen once: by the first point, from whose weights the second goes on."""
    monkeypatch.setattr(validate, "measure_latency", lambda *_: {})
    recipe = tiny_recipe(tmp_path, prune=replace(SETTINGS, prune_state=0.5))
    seen: list[str] = []
    watch = Watch(progress=lambda what, *_: seen.append(what))
    swept = run_sweep(Sweep(recipe, (0.3, 0.6), (Values.INT8,)), watch)
    assert seen.count("states") == SETTINGS.calibration_batches
    for name in ("s30-int8", "s60-int8"):
        session = open_session(swept.out / name / "model.onnx", threads=1, library=None)
        assert session.initial_state(1).arrays()["scan_state.0"].shape == (1, 3, 40)


def test_points_without_recovery_share_the_choice(tmp_path: Path) -> None:
    prune = replace(SETTINGS, prune_state=0.5)
    recipe = tiny_recipe(tmp_path, prune=prune, recover=RecoverSettings(steps=0))
    source, scores, seen = load_model(recipe), Scores(), list[str]()
    for sparsity in (0.3, 0.6):
        point = replace(recipe, prune=replace(prune, sparsity=sparsity))
        pruned = prune_weights(point, source, lambda what, *_: seen.append(what), scores=scores)
        assert pruned.config == fewer_states(CONFIG, 0.5)
        specs = narrowed(source, pruned).weights.matrices
        names = [name for name in specs if "_proj" in name]
        zeros = sum(int((pruned.tensors[name] == 0).sum()) for name in names)
        assert zeros == round(sparsity * sum(pruned.tensors[name].numel() for name in names))
    assert seen.count("states") == SETTINGS.calibration_batches


def refused_by(config: ModelConfig) -> Callable[[Path], Any]:
    return lambda folder: fewer_states(config, 0.5)


def saved(folder: Path) -> Recipe:
    return tiny_recipe(
        folder, prune=replace(SETTINGS, prune_state=0.5), save_checkpoint=folder / "saved"
    )


def beside_pruned(folder: Path) -> Recipe:
    return tiny_recipe(folder, prune=replace(SETTINGS, prune_state=0.5), pruned=folder / "p")


def of_a_network(folder: Path) -> None:
    source = source_of_module(small_network.network(), small_network.TwoWays(), folder)
    check_source(tiny_recipe(folder, prune=replace(SETTINGS, prune_state=0.5)), source, print)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (
            refused_by(model(LayerConfig(mixer=attention()))),
            "Mamba-1's or Mamba-2's; got attention",
        ),
        (refused_by(small_config(dbc_norm_eps=0.1)), "got FalconMamba"),
        (beside_pruned, "--prune-state: expected nothing beside --pruned"),
        (saved, "--save-checkpoint: expected --scope layer beside --prune-state"),
        (of_a_network, "--prune-state: expected nothing for a network of one's own"),
        (lambda _: PruneSettings(prune_state=1.0), "--prune-state: expected 0 to 0.99; got 1.0"),
    ],
    ids=["no Mamba", "FalconMamba", "--pruned", "--save-checkpoint", "--net", "range"],
)
def test_what_cannot_be_is_refused(
    ask: Callable[[Path], Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        ask(tmp_path)
    assert sentence in str(refused.value)


def test_another_state_is_not_taken_for_fewer_states() -> None:
    """`--pruned` may have lost states, and nothing else."""
    config = small_config()
    assert not has_lost_states(config, small_config(d_state=6))
    assert not has_lost_states(config, small_config(d_state=3, d_conv=3))
    assert not has_lost_states(config, small_config(d_state=3, n_layer=1))
    assert not has_lost_states(config, FAMILIES["mamba2"])
    assert has_lost_states(config, small_config(d_state=3))
