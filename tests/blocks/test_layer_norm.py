"""Models with LayerNorm (`rms_norm: false`): from config.json to ssmrun, as torch has it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import ssmrun_bundle as sb
import tolerances
from conftest import draw_tokens, random_checkpoint, small_config
from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD, weights_of
from ssmpress.checkpoint.dialects import config_json, that_can_say
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import BadInputError
from ssmpress.pack.model import pack_model
from ssmpress.parity import reference_model
from ssmpress.prune import mask
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.materials.text import window_batch
from ssmpress.prune.one_shot import grams, one_shot
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import PROJECTIONS, Method, PruneSettings, Scope
from ssmpress.runtime.loading import open_session
from tolerances import assert_close

EPS = 0.2
"""So large that a model with another one differs."""
CHECKPOINT = random_checkpoint(small_config(norm="layer", norm_eps=EPS))


def reference(checkpoint: Checkpoint) -> nn.Module:
    """transformers' Mamba with torch's own LayerNorm in the place of every norm."""
    config = checkpoint.config
    settings = config_json(replace(config, norm="rms"), "huggingface")
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**settings)).eval()
    for layer in model.backbone.layers:
        layer.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)
    model.backbone.norm_f = nn.LayerNorm(config.d_model, eps=config.norm_eps)
    weights = {n.replace("embedding.", "embeddings."): t for n, t in checkpoint.tensors.items()}
    model.load_state_dict(weights | {LM_HEAD: checkpoint.tensors[EMBEDDING]})
    return model


def test_logits_and_gradients_are_those_of_transformers_with_torchs_norm() -> None:
    tokens = draw_tokens(CHECKPOINT.config, 2, 23)
    ours, theirs = Mamba.from_checkpoint(CHECKPOINT), reference(CHECKPOINT)
    expected = theirs(tokens).logits
    logits = ours(tokens)[0].detach()
    assert_close(logits, expected.detach(), tolerances.REFERENCE_LOGITS, "logits")
    expected.square().mean().backward()
    ours.logits(tokens).square().mean().backward()
    wanted = theirs.backbone.layers[1].norm.bias.grad
    assert_close(ours.backbone.layers[1].norm.bias.grad, wanted, 1e-4, "gradient")


def test_prefill_is_steps() -> None:
    tokens, model = draw_tokens(CHECKPOINT.config, 2, 9), Mamba.from_checkpoint(CHECKPOINT)
    with torch.no_grad():
        whole, _ = model(tokens)
        state, steps = None, []
        for token in tokens.split(1, dim=1):
            logits, state = model(token, state)
            steps.append(logits)
    assert_close(torch.cat(steps, 1), whole, tolerances.REFERENCE_LOGITS, "logits")


def test_what_projections_read_is_behind_the_norm() -> None:
    """Wanda's and SparseGPT's statistics, against a hook in transformers' own module."""
    names = mask.prunable_names(weights_of(CHECKPOINT.config), PROJECTIONS)
    tokens, model = draw_tokens(CHECKPOINT.config, 2, 16), Mamba.from_checkpoint(CHECKPOINT)
    found = grams(model, names, [window_batch(tokens)], None)
    theirs, seen = reference(CHECKPOINT), []
    mixer = theirs.backbone.layers[1].mixer
    mixer.in_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, 1)))
    theirs(tokens)
    gram = (seen[0].T @ seen[0]).detach()
    assert_close(found["backbone.layers.1.mixer.in_proj.weight"], gram, 1e-4, "gram")
    settings = PruneSettings(
        method=Method.WANDA, scope=Scope.LAYER, calibration_batches=1, calibration_window=16
    )
    text = TextMaterial(tokens.flatten().numpy().astype(np.int32))
    keep = one_shot(model, names, text, settings, 0.5, 0)
    assert sum(int((~k).sum()) for k in keep.values()) == round(
        0.5 * sum(k.numel() for k in keep.values())
    )


def test_written_in_the_layout_that_can_say_it(tmp_path: Path) -> None:
    config = replace(CHECKPOINT.config, norm_eps=1e-5)
    assert that_can_say(config) == ("mamba-ssm",)
    write_checkpoint(config, CHECKPOINT.tensors, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["rms_norm"] is False
    again = read_checkpoint(tmp_path / "model")
    assert again.config == config and "LayerNorm" in config.summary()
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(BadInputError, match=r"norm layer: Hugging Face's layout has RMS norms"):
        write_checkpoint(config, CHECKPOINT.tensors, tmp_path / "other", "huggingface")
    with pytest.raises(BadInputError, match=r"norm: expected rms or layer; got 'batch'"):
        replace(config, norm="batch")


@pytest.mark.parametrize("values", [None, "int8"])
def test_onnx_runtime_and_ssmrun_compute_the_same(
    tmp_path: Path, library: Path, values: str | None
) -> None:
    """Float32 is PyTorch's to 1e-4; of int8 the graph is PyTorch's with the unpacked weights."""
    config = replace(CHECKPOINT.config, vocab_size=1024)
    checkpoint = random_checkpoint(config)
    settings = None if values is None else PackSettings(values=values)
    packed = pack_model(config, checkpoint.tensors, settings)
    bundle = sb.make_bundle(tmp_path / "bundle", packed)
    ids = draw_tokens(config, 1, 20)
    with torch.no_grad():
        expected = reference_model(packed)(ids)[0].numpy()
    scale = float(np.abs(expected).max())
    bound = tolerances.GRAPH_FLOAT32 if values is None else tolerances.INT8_GRAPH
    stock = open_session(bundle / "model.onnx", threads=1, library=None).predict(ids.numpy())[0]
    fast = open_session(bundle / "model.onnx", threads=1, library=library).predict(ids.numpy())[0]
    assert np.abs(stock - expected).max() <= bound * scale
    assert np.abs(fast - expected).max() <= bound * scale
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1)
        got = sb.array(worker.ask("logits", tokens=ids[0].tolist(), prefill=10), "logits")
    assert np.abs(got - fast[0]).max() <= bound * scale
