"""Removing dead channels: which ones are dead, and that nothing else notices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ssmrun_bundle as sb
from conftest import draw_tokens, mixer_of, random_checkpoint, small_config
from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.read import Checkpoint
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.machine import get_library_path
from ssmpress.pack.matrix import unpack
from ssmpress.pack.model import PackedModel
from ssmpress.parity import reference_model
from ssmpress.prune import dead_channels
from ssmpress.prune.narrow import removed_channels
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.results.run import TextUse
from ssmpress.runtime.loading import open_session
from ssmpress.stages.packed import pack_weights, packing_note
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import Source
from ssmpress.tasks import Classification, Forecasting, Task
from ssmrun_bundle import array

MIXER = "backbone.layers.{}.mixer.{}"


def close(checkpoint: Checkpoint, layer: int, channels: list[int], *ways: str) -> None:
    """Make weights of these channels zero. ways: out_proj, gate, x_proj."""
    tensors, d = checkpoint.tensors, mixer_of(checkpoint.config).d_inner
    if "out_proj" in ways:
        tensors[MIXER.format(layer, "out_proj.weight")][:, channels] = 0
    if "x_proj" in ways:
        tensors[MIXER.format(layer, "x_proj.weight")][:, channels] = 0
    if "gate" in ways:
        tensors[MIXER.format(layer, "in_proj.weight")][[d + c for c in channels]] = 0
        bias = tensors.get(MIXER.format(layer, "in_proj.bias"))
        if bias is not None:
            bias[[d + c for c in channels]] = 0


def with_dead_channels(config: ModelConfig) -> Checkpoint:
    """Layer 0 has 3 dead channels, layer 1 has 30 of 40; others are closed on one side only."""
    checkpoint = random_checkpoint(config)
    close(checkpoint, 0, [0, 17, 39], "out_proj", "x_proj")
    close(checkpoint, 0, [5, 6], "out_proj")
    close(checkpoint, 0, [7], "x_proj")
    if config.n_layer > 1:
        close(checkpoint, 1, list(range(4, 34)), "gate", "x_proj")
        close(checkpoint, 1, [1], "gate")
    return checkpoint


def channels_of(config: ModelConfig) -> tuple[int, ...]:
    return tuple(layer.mixer.channels for layer in config.layers)


def live_channels(config: ModelConfig, tensors: dead_channels.Tensors) -> list[torch.Tensor]:
    parts = dead_channels.live_parts(config, tensors)
    return [layer["mixer"]["d_inner"] for layer in parts]


def packed(checkpoint: Checkpoint, values: Values, keep: bool = False) -> PackedModel:
    settings = PackSettings(values=values, keep_dead_channels=keep)
    recipe = Recipe(model=Path(), out=Path(), pack=settings)
    none, use = np.zeros(0, np.int32), TextUse((), False, 0)
    source = Source(checkpoint, None, none, none.reshape(0, 0), use, use)
    pruned = Pruned(checkpoint.tensors, PruneResult((), 0.0, 0, 0, "test"))
    return pack_weights(recipe, source, pruned)


CONFIGS = {
    "tied": small_config(),
    "biases everywhere": small_config(proj_bias=True, tie_embeddings=False),
    "no conv bias": small_config(conv_bias=False),
    "FalconMamba": small_config(dbc_norm_eps=0.25),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_dead_channels_are_found_and_removing_them_changes_nothing(config: ModelConfig) -> None:
    checkpoint = with_dead_channels(config)
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    live = live_channels(config, checkpoint.tensors)
    assert sorted(set(range(40)) - set(live[0].tolist())) == [0, 17, 39]
    assert live[1].tolist() == [0, 1, 2, 3, *range(34, 40)]
    smaller, tensors = dead_channels.remove(config, checkpoint.tensors)
    assert all(torch.equal(checkpoint.tensors[name], before[name]) for name in before)
    assert channels_of(smaller) == (37, 10)
    assert removed_channels(config, smaller) == (3, 30)
    assert tensors[MIXER.format(1, "A_log")].shape == (10, mixer_of(config).d_state)
    tokens = draw_tokens(config, 2, 30)
    with torch.no_grad():
        wanted, state = Mamba.from_checkpoint(checkpoint)(tokens)
        twin = replace(checkpoint, config=smaller, tensors=tensors)
        got, after = Mamba.from_checkpoint(twin)(tokens)
        assert torch.allclose(got, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))
        assert torch.equal(Mamba.from_checkpoint(twin).logits(tokens), got)
    for layer, kept in enumerate(live):
        (_, scan), (_, scan_after) = state.layers[layer], after.layers[layer]
        bound = 1e-5 * float(scan.abs().max())
        assert torch.allclose(scan_after, scan[..., kept], rtol=0, atol=bound)


def test_a_gate_with_a_bias_is_open() -> None:
    checkpoint = random_checkpoint(small_config(proj_bias=True))
    close(checkpoint, 0, [3], "gate", "x_proj")
    checkpoint.tensors[MIXER.format(0, "in_proj.bias")][40 + 3] = 0.5
    assert dead_channels.live_parts(checkpoint.config, checkpoint.tensors)[0]["mixer"] == {}


def test_a_layer_that_is_all_dead_keeps_a_channel() -> None:
    checkpoint = random_checkpoint(small_config())
    close(checkpoint, 0, list(range(40)), "out_proj", "x_proj")
    config, tensors = dead_channels.remove(checkpoint.config, checkpoint.tensors)
    assert channels_of(config) == (1, 40)
    tokens = draw_tokens(config, 1, 9)
    twin = replace(checkpoint, config=config, tensors=tensors)
    with torch.no_grad():
        wanted = Mamba.from_checkpoint(checkpoint)(tokens)[0]
        assert torch.allclose(Mamba.from_checkpoint(twin)(tokens)[0], wanted, atol=1e-5)


def test_without_dead_channels_the_configuration_stays() -> None:
    checkpoint = random_checkpoint(small_config())
    config, tensors = dead_channels.remove(checkpoint.config, checkpoint.tensors)
    assert config == checkpoint.config
    assert tensors == checkpoint.tensors


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), sparsity=st.floats(0.5, 0.99))
def test_any_mask_leaves_the_logits(seed: int, sparsity: float) -> None:
    checkpoint = random_checkpoint(small_config(n_layer=1), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in checkpoint.tensors.items():
        if name.endswith("_proj.weight"):
            tensor *= torch.rand(tensor.shape, generator=generator) > sparsity
    config, tensors = dead_channels.remove(checkpoint.config, checkpoint.tensors)
    twin = replace(checkpoint, config=config, tensors=tensors)
    tokens = draw_tokens(checkpoint.config, 1, 12, seed)
    with torch.no_grad():
        wanted = Mamba.from_checkpoint(checkpoint)(tokens)[0]
        got = Mamba.from_checkpoint(twin)(tokens)[0]
    assert torch.allclose(got, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("values", [Values.FP32, Values.INT8])
def test_the_bundle_is_narrower_and_computes_the_same(
    values: Values, library: Path, tmp_path: Path
) -> None:
    checkpoint = with_dead_channels(small_config())
    narrow, wide = (packed(checkpoint, values, keep) for keep in (False, True))
    assert narrow.removed_channels == (3, 30)
    assert wide.removed_channels == (0, 0)
    assert narrow.nbytes < wide.nbytes
    assert "removed 33 channels" in packing_note(narrow)
    assert "removed" not in packing_note(wide)
    path = export(narrow, tmp_path / "narrow.onnx")[0]
    tokens = draw_tokens(checkpoint.config, 2, 20)
    with torch.no_grad():
        wanted = reference_model(narrow)(tokens)[0].numpy()
        unchanged = reference_model(wide)(tokens)[0].numpy()
    scale = float(np.abs(wanted).max())
    for ops_library in (library, None):
        session = open_session(path, threads=1, library=ops_library)
        state = session.initial_state(2)
        shapes = {name: array.shape for name, array in state.arrays().items()}
        assert shapes == {
            "conv_state.0": (2, 3, 37),
            "scan_state.0": (2, 5, 37),
            "conv_state.1": (2, 3, 10),
            "scan_state.1": (2, 5, 10),
        }
        first, state = session.predict(tokens[:, :12].numpy(), state)
        rest, _ = session.predict(tokens[:, 12:].numpy(), state)
        got = np.concatenate([first, rest], axis=1)
        bound = 1e-5 if values is Values.FP32 else 0.05
        assert np.abs(got - wanted).max() <= bound * scale
        assert np.abs(got - unchanged).max() <= bound * scale


def test_the_runner_reads_it(tmp_path: Path) -> None:
    """ssmrun carries the narrower states: its logits are Python's."""
    demo = sb.packed_model(Values.INT8)
    tensors = {name: torch.from_numpy(a) for name, a in demo.tensors.items()}
    tensors |= {n: torch.from_numpy(unpack(m)) for n, m in demo.matrices.items()}
    checkpoint = replace(random_checkpoint(small_config()), config=demo.config, tensors=tensors)
    close(checkpoint, 2, list(range(0, 100, 3)), "out_proj", "x_proj")
    bundle = sb.make_bundle(tmp_path / "bundle", packed(checkpoint, Values.INT8))
    session = open_session(bundle / "model.onnx", threads=1, library=bundle / "libssmpress_ops.so")
    assert session.interface.config["layers"][2]["mixer"]["d_inner"] == 384 - 34
    info = sb.reply(sb.ssmrun("info", bundle, "--json"))
    assert info["config"] == session.interface.config
    ids = [5, 6, 7, 8, 300, 12]
    wanted, state = session.predict(np.array([ids]))
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1)
        got = worker.ask("logits", tokens=ids, prefill=4, states=True)
    assert np.allclose(array(got, "logits"), wanted[0], rtol=0, atol=1e-4)
    shapes = [value["shape"] for value in got["states"].values()]
    assert shapes == [list(array.shape) for array in state.arrays().values()]


CLASSIFIER = Classification(classes=("a", "b"), max_length=64, pooling="mean")
FORECASTER = Forecasting(
    lookback=16, horizon=4, patch=4, stride=4, variates=("x", "y"), mean=(0.0, 0.0), std=(1.0, 1.0)
)


@pytest.mark.parametrize("task", [CLASSIFIER, FORECASTER])
def test_tasks_start_every_layer_from_its_own_zero_state(task: Task, tmp_path: Path) -> None:
    vocab = 61 if task.reads_tokens else 0
    checkpoint = with_dead_channels(small_config(task=task, vocab_size=vocab))
    path = export(packed(checkpoint, Values.FP32), tmp_path / "m.onnx")[0]
    session = open_session(path, threads=1, library=get_library_path())
    inputs = np.random.default_rng(0).normal(size=(3, 16, 2)).astype(np.float32)
    if task.reads_tokens:
        inputs = draw_tokens(checkpoint.config, 3, 20).numpy()
    with torch.no_grad():
        wanted = Mamba.from_checkpoint(checkpoint).predict(torch.from_numpy(inputs)).numpy()
    got = session.classify(inputs) if task.reads_tokens else session.forecast(inputs)
    # The head is fp16 at least only beside int8: here everything is float32.
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    layers = session.interface.config["layers"]
    assert [layer["mixer"]["d_inner"] for layer in layers] == [37, 10]
