"""New blocks through the seams: a hybrid of Mamba-1, FalconMamba, attention and MLPs, from JSON by
way of pruning, packing and ONNX to both runtimes, without a line in any other file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tolerances
from conftest import draw_tokens, mixer_of, random_checkpoint, small_config
from extending import package_files
from graph_checks import check_graph, check_ssmrun, half_pruned
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import matrix_specs, state_tensors, tensor_shapes, weights_of
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.read import Checkpoint
from ssmpress.formats import Values
from ssmpress.prune import dead_channels
from ssmpress.prune.mask import apply_masks, prunable_names, sparsity_summary
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.narrow import removed_channels
from ssmpress.prune.one_shot import one_shot
from ssmpress.recipe.settings.prune import PROJECTIONS, Method, PruneSettings, Scope
from tolerances import assert_close
from toy_blocks import TABLES, ToyAttention, ToyMlp, register

WORDS = 61


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def hybrid() -> ModelConfig:
    mlp = ToyMlp(d_mlp=18)
    layers = (
        LayerConfig(mixer=mixer_of(small_config()), mlp=mlp),
        LayerConfig(mixer=ToyAttention(d_head=6), mlp=mlp),
        LayerConfig(mixer=mixer_of(small_config(dbc_norm_eps=0.1))),
        LayerConfig(mixer=mlp),  # as Nemotron-H has them
    )
    return ModelConfig(d_model=20, vocab_size=WORDS, layers=layers)


@pytest.fixture
def checkpoint(known: None) -> Checkpoint:
    return random_checkpoint(hybrid())


def test_it_is_in_the_files_that_the_documentation_names() -> None:
    """Facts with the module, nodes, and a line in each of two tables; no library spells it."""
    files = {"blocks/NAME.py", "graph/nodes/NAME.py", *TABLES, "checkpoint/dialects/*.py"}
    assert files == package_files("A block")


def test_its_configuration_survives_its_json() -> None:
    config = hybrid()
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.title == "Mamba-1 + toy MLP + toy attention + FalconMamba"
    assert "layers.1.mlp.fc1.weight" in " ".join(tensor_shapes(config))
    assert [s.name for s in state_tensors(config)] == [
        "conv_state.0",
        "scan_state.0",
        "key_state.1",
        "value_state.1",
        "conv_state.2",
        "scan_state.2",
    ]


def test_no_dialect_claims_to_say_it() -> None:
    assert dialects.that_can_say(hybrid()) == ()


def test_prefill_equals_steps(checkpoint: Checkpoint) -> None:
    model, tokens = Mamba.from_checkpoint(checkpoint), draw_tokens(checkpoint.config, 2, 14)
    with torch.no_grad():
        whole, end = model(tokens)
        logits, state = model(tokens[:, :6])
        rows = [logits]
        for t in range(6, 14):
            logits, state = model(tokens[:, t : t + 1], state)
            rows.append(logits)
        assert_close(torch.cat(rows, 1), whole, tolerances.REFERENCE_LOGITS, "logits")
        assert_close(model.logits(tokens), whole, tolerances.REFERENCE_LOGITS, "logits")
    assert end.by_name()["key_state.1"].shape == (2, 14, 6)
    for name, tensor in end.by_name().items():
        assert_close(state.by_name()[name], tensor, tolerances.CARRIED_STATE, name)


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("scope", Scope)
def test_every_method_prunes_all_its_projections(
    checkpoint: Checkpoint, method: Method, scope: Scope
) -> None:
    names = prunable_names(weights_of(checkpoint.config), PROJECTIONS)
    specs = matrix_specs(checkpoint.config)
    assert {specs[name].component for name in names} == {
        "in_proj",
        "x_proj",
        "dt_proj",
        "out_proj",
        "q_proj",
        "k_proj",
        "v_proj",
        "fc1",
        "fc2",
    }
    settings = PruneSettings(
        method=method,
        scope=scope,
        calibration_batches=2,
        calibration_batch=2,
        calibration_window=16,
    )
    text = draw_tokens(checkpoint.config, 1, 80)[0].numpy().astype(np.int32)
    model = Mamba.from_checkpoint(checkpoint)
    keep = one_shot(model, names, TextMaterial(text), settings, 0.6, seed=0)
    total = sum(mask.numel() for mask in keep.values())
    assert sum(int((~mask).sum()) for mask in keep.values()) == round(0.6 * total)
    apply_masks(dict(model.named_parameters()), keep)
    summary = sparsity_summary(
        weights_of(checkpoint.config), {name: keep[name].float() for name in names}
    )
    assert summary["prunable"] == pytest.approx(0.6, abs=1e-3)
    assert set(summary["matrix"][1]) == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}


def test_its_dead_channels_go(checkpoint: Checkpoint) -> None:
    tensors = checkpoint.tensors
    tensors["backbone.layers.1.mlp.fc2.weight"][:, [0, 5]] = 0
    tensors["backbone.layers.3.mixer.fc1.weight"][18 + 7] = 0  # the gate of channel 7
    config, smaller = dead_channels.remove(checkpoint.config, tensors)
    assert removed_channels(checkpoint.config, config) == (0, 2, 0, 1)
    assert smaller["backbone.layers.1.mlp.fc1.weight"].shape == (32, 20)
    tokens = draw_tokens(config, 2, 9)
    with torch.no_grad():
        wanted = Mamba.from_checkpoint(checkpoint)(tokens)[0]
        narrow = Mamba(config)
        narrow.load_state_dict(smaller, strict=False)
        assert torch.allclose(narrow(tokens)[0], wanted, atol=1e-4)


@pytest.mark.parametrize("values", list(Values))
def test_its_graph_is_its_definition(
    checkpoint: Checkpoint, values: Values, library: Path, tmp_path: Path
) -> None:
    for state in check_graph(half_pruned(checkpoint, values), library, tmp_path):
        assert state.arrays()["key_state.1"].shape == (2, 15, 6)


def test_ssmrun_runs_it(checkpoint: Checkpoint, library: Path, tmp_path: Path) -> None:
    source = half_pruned(checkpoint, Values.FP32)
    ids = draw_tokens(checkpoint.config, 1, 20)[0].numpy()
    check_ssmrun(source, ids, tmp_path / "bundle", library)
