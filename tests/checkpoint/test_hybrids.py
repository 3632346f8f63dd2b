"""Hybrids as transformers saves them, in older spellings too, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tolerances
from conftest import draw_tokens, random_checkpoint
from families import HUGGING_FACE
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.dialects.mixers import mixers_of
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import BadInputError
from thoroughness import examples
from tolerances import assert_close

Values = dict[str, Any]


def change_config(folder: Path, change: Callable[[Values], object]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def check_same(folder: Path, checkpoint: Checkpoint) -> None:
    """What is read from the folder is the checkpoint."""
    back = read_checkpoint(folder)
    assert back.config == checkpoint.config
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(back.tensors[name], tensor), name


@pytest.mark.parametrize("name", ("nemotron_h", "falcon_h1", "jamba"))
def test_what_transformers_saves_is_read(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint = random_checkpoint(HUGGING_FACE[name])
    write_checkpoint(checkpoint.config, checkpoint.tensors, tmp_path / "model", "huggingface")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "saved")
    check_same(tmp_path / "saved", checkpoint)


OLDER: Mapping[str, Callable[[Values], object]] = {
    "a letter for each layer": lambda v: v.pop("layers_block_type"),
    "older kinds": lambda v: v.update(
        layers_block_type=["mamba", "mlp", "attention", "mlp", "mamba"],
        hybrid_override_pattern="M",
    ),
    "layer_types": lambda v: v.update(layer_types=v.pop("layers_block_type")),
    "its first name of head_dim": lambda v: v.update(attention_head_dim=v.pop("head_dim")),
    "limits of the first weights": lambda v: v.update(time_step_min=0.2, time_step_max=0.3),
    "no limit by its name": lambda v: v.update(time_step_limit=[0.0, float("inf")]),
}


@pytest.mark.parametrize("change", OLDER.values(), ids=OLDER)
def test_a_nemotron_h_in_other_words(change: Callable[[Values], object], tmp_path: Path) -> None:
    """The model's modules are in `model` where transformers does not rename them."""
    checkpoint = random_checkpoint(HUGGING_FACE["nemotron_h"])
    write_checkpoint(checkpoint.config, checkpoint.tensors, tmp_path / "model", "huggingface")
    change_config(tmp_path / "model", change)
    check_same(tmp_path / "model", checkpoint)
    path = tmp_path / "model" / "model.safetensors"
    weights = {n.replace("backbone.", "model."): t for n, t in load_file(path).items()}
    save_file(weights, path)
    check_same(tmp_path / "model", checkpoint)


def parsed(name: str, **changes: Any) -> ModelConfig:
    return reread(HUGGING_FACE[name], **changes)


def test_limits_of_a_step_are_those_of_the_scan() -> None:
    """transformers raises steps to time_step_min; what is written asks it for nothing of that."""
    config = parsed("nemotron_h", time_step_limit=[0.05, 2.0], time_step_min=0.001)
    (mixer,) = mixers_of(config, Mamba2Config)
    assert mixer.dt_limits == (0.05, 2.0)
    written = dialects.config_json(config, "huggingface")
    assert written["time_step_min"] == 0.05 and written["time_step_limit"] == [0.05, 2.0]
    assert dialects.config_json(HUGGING_FACE["nemotron_h"], "huggingface")["time_step_min"] < 1e-9


@settings(max_examples=examples(60))
@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_attention_in_layers_of_equal_distance_is_a_jamba(attends: list[bool]) -> None:
    """What can be written is read as it was; what cannot has other places of attention."""
    known = HUGGING_FACE["jamba"].layers
    layers = tuple(known[1] if attention else known[0] for attention in attends)
    config = replace(HUGGING_FACE["jamba"], layers=layers)
    count = len(attends)
    places = [[n % p == o for n in range(count)] for p in range(1, count + 2) for o in range(p)]
    can = attends in places and not all(attends)
    assert dialects.that_can_say(config) == (("huggingface",) if can else ())
    if can:
        assert reread(config) == config


@pytest.mark.parametrize("name", ("bamba", "granite"))
def test_a_hybrid_without_attention_is_read(name: str) -> None:
    config = HUGGING_FACE[name]
    config = replace(config, layers=(config.layers[0],) * 3)
    assert reread(config) == config


@settings(max_examples=examples(60))
@given(st.lists(st.sampled_from("M*-"), max_size=9))
def test_blocks_in_any_order_are_a_nemotron_h(letters: list[str]) -> None:
    """In the newer and in the older spelling."""
    known = dict(zip("M-*", HUGGING_FACE["nemotron_h"].layers, strict=False))
    layers = tuple(known[letter] for letter in ["-", *letters, "M"])
    config = replace(HUGGING_FACE["nemotron_h"], layers=layers)
    assert reread(config) == reread(config, layers_block_type=None) == config
    assert dialects.that_can_say(config) == ("huggingface",)


@settings(max_examples=examples(60))
@given(st.sampled_from([6, 48, 64, 80, 128]), st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
def test_a_key_multiplier_is_kept(head_dim: int, key: float, before: float) -> None:
    """Of a Falcon-H1, to the last bit, through the scale of attention that it is read as."""
    changes = {"key_multiplier": key, "attention_in_multiplier": before}
    config = parsed("falcon_h1", head_dim=head_dim, **changes)
    assert reread(config) == config


def reread(config: ModelConfig, **changes: Any) -> ModelConfig:
    """The configuration from its own config.json."""
    values = dialects.config_json(config, "huggingface") | changes
    return dialects.parse_config(values, Path("config.json"))[0]


@pytest.mark.parametrize("d_ssm", (42, None))
def test_multipliers_before_the_projections(d_ssm: int | None, tmp_path: Path) -> None:
    """Of a Falcon-H1: read as numbers after them, with the logits that transformers computes."""
    transformers = pytest.importorskip("transformers")
    config = HUGGING_FACE["falcon_h1"]
    if d_ssm is None:
        mixer = replace(mixers_of(config, Mamba2Config)[0], heads=8, head_dim=5)
        layers = tuple(replace(layer, mixer=mixer) for layer in config.layers)
        config = replace(config, layers=layers)
    checkpoint, folder = random_checkpoint(config), tmp_path / "model"
    write_checkpoint(config, checkpoint.tensors, folder, "huggingface")
    changes = {"attention_in_multiplier": 1.6, "ssm_in_multiplier": 0.45, "mamba_d_ssm": d_ssm}
    change_config(folder, lambda values: values.update(changes))
    tokens = draw_tokens(config, 2, 19)
    back, other = read_checkpoint(folder), transformers.AutoModelForCausalLM
    with torch.no_grad():
        expected = other.from_pretrained(folder).eval()(tokens).logits
        got, without = (Mamba.from_checkpoint(c)(tokens)[0] for c in (back, checkpoint))
    assert_close(got, expected, tolerances.REFERENCE_LOGITS, "logits")
    assert float((got - without).abs().max()) > 0.01


NEMOTRON: tuple[tuple[Values, str], ...] = (
    ({"layers_block_type": ["mamba", "moe"]}, r"layers_block_type: expected no layers of experts"),
    ({"layers_block_type": ["mamba", "lstm"]}, r"layers_block_type: expected for each layer one"),
    ({"layers_block_type": []}, r"layers_block_type: expected for each layer one of"),
    ({"layers_block_type": None, "hybrid_override_pattern": "ME*"}, r"pattern: expected no layers"),
    ({"layers_block_type": None, "hybrid_override_pattern": "M?"}, r"pattern: expected for each"),
    ({"layers_block_type": None, "hybrid_override_pattern": 5}, r"pattern: expected the kinds of"),
    ({"layers_block_type": "mamba"}, r"layers_block_type: expected the kinds of all layers"),
    ({"num_hidden_layers": 4}, r"num_hidden_layers: expected 5, the layers of layers_block_type"),
    ({"sliding_window": 64}, r"sliding_window: expected null; got 64. Attention here"),
    ({"num_nextn_predict_layers": 1}, r"num_nextn_predict_layers: expected 0; got 1"),
    ({"attention_bias": True}, r"attention_bias: expected false; got True"),
    ({"mamba_proj_bias": True}, r"mamba_proj_bias: expected false; got True"),
    ({"mlp_hidden_act": "gelu"}, r"mlp_hidden_act: expected 'relu2'; got 'gelu'"),
    ({"mamba_hidden_act": "relu"}, r"mamba_hidden_act: expected 'silu' or 'swish'"),
    ({"num_key_value_heads": 3}, r"kv_heads: expected a divisor of the 4 heads"),
    ({"ssm_state_size": 0}, r"ssm_state_size: expected an integer from 1 to 4096"),
)


FALCON: tuple[tuple[Values, str], ...] = (
    ({"attention_bias": True}, r"attention_bias: expected false; got True"),
    ({"mamba_proj_bias": True}, r"mamba_proj_bias: expected false; got True"),
    ({"projectors_bias": True}, r"projectors_bias: expected false; got True"),
    ({"sliding_window": 64}, r"sliding_window: expected null; got 64"),
    ({"rope_scaling": {"type": "linear"}}, r"rope_scaling: expected null; got"),
    ({"rope_parameters": {"rope_type": "yarn"}}, r"rope_type: expected 'default'; got 'yarn'"),
    ({"rope_parameters": {"rope_theta": 1e16}}, r"rope_theta: expected a positive number"),
    ({"ssm_multipliers": [1.0] * 4}, r"ssm_multipliers: expected 5 numbers; got"),
    ({"ssm_multipliers": 2.0}, r"ssm_multipliers: expected 5 numbers; got 2.0"),
    ({"mlp_multipliers": [1.0, -1.0]}, r"mlp_multipliers: expected 2 positive numbers; got"),
    ({"key_multiplier": 0}, r"key_multiplier: expected a positive number; got 0"),
    ({"mamba_d_ssm": 50}, r"mamba_d_head: expected 50 channels / 6 heads, as mamba_d_ssm says"),
)
JAMBA: tuple[tuple[Values, str], ...] = (
    ({"num_experts": 16}, r"num_experts: expected 1; got 16. Mixtures of experts"),
    ({"num_experts": None}, r"num_experts: expected 1; got None"),
    ({"sliding_window": 64}, r"sliding_window: expected null; got 64"),
    ({"mamba_inner_layernorms": False}, r"mamba_inner_layernorms: expected true; got False"),
    ({"attn_layer_offset": 2}, r"attn_layer_offset: expected an integer from 0 to 1; got 2"),
    ({"attn_layer_offset": "1"}, r"attn_layer_offset: expected an integer from 0 to 1; got '1'"),
    ({"attn_layer_period": 0}, r"attn_layer_period: expected an integer from 1"),
    ({"head_dim": None, "num_attention_heads": 99}, r"num_attention_heads: expected no more heads"),
    ({"mamba_dt_rank": 0}, r"mamba_dt_rank: expected an integer from 1"),
)
REFUSED = [("nemotron_h", *case) for case in NEMOTRON] + [("falcon_h1", *case) for case in FALCON]
REFUSED += [("jamba", *case) for case in JAMBA]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_no_block_computes_is_refused(name: str, changes: Values, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        parsed(name, **changes)


def test_two_mixers_have_states_of_different_names() -> None:
    mixer = mixers_of(HUGGING_FACE["falcon_h1"], Mamba2Config)[0]
    with pytest.raises(BadInputError, match="beside: expected a block with other states"):
        LayerConfig(mixer=mixer, beside=mixer)


def test_weights_of_norms_need_norms() -> None:
    with pytest.raises(BadInputError, match="dbc_norm_eps: expected a positive number; got None"):
        Mamba1Config(d_inner=4, dt_rank=1, dbc_norm_weights=True)


@pytest.mark.parametrize("scales", ((1.0,), (1.0, 1.0, 1.0, 1.0, 0.0), 2.0))
def test_a_mixers_scales_are_five_positive_numbers(scales: Any) -> None:
    with pytest.raises(BadInputError, match="in_scales: expected"):
        Mamba2Config(heads=2, in_scales=scales)
