"""The PyTorch model: against Hugging Face and mamba-ssm, its states, and its perplexity."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import mamba_ssm_reference
import tolerances
from conftest import draw_tokens, random_checkpoint, small_config
from paths import TESTS
from ssmpress.blocks import gpu
from ssmpress.blocks.model import Mamba, State
from ssmpress.blocks.projection import Projection, quantize_activations
from ssmpress.checkpoint.dialects import config_json
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.data.tokens import cut_windows, load_tokens
from ssmpress.tasks.perplexity import Predict, perplexity
from thoroughness import examples
from tolerances import assert_close, assert_same_logits

Shared = Callable[[str], Path]

# ---- the two other implementations ----


def hugging_face_logits(checkpoint: Checkpoint, tokens: torch.Tensor) -> torch.Tensor:
    """By transformers' MambaForCausalLM, which takes its plain PyTorch path on a CPU."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(**config_json(checkpoint.config, "huggingface"))
    model = transformers.MambaForCausalLM(config).eval()
    weights = mamba_ssm_reference.with_head(checkpoint)
    renamed = {name.replace("embedding.", "embeddings."): tensor for name, tensor in weights}
    model.load_state_dict(renamed)
    with torch.no_grad():
        logits: torch.Tensor = model(tokens).logits
    return logits


# ---- logits on random and on trained weights ----

CONFIGS = {
    "tied": small_config(),
    "untied": small_config(tie_embeddings=False),
    "no conv bias": small_config(conv_bias=False),
    "proj bias": small_config(proj_bias=True, tie_embeddings=False),
    "one layer, d_state 1": small_config(n_layer=1, d_state=1),
    "d_conv 2, dt_rank 1": small_config(d_conv=2, dt_rank=1),
    "d_state 16, expand 3": small_config(d_state=16, d_inner=60, dt_rank=7, n_layer=3),
    "expand 1": small_config(d_model=33, d_inner=33, vocab_size=7),
}


def logits_of(checkpoint: Checkpoint, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return Mamba.from_checkpoint(checkpoint)(tokens)[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_hugging_face_random_weights(name: str) -> None:
    checkpoint, tokens = random_checkpoint(CONFIGS[name]), draw_tokens(CONFIGS[name], 2, 29)
    assert_same_logits(logits_of(checkpoint, tokens), hugging_face_logits(checkpoint, tokens))


@pytest.mark.parametrize("name", CONFIGS)
def test_mamba_ssm_random_weights(name: str, mamba_ssm: SimpleNamespace) -> None:
    checkpoint, tokens = random_checkpoint(CONFIGS[name]), draw_tokens(CONFIGS[name], 2, 29)
    with torch.no_grad():
        expected = mamba_ssm_reference.model_of(mamba_ssm, checkpoint)(tokens).logits
    assert_same_logits(logits_of(checkpoint, tokens), expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_mamba_ssm_states_and_decoding(name: str, mamba_ssm: SimpleNamespace) -> None:
    """Its cache holds d_conv inputs where ours holds d_conv - 1; channels come first in it."""
    config = CONFIGS[name]
    checkpoint, tokens = random_checkpoint(config), draw_tokens(config, 2, 12)
    other, ours = (
        mamba_ssm_reference.model_of(mamba_ssm, checkpoint),
        Mamba.from_checkpoint(checkpoint),
    )
    cache = mamba_ssm.inference_params(max_seqlen=12, max_batch_size=2)
    state: State | None = None
    for part in (tokens[:, :9], tokens[:, 9:10], tokens[:, 10:11], tokens[:, 11:]):
        with torch.no_grad():
            expected = other(part, inference_params=cache).logits
            logits, state = ours(part, state)
        cache.seqlen_offset += part.shape[1]
        assert_same_logits(logits, expected)
        for i in range(config.n_layer):
            conv, scan = cache.key_value_memory_dict[i]
            what = f"layer {i}"
            assert_close(state.layers[i][0], conv[..., 1:].mT, tolerances.CARRIED_STATE, what)
            assert_close(state.layers[i][1], scan.mT, tolerances.CARRIED_STATE, what)


@pytest.mark.parametrize("level", [None, 0])
@pytest.mark.parametrize("name", [*CONFIGS, "FalconMamba"])
def test_the_way_of_a_gpu_is_the_definition(
    name: str, level: int | None, mamba_ssm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mamba_inner_fn gets what it wants, by mamba-ssm's own reference of it; FalconMamba keeps its
    norms."""
    calls = []

    def inner(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(options.pop("checkpoint_lvl", None))
        result: torch.Tensor = mamba_ssm.mamba_inner_ref(*arguments, **options)
        return result

    monkeypatch.setattr(gpu, "fused_kernels", lambda: inner)
    config = CONFIGS[name] if name in CONFIGS else small_config(dbc_norm_eps=0.25)
    model, x = Mamba.from_checkpoint(random_checkpoint(config)), torch.randn(2, 11, config.d_model)
    call = gpu.block_call(gpu.How(checkpoint_level=level), torch.device("cuda"))
    for layer, states in zip(model.backbone.layers, State.zeros(config, 2).layers, strict=True):
        with torch.no_grad():
            assert_same_logits(layer(x, *states, call=call)[0], layer(x, *states)[0])
    assert calls == ([level] * config.n_layer if name in CONFIGS else [])


def test_norm_eps_is_the_checkpoints() -> None:
    config = small_config(norm_eps=0.25)
    checkpoint, tokens = random_checkpoint(config), draw_tokens(config, 1, 9)
    expected = hugging_face_logits(checkpoint, tokens)
    assert_same_logits(logits_of(checkpoint, tokens), expected)
    other = logits_of(random_checkpoint(small_config()), tokens)
    assert float((other - expected).abs().max()) > 0.01


@pytest.fixture(scope="module")
def mamba_5m(shared: Shared) -> Checkpoint:
    return read_checkpoint(shared("models/mamba-5m"))


@pytest.fixture(scope="module")
def valid_windows(shared: Shared, mamba_5m: Checkpoint) -> np.ndarray:
    """int32 (16, 1024): every 18th window of the validation text."""
    return text_windows(shared, mamba_5m, "valid")[::18]


def text_windows(shared: Shared, model: Checkpoint, name: str) -> np.ndarray:
    """All windows of WikiText-103's valid or test text, int32 (count, 1024)."""
    assert model.tokenizer is not None
    tokenizer = load_tokenizer(model.tokenizer)
    path = shared(f"data/wikitext103/{name}.detok.txt")
    tokens = load_tokens([path], tokenizer, model.config.vocab_size)
    return cut_windows(tokens, 1024)


def test_hugging_face_trained_weights(mamba_5m: Checkpoint, valid_windows: np.ndarray) -> None:
    tokens = torch.from_numpy(valid_windows[:2, :200]).long()
    assert_same_logits(logits_of(mamba_5m, tokens), hugging_face_logits(mamba_5m, tokens))


def test_mamba_ssm_trained_weights(
    mamba_5m: Checkpoint, valid_windows: np.ndarray, mamba_ssm: SimpleNamespace
) -> None:
    tokens = torch.from_numpy(valid_windows[:2, :200]).long()
    with torch.no_grad():
        expected = mamba_ssm_reference.model_of(mamba_ssm, mamba_5m)(tokens).logits
    assert_same_logits(logits_of(mamba_5m, tokens), expected)


# ---- prefill and decode ----


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cuts", [(0, 6, 17), tuple(range(18)), (0, 1, 16, 17)])
def test_prefill_equals_its_parts(name: str, cuts: tuple[int, ...]) -> None:
    model = Mamba.from_checkpoint(random_checkpoint(CONFIGS[name]))
    tokens = draw_tokens(CONFIGS[name], 3, 17)
    state: State | None = None
    rows = []
    with torch.no_grad():
        whole, end = model(tokens)
        for first, last in pairwise(cuts):
            logits, state = model(tokens[:, first:last], state)
            rows.append(logits)
    assert state is not None
    assert_close(torch.cat(rows, dim=1), whole, tolerances.CARRIED_STATE, "logits")
    for i in range(model.config.n_layer):
        assert_close(state.layers[i][0], end.layers[i][0], tolerances.CARRIED_STATE, f"conv {i}")
        assert_close(state.layers[i][1], end.layers[i][1], tolerances.CARRIED_STATE, f"scan {i}")


def test_trained_model_step_by_step(mamba_5m: Checkpoint, valid_windows: np.ndarray) -> None:
    model = Mamba.from_checkpoint(mamba_5m)
    tokens = torch.from_numpy(valid_windows[:1, :80]).long()
    with torch.no_grad():
        whole, end = model(tokens)
        logits, state = model(tokens[:, :50])
        for t in range(50, 80):
            logits, state = model(tokens[:, t : t + 1], state)
    assert_close(logits[:, 0], whole[:, -1], tolerances.CARRIED_STATE, "logits")
    for i in range(model.config.n_layer):
        assert_close(state.layers[i][1], end.layers[i][1], tolerances.CARRIED_STATE, f"scan {i}")


def test_a_state_may_be_used_twice() -> None:
    model = Mamba.from_checkpoint(random_checkpoint(small_config()))
    tokens = draw_tokens(model.config, 1, 9)
    with torch.no_grad():
        _, state = model(tokens)
        before = [t.clone() for layer in state.layers for t in layer]
        first, _ = model(tokens[:, :2], state)
        second, _ = model(tokens[:, :2], state)
    assert torch.equal(first, second)
    after = [t for layer in state.layers for t in layer]
    for kept, now in zip(before, after, strict=True):
        assert torch.equal(kept, now)


@pytest.mark.parametrize("positions", [[0], [16], [3, 1, 3], [], list(range(17))])
def test_positions(positions: list[int]) -> None:
    model = Mamba.from_checkpoint(random_checkpoint(small_config()))
    tokens = draw_tokens(model.config, 2, 17)
    with torch.no_grad():
        whole, end = model(tokens)
        logits, state = model(tokens, positions=positions)
    assert logits.shape == (2, len(positions), model.config.vocab_size)
    assert_close(logits, whole[:, positions], tolerances.CARRIED_STATE)
    assert torch.equal(state.layers[-1][1], end.layers[-1][1])


def test_logits_are_those_of_forward() -> None:
    model = Mamba.from_checkpoint(random_checkpoint(small_config()))
    tokens = draw_tokens(model.config, 2, 17)
    with torch.no_grad():
        assert torch.equal(model.logits(tokens), model(tokens)[0])


# ---- int8 activations ----


def numpy_quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """docs/sparse_format.md, in NumPy float32."""
    a_max = np.abs(x).max(axis=-1, keepdims=True).astype(np.float32)
    scale = np.maximum(a_max, np.float32(1e-30)) / np.float32(127)
    return np.rint(x / scale).astype(np.int64), scale


@given(columns=st.integers(1, 40), exponent=st.integers(-40, 38), seed=st.integers(0, 10**6))
@settings(max_examples=examples(60))
def test_quantized_activations(columns: int, exponent: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (3, columns)).astype(np.float32) * np.float32(10.0**exponent)
    x_q, scale = quantize_activations(torch.from_numpy(x))
    wanted, wanted_scale = numpy_quantize(x)
    np.testing.assert_array_equal(scale.numpy(), wanted_scale)
    np.testing.assert_array_equal(x_q.numpy(), wanted)
    assert x_q.abs().max() <= 127


def test_halves_round_to_even() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -126.5]])
    x_q, scale = quantize_activations(x)
    assert scale.item() == 1
    assert x_q.tolist() == [[127, 0, 2, 2, 0, -2, -2, -126]]


def test_a_zero_token_stays_zero() -> None:
    x_q, scale = quantize_activations(torch.zeros(2, 5))
    assert not x_q.any()
    np.testing.assert_array_equal(
        scale.numpy(), np.full((2, 1), np.float32(1e-30) / np.float32(127))
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_token_that_is_not_finite_gives_nan_in_every_row(bad: float) -> None:
    layer = Projection(6, 4, bias=False)
    layer.int8_inputs = True
    with torch.no_grad():
        layer.weight[1] = 0
        x = torch.ones(3, 6)
        x[1, 2] = bad
        y = layer(x)
    assert torch.isnan(y[1]).all()
    assert torch.isfinite(y[[0, 2]]).all()


def test_int8_projection_multiplies_integers() -> None:
    """Weights of whole numbers, so that every product and sum is exact in float32 too."""
    random = np.random.default_rng(0)
    q = random.integers(-127, 128, (13, 60))
    x = random.standard_normal((2, 5, 60)).astype(np.float32)
    bias = random.standard_normal(13).astype(np.float32)
    layer = Projection(60, 13)
    layer.int8_inputs = True
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(q.astype(np.float32)))
        layer.bias.copy_(torch.from_numpy(bias))
        y = layer(torch.from_numpy(x)).numpy()
    x_q, scale = numpy_quantize(x)
    acc = x_q @ q.T
    assert np.abs(acc).max() < 2**24
    np.testing.assert_array_equal(y, acc.astype(np.float32) * scale + bias)


def test_int8_inputs_change_little_and_only_when_asked() -> None:
    model = Mamba.from_checkpoint(random_checkpoint(small_config()))
    tokens = draw_tokens(model.config, 1, 9)
    with torch.no_grad():
        exact = model(tokens)[0]
        for module in model.modules():
            if isinstance(module, Projection):
                module.int8_inputs = True
        rough = model(tokens)[0]
    assert 0 < float((rough - exact).abs().max()) < 0.2 * float(exact.abs().max())


# ---- weights ----


@pytest.mark.parametrize("tied", [True, False])
def test_model_owns_its_weights(tied: bool) -> None:
    checkpoint = random_checkpoint(small_config(tie_embeddings=tied))
    before = {name: t.clone() for name, t in checkpoint.tensors.items()}
    model = Mamba.from_checkpoint(checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("tied", [True, False])
def test_tensors_are_the_checkpoints(tied: bool) -> None:
    checkpoint = random_checkpoint(small_config(tie_embeddings=tied, proj_bias=True))
    tensors = Mamba.from_checkpoint(checkpoint).tensors()
    assert tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, checkpoint.tensors[name]), name
        assert not tensor.requires_grad


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied(tied: bool) -> None:
    model = Mamba.from_checkpoint(random_checkpoint(small_config(tie_embeddings=tied)))
    for twin in (model, copy.deepcopy(model), model.to(torch.float64).to(torch.float32)):
        assert (twin.lm_head.weight is twin.backbone.embedding.weight) is tied
    train(model, draw_tokens(model.config, 2, 9), steps=1)
    same = torch.equal(model.lm_head.weight, model.backbone.embedding.weight)
    assert same is tied


def test_a_missing_tensor_is_refused() -> None:
    for tied in (True, False):
        checkpoint = random_checkpoint(small_config(tie_embeddings=tied))
        if not tied:
            del checkpoint.tensors["lm_head.weight"]
            with pytest.raises(RuntimeError, match=r"lm_head\.weight"):
                Mamba.from_checkpoint(checkpoint)


def train(model: Mamba, tokens: torch.Tensor, steps: int) -> list[float]:
    """Losses before each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        logits = model.logits(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), f"{name}: no gradient reaches it"
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_training_reduces_the_loss() -> None:
    model = Mamba.from_checkpoint(random_checkpoint(small_config(proj_bias=True)))
    losses = train(model, draw_tokens(model.config, 4, 21), steps=12)
    assert losses[-1] < 0.8 * losses[0]


# ---- perplexity ----


def predict(model: Mamba) -> Predict:
    def run(tokens: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        with torch.no_grad():
            logits, after = model(torch.from_numpy(tokens), state)
        return logits.numpy(), after

    return run


def test_perplexity_of_16_windows(mamba_5m: Checkpoint, valid_windows: np.ndarray) -> None:
    quality = perplexity(predict(Mamba.from_checkpoint(mamba_5m)), valid_windows, batch=4)
    assert quality.perplexity == pytest.approx(80.49, rel=tolerances.PERPLEXITY_SAMPLE)


PERPLEXITY_SCRIPT = """
import json, sys, torch, test_model as t
from paths import SHARED
from ssmpress.tasks.perplexity import perplexity
from ssmpress.checkpoint.read import read_checkpoint
torch.set_num_threads(2)
model, text = sys.argv[1:]
checkpoint = read_checkpoint(SHARED / "models" / model)
windows = t.text_windows(lambda name: SHARED / name, checkpoint, text)
quality = perplexity(t.predict(t.Mamba.from_checkpoint(checkpoint)), windows)
# VmHWM is this program's own peak; getrusage's counts the process it was started from too.
status = open("/proc/self/status").read().split("VmHWM:")[1].split()
print(json.dumps({"perplexity": quality.perplexity, "peak": int(status[0]) * 1024}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "text", "stated"),
    [
        ("mamba-5m", "valid", 80.49),
        ("mamba-31m", "test", 31.74),
        ("mamba-31m", "valid", 32.99),
        ("mamba-31m-70", "test", 33.03),
    ],
)
def test_perplexity_of_the_whole_text(model: str, text: str, stated: float, shared: Shared) -> None:
    shared(f"models/{model}")
    shared(f"data/wikitext103/{text}.detok.txt")
    paths = os.pathsep.join([str(TESTS), str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", PERPLEXITY_SCRIPT, model, text],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: Mapping[str, float] = json.loads(done.stdout)
    assert result["perplexity"] == pytest.approx(stated, rel=tolerances.PERPLEXITY)
    assert result["peak"] <= tolerances.PEAK_RSS_BYTES
