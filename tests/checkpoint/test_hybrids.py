"""Hybrids as transformers saves them, in older spellings too, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import random_checkpoint
from families import HUGGING_FACE
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.dialects.mixers import mixers_of
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import BadInputError

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


@pytest.mark.parametrize("name", ("nemotron_h",))
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


def parsed(name: str, **changes: Any) -> Any:
    values = dialects.config_json(HUGGING_FACE[name], "huggingface") | changes
    return dialects.parse_config(values, Path("config.json"))[0]


def test_limits_of_a_step_are_those_of_the_scan() -> None:
    """transformers raises steps to time_step_min; what is written asks it for nothing of that."""
    config = parsed("nemotron_h", time_step_limit=[0.05, 2.0], time_step_min=0.001)
    (mixer,) = mixers_of(config, Mamba2Config)
    assert mixer.dt_limits == (0.05, 2.0)
    written = dialects.config_json(config, "huggingface")
    assert written["time_step_min"] == 0.05 and written["time_step_limit"] == [0.05, 2.0]
    assert dialects.config_json(HUGGING_FACE["nemotron_h"], "huggingface")["time_step_min"] < 1e-9


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


@pytest.mark.parametrize(("changes", "message"), NEMOTRON)
def test_what_no_block_computes_is_refused(changes: Values, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        parsed("nemotron_h", **changes)
