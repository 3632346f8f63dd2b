"""Dead heads, channels and states of Mamba-2 and attention: what goes, and that nothing notices."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import thoroughness
import tolerances
from conftest import draw_tokens, mamba1_config, random_checkpoint
from families import FAMILIES, MAMBA_SSM, attention, hybrid
from graph_checks import check_graph
from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.read import Checkpoint
from ssmpress.formats import Values
from ssmpress.pack.model import pack_model
from ssmpress.prune import dead_channels
from ssmpress.prune.narrow import removed_channels
from ssmpress.recipe.settings.pack import PackSettings
from tolerances import assert_close

PART = "backbone.layers.{}.{}"
"""A part of a layer such as `0.mixer`, and the tensor in it."""


def zero(tensors: dict[str, torch.Tensor], part: str, name: str, rows: list[int]) -> None:
    """Rows of a matrix, or numbers of a bias, if there is one."""
    if (tensor := tensors.get(PART.format(part, name))) is not None:
        tensor[rows] = 0


def silence(tensors: dict[str, torch.Tensor], part: str, rows: list[int], d: int) -> None:
    """Make rows of x, B and C of a Mamba-2 mixer give 0. rows: of what is convolved. d: d_inner."""
    for name in ("in_proj.weight", "in_proj.bias"):
        zero(tensors, part, name, [d + row for row in rows])
    zero(tensors, part, "conv1d.bias", rows)


def close_mamba2(
    tensors: dict[str, torch.Tensor], part: str, block: Mamba2Config, generator: torch.Generator
) -> Mamba2Config:
    """Silence some heads, channels and states. The sizes that must be left."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator) < 0.55

    silent = draw(block.heads, block.head_dim) | draw(block.heads)[:, None]
    rows = torch.nonzero(silent.flatten())[:, 0]
    by_gate = bool(draw(1)) and (block.gate_first or not block.gated_norm)
    if by_gate:
        zero(tensors, part, "in_proj.weight", rows.tolist())
        zero(tensors, part, "in_proj.bias", rows.tolist())
    else:
        silence(tensors, part, rows.tolist(), block.d_inner)
    states = draw(block.n_groups, block.d_state)
    offset = block.d_inner + block.d_groups * int(draw(1))  # B or C
    silence(tensors, part, (offset + torch.nonzero(states.flatten())[:, 0]).tolist(), block.d_inner)

    cells = math.lcm(block.n_groups, block.norm_groups)
    dead = silent.all(1)
    each = min(int(dead.reshape(cells, -1).sum(1).min()), block.heads // cells - 1)
    thin = min([block.head_dim - 1, *silent[~dead].sum(1).tolist()])
    fewer = min(int(states.sum(1).min()), block.d_state - 1)
    return replace(
        block,
        heads=block.heads - cells * each,
        head_dim=block.head_dim - thin,
        d_state=block.d_state - fewer,
        norm_eps=1.0,
    )


def close_attention(
    tensors: dict[str, torch.Tensor], part: str, block: AttentionConfig, generator: torch.Generator
) -> AttentionConfig:
    """The same of heads: unread ones, and values that are 0."""
    each, p = block.heads // block.kv_heads, block.head_dim
    dead = torch.rand(block.kv_heads, each, generator=generator) < 0.6
    silent = torch.rand(block.kv_heads, generator=generator) < 0.2
    columns = dead.flatten().repeat_interleave(p)
    tensors[PART.format(part, "out_proj.weight")][:, columns] = 0
    values = torch.nonzero(silent.repeat_interleave(p))[:, 0] + block.d_queries + block.d_keys
    zero(tensors, part, "in_proj.weight", values.tolist())
    zero(tensors, part, "in_proj.bias", values.tolist())
    dead |= silent[:, None]
    used = dead[~dead.all(1)]
    fewer = int(used.sum(1).min()) if len(used) else each - 1
    shared = max(1, len(used))
    return replace(block, heads=shared * (each - fewer), kv_heads=shared)


@given(name=st.sampled_from(list(FAMILIES)), seed=st.integers(0, 2**20))
@settings(max_examples=thoroughness.examples(120))
def test_dead_heads_channels_and_states_go(name: str, seed: int) -> None:
    """Of Mamba-2 and attention: the logits stay, and as much goes as may."""
    config, generator = FAMILIES[name], torch.Generator().manual_seed(seed)
    checkpoint, expected = random_checkpoint(config), {}
    for number, layer in enumerate(config.layers):
        for part in layer.parts():
            where = f"{number}.{part.name}"
            if isinstance(part.block, Mamba2Config):
                expected[where] = close_mamba2(checkpoint.tensors, where, part.block, generator)
            elif isinstance(part.block, AttentionConfig):
                expected[where] = close_attention(checkpoint.tensors, where, part.block, generator)
    smaller, tensors = dead_channels.remove(config, checkpoint.tensors)
    for where, sizes in expected.items():
        number, part_name = where.split(".")
        block = getattr(smaller.layers[int(number)], part_name)
        if isinstance(block, Mamba2Config):
            block = replace(block, norm_eps=1.0)
        assert block == sizes
    check_same(checkpoint, smaller, tensors)
    assert dead_channels.remove(smaller, tensors)[0] == smaller


def test_what_the_norm_counts_stays() -> None:
    """An unread channel is in the mean of Mamba-2's norm; so is a closed gate's before the gate."""
    config = MAMBA_SSM["Mamba2, gate last"]
    tensors = random_checkpoint(config).tensors
    tensors[PART.format("0.mixer", "out_proj.weight")][:, :5] = 0
    zero(tensors, "1.mixer", "in_proj.weight", list(range(5)))
    assert dead_channels.live_parts(config, tensors) == ({"mixer": {}}, {"mixer": {}})


def test_a_bias_of_the_convolution_keeps_its_channel() -> None:
    """silu(bias) goes into the state, though the row of x is empty: of a head of each group."""
    config = FAMILIES["mamba2"]
    tensors = random_checkpoint(config).tensors
    heads = [row for first in (0, 20, 40) for row in range(first, first + 10)]
    zero(tensors, "0.mixer", "in_proj.weight", [60 + row for row in heads])
    assert dead_channels.live_parts(config, tensors)[0] == {"mixer": {}}
    zero(tensors, "0.mixer", "conv1d.bias", heads)
    assert dead_channels.live_parts(config, tensors)[0]["mixer"]["heads"].tolist() == [1, 3, 5]


@pytest.mark.parametrize("dbc_norm_eps", (None, 0.1))
def test_states_of_mamba_1_without_b_or_c_go(dbc_norm_eps: float | None) -> None:
    """Not those of FalconMamba, whose norms count them."""
    config = mamba1_config(
        1, d_model=20, vocab_size=61, d_inner=8, d_state=5, dt_rank=3, dbc_norm_eps=dbc_norm_eps
    )
    checkpoint = random_checkpoint(config)
    zero(checkpoint.tensors, "0.mixer", "x_proj.weight", [3 + 1, 3 + 5 + 4])  # B of 1, C of 4
    smaller, tensors = dead_channels.remove(config, checkpoint.tensors)
    assert tensors[PART.format("0.mixer", "A_log")].shape == (8, 5 if dbc_norm_eps else 3)
    check_same(checkpoint, smaller, tensors)


def test_the_graph_of_what_is_left_is_its_definition(library: Path, tmp_path: Path) -> None:
    """With and without the op library, odd sizes, and layers that differ."""
    config = hybrid(attention(qkv_bias=True), GatedMlpConfig(d_intermediate=11))
    checkpoint, generator = random_checkpoint(config), torch.Generator().manual_seed(3)
    for number in (0, 2):
        mixer = config.layers[number].mixer
        assert isinstance(mixer, Mamba2Config)
        close_mamba2(checkpoint.tensors, f"{number}.mixer", mixer, generator)
    checkpoint.tensors[PART.format("1.mixer", "out_proj.weight")][:, :12] = (
        0  # a group of two heads
    )
    smaller, tensors = dead_channels.remove(config, checkpoint.tensors)
    assert all(removed_channels(config, smaller))
    check_graph(pack_model(smaller, tensors, PackSettings(values=Values.FP32)), library, tmp_path)


def check_same(
    checkpoint: Checkpoint, smaller: ModelConfig, tensors: dict[str, torch.Tensor]
) -> None:
    tokens = draw_tokens(smaller, 2, 13)
    with torch.no_grad():
        expected = Mamba.from_checkpoint(checkpoint)(tokens)[0]
        twin = replace(checkpoint, config=smaller, tensors=tensors)
        got = Mamba.from_checkpoint(twin)(tokens)[0]
    assert_close(got, expected, tolerances.REFERENCE_LOGITS, "logits")
