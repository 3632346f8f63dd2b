"""Mamba-2 mixers as the families of Hugging Face's spell their sizes."""

from __future__ import annotations

from typing import Any

from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.checkpoint.dialects.json_reader import JsonReader


def hybrids_mixer(
    reader: JsonReader, heads: int, d_inner: int, said_by: str, **own: Any
) -> Mamba2Config:
    """Of Bamba, Granite and Falcon-H1, whose keys begin with `mamba_`.

    Args:
        heads, d_inner: channels of all heads, as the key `said_by` says. own: fields of the family.

    Raises:
        BadInputError: a key has a wrong type or value.
    """
    sizes = Mamba2Config.limits
    width = d_inner // heads
    if reader.values.get("mamba_d_head", "auto") != "auto":
        width = reader.integer("mamba_d_head", limit=sizes["head_dim"])
    if width * heads != d_inner:
        raise reader.fail("mamba_d_head", f"{d_inner} channels / {heads} heads, as {said_by} says")
    groups = reader.integer("mamba_n_groups", 1, sizes["n_groups"])
    low, high = reader.limits("time_step_limit")
    return Mamba2Config(
        heads=heads,
        head_dim=width,
        d_state=reader.integer("mamba_d_state", 256, sizes["d_state"]),
        n_groups=groups,
        norm_groups=groups,
        d_conv=reader.integer("mamba_d_conv", 4, sizes["d_conv"]),
        conv_bias=reader.boolean("mamba_conv_bias", True),
        dt_min=low,
        dt_max=high,
        **own,
    )


def plain_mixer(
    reader: JsonReader, eps: float, heads: str, head_dim: str, d_state: str
) -> Mamba2Config:
    """Of Mamba-2 and Nemotron-H.

    Args:
        eps: of its norm. heads, head_dim, d_state: the family's keys.

    Raises:
        BadInputError: a key has a wrong type or value.
    """
    sizes = Mamba2Config.limits
    groups = reader.integer("n_groups", 8, sizes["n_groups"])
    low, high = reader.limits("time_step_limit")
    return Mamba2Config(
        heads=reader.integer(heads, 128, sizes["heads"]),
        head_dim=reader.integer(head_dim, 64, sizes["head_dim"]),
        d_state=reader.integer(d_state, 128, sizes["d_state"]),
        n_groups=groups,
        norm_groups=groups,
        d_conv=reader.integer("conv_kernel", 4, sizes["d_conv"]),
        conv_bias=reader.boolean("use_conv_bias", True),
        proj_bias=reader.boolean("use_bias", False),
        norm_eps=eps,
        dt_min=low,
        dt_max=high,
    )
