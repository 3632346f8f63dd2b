"""FalconMamba, Mamba-1 with RMS norms over delta, B and C: against Hugging Face's own code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tolerances
from conftest import draw_tokens, mixer_of, random_checkpoint, small_config
from falcon_mamba import EPS, falcon_checkpoint, falcon_config, real_inputs, reference
from ssmpress.blocks.model import Mamba, State
from ssmpress.blocks.tensors import weights_of
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import BadInputError
from ssmpress.prune import baselines
from ssmpress.prune.mask import prunable_names
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.materials.text import window_batch
from ssmpress.prune.one_shot import grams, one_shot
from ssmpress.recipe.settings.prune import PROJECTIONS, Method, PruneSettings, Scope
from tolerances import assert_close, assert_same_logits

MODELS = {
    "tied": falcon_checkpoint(),
    "untied, biases": falcon_checkpoint(tie_embeddings=False, proj_bias=True),
    "no conv bias, eps 1e-6": falcon_checkpoint(conv_bias=False, dbc_norm_eps=1e-6),
    "dt_rank 1, d_state 1": falcon_checkpoint(dt_rank=1, d_state=1, n_layer=1),
}


@pytest.mark.parametrize("checkpoint", MODELS.values(), ids=MODELS)
def test_logits(checkpoint: Checkpoint) -> None:
    tokens = draw_tokens(checkpoint.config, 2, 29)
    model = Mamba.from_checkpoint(checkpoint)
    with torch.no_grad():
        expected = reference(checkpoint)(tokens).logits
        assert_same_logits(model(tokens)[0], expected)
        assert_same_logits(model.logits(tokens), expected)


@pytest.mark.parametrize("checkpoint", MODELS.values(), ids=MODELS)
def test_prefill_then_steps_with_their_states(checkpoint: Checkpoint) -> None:
    """Its cache holds d_conv inputs where ours holds d_conv - 1; channels come first in it."""
    tokens = draw_tokens(checkpoint.config, 2, 12)
    other, ours = reference(checkpoint), Mamba.from_checkpoint(checkpoint)
    cache, state = None, None
    for part in (tokens[:, :9], tokens[:, 9:10], tokens[:, 10:11], tokens[:, 11:]):
        with torch.no_grad():
            output = other(part, cache=cache, use_cache=True)
            logits, state = ours(part, state)
        cache = output.cache
        assert_same_logits(logits, output.logits)
        for i, (conv, scan) in enumerate(state.layers):
            theirs = cache.get_conv_state(i, state_idx=0), cache.get_recurrent_state(i, state_idx=0)
            assert_close(conv, theirs[0][..., 1:].mT, tolerances.CARRIED_STATE, f"conv {i}")
            assert_close(scan, theirs[1].mT, tolerances.CARRIED_STATE, f"scan {i}")


def test_text_in_pieces_is_the_whole() -> None:
    checkpoint = MODELS["tied"]
    tokens, model = draw_tokens(checkpoint.config, 2, 40), Mamba.from_checkpoint(checkpoint)
    with torch.no_grad():
        whole, end = model(tokens)
        state: State | None = None
        pieces = []
        for part in tokens.split([17, 1, 1, 20, 1], dim=1):
            logits, state = model(part, state)
            pieces.append(logits)
    assert state is not None
    assert_same_logits(torch.cat(pieces, dim=1), whole)
    for name, tensor in end.by_name().items():
        assert_close(state.by_name()[name], tensor, tolerances.CARRIED_STATE, name)


def test_gradients_are_those_of_hugging_face() -> None:
    """Saliency and recovery differentiate through the norms."""
    checkpoint = falcon_checkpoint(tie_embeddings=False)
    tokens = draw_tokens(checkpoint.config, 2, 17)
    other, ours = reference(checkpoint), Mamba.from_checkpoint(checkpoint)
    for model, logits in ((other, other(tokens).logits), (ours, ours.logits(tokens))):
        logits.square().mean().backward()
        assert model is not None
    expected = dict(other.named_parameters())
    for name, parameter in ours.named_parameters():
        spelled = next(iter(dialects.hugging_face.spelled({name: parameter}, checkpoint.config)))
        gradient, wanted = parameter.grad, expected[spelled].grad
        assert gradient is not None, name
        bound = 1e-4 * float(wanted.abs().max())
        assert torch.allclose(gradient, wanted, rtol=0, atol=bound), name


def test_without_its_norms_it_is_another_model() -> None:
    checkpoint = MODELS["tied"]
    plain = replace(checkpoint, config=small_config())
    tokens = draw_tokens(checkpoint.config, 1, 20)
    with torch.no_grad():
        with_norms, without = (Mamba.from_checkpoint(c)(tokens)[0] for c in (checkpoint, plain))
    assert float((with_norms - without).abs().max()) > 0.1 * float(with_norms.abs().max())


# ---- checkpoints ----


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    checkpoint = MODELS["untied, biases"]
    reference(checkpoint).save_pretrained(tmp_path)
    again = read_checkpoint(tmp_path)
    assert again.config == checkpoint.config
    assert str(again.architecture) == "FalconMamba: config.json has model_type 'falcon_mamba'"
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(again.tensors[name], tensor), name


def test_what_is_written_transformers_and_we_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint = MODELS["tied"]
    write_checkpoint(checkpoint.config, checkpoint.tensors, tmp_path / "model", "huggingface")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(model).__name__ == "FalconMambaForCausalLM"
    tokens = draw_tokens(checkpoint.config, 1, 9)
    with torch.no_grad():
        expected = Mamba.from_checkpoint(checkpoint)(tokens)[0]
        assert_same_logits(model(tokens).logits, expected)
    assert read_checkpoint(tmp_path / "model").config == checkpoint.config


def test_mamba_ssm_cannot_say_it(tmp_path: Path) -> None:
    config = MODELS["tied"].config
    assert dialects.that_can_say(config) == ("huggingface",)
    with pytest.raises(BadInputError, match="has no norms inside"):
        write_checkpoint(config, MODELS["tied"].tensors, tmp_path / "model", "mamba-ssm")


VALUES = {
    "model_type": "falcon_mamba",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "vocab_size": 16,
    "intermediate_size": 16,
    "state_size": 4,
    "time_step_rank": 3,
}


def parsed(**changes: object) -> tuple[float | None, int]:
    config, layout = dialects.parse_config(VALUES | changes, Path("config.json"))
    assert layout == "huggingface"
    return mixer_of(config).dbc_norm_eps, mixer_of(config).d_inner


def test_settings_have_transformers_defaults() -> None:
    transformers = pytest.importorskip("transformers")
    expected = transformers.FalconMambaConfig(**VALUES)
    assert parsed() == (expected.mixer_rms_eps, 16)
    assert parsed(mixer_rms_eps=1e-5) == (1e-5, 16)
    disagree = transformers.FalconMambaConfig(**VALUES, expand=16)
    assert parsed(expand=16) == (expected.mixer_rms_eps, disagree.intermediate_size) == (1e-6, 16)
    assert parsed(model_type="mamba")[0] is None


@pytest.mark.parametrize("eps", [0, -1e-6, "1e-6", True, None])
def test_a_bad_eps_is_refused(eps: object) -> None:
    with pytest.raises(BadInputError, match="mixer_rms_eps: expected a positive number"):
        parsed(mixer_rms_eps=eps)


def test_a_configuration_survives_its_json() -> None:
    config = falcon_config()
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.title == "FalconMamba"
    assert config.layers[0].mixer != small_config().layers[0].mixer


# ---- what pruning looks at ----


def test_grams_are_of_what_the_projections_really_multiply() -> None:
    """dt_proj reads delta behind its norm: not what x_proj returns."""
    checkpoint = falcon_checkpoint(n_layer=3)
    names = prunable_names(weights_of(checkpoint.config), PROJECTIONS)
    tokens = draw_tokens(checkpoint.config, 4, 31)
    model = Mamba.from_checkpoint(checkpoint)
    batches = [window_batch(part) for part in (tokens[:2], tokens[2:])]
    statistics = grams(model, names, batches, None)
    for name, x in real_inputs(checkpoint, tokens).items():
        gram = x.T @ x
        bound = 1e-4 * float(gram.abs().max())
        assert torch.allclose(statistics[name], gram, rtol=0, atol=bound), name
    assert set(statistics) == set(names)


@pytest.mark.parametrize("method", [Method.WANDA, Method.SPARSEGPT])
def test_masks_are_those_of_the_real_inputs(method: Method) -> None:
    """Of the first layer, which both walks see alike, by the papers' formulas on real inputs."""
    checkpoint = falcon_checkpoint(n_layer=1)
    names = prunable_names(weights_of(checkpoint.config), PROJECTIONS)
    settings = PruneSettings(
        sparsity=0.5,
        method=method,
        scope=Scope.LAYER,
        calibration_batches=2,
        calibration_batch=2,
        calibration_window=24,
    )
    text = draw_tokens(checkpoint.config, 1, 96)[0].numpy().astype("int32")
    model = Mamba.from_checkpoint(checkpoint)
    material = TextMaterial(text)
    batches = material.calibration(settings, 0, torch.device("cpu"))
    windows = torch.cat([batch.inputs for batch in batches])
    keep = one_shot(model, names, material, settings, 0.5, seed=0)
    for name, x in real_inputs(checkpoint, windows).items():
        w, gram = checkpoint.tensors[name].clone(), x.T @ x
        zeros = int((~keep[name]).sum())
        if method is Method.SPARSEGPT:
            expected = baselines.sparsegpt_matrix(w, gram, zeros)
            assert torch.allclose(model.tensors()[name] * keep[name], w, atol=1e-3), name
        else:
            scores = w.abs() * gram.diagonal().sqrt()
            ranks = scores.argsort(dim=1, stable=True).argsort(dim=1)
            counts = (~keep[name]).sum(1, keepdim=True)
            expected = ranks >= counts
        agree = float((keep[name] == expected).float().mean())
        assert agree > 0.99, (name, agree)


def test_the_eps_matters_to_the_tests_here() -> None:
    assert EPS > 0.1
    near, far = (falcon_checkpoint(dbc_norm_eps=eps) for eps in (1e-6, EPS))
    tokens = draw_tokens(near.config, 1, 20)
    with torch.no_grad():
        a, b = (Mamba.from_checkpoint(c)(tokens)[0] for c in (near, far))
    assert float((a - b).abs().max()) > 100 * tolerances.REFERENCE_LOGITS * float(a.abs().max())
    assert random_checkpoint(near.config).tensors.keys() == far.tensors.keys()
