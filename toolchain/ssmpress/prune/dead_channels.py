"""Channels that pruning left without a way to the output: removed, exactly.

A channel of a mixer reaches the output by out_proj, through its gate, and by x_proj, which makes
delta, B and C of all channels from it. Where both ways are closed, the channel's rows of in_proj
and dt_proj, its convolution, its state and its columns can go: smaller matrices, scan and state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ssmpress.checkpoint.config import ModelConfig

Tensors = Mapping[str, torch.Tensor]

_ROWS = ("conv1d.weight", "conv1d.bias", "dt_proj.weight", "dt_proj.bias", "A_log", "D")
_ROWS_OF_BOTH_HALVES = ("in_proj.weight", "in_proj.bias")  # x, then the gate z
_COLUMNS = ("x_proj.weight", "out_proj.weight")


def live_channels(config: ModelConfig, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    """Of every layer the channels that can change an output, int64, ascending; one at least.

    Args:
        tensors: pruned weights by canonical name.
    """
    return tuple(_live(config, tensors, layer) for layer in range(config.n_layer))


def _live(config: ModelConfig, tensors: Tensors, layer: int) -> torch.Tensor:
    mixer = _mixer(layer)
    gate_closed = (tensors[mixer + "in_proj.weight"][config.d_inner :] == 0).all(1)  # silu(0) = 0
    bias = tensors.get(mixer + "in_proj.bias")
    if bias is not None:
        gate_closed &= bias[config.d_inner :] == 0
    silent = gate_closed | (tensors[mixer + "out_proj.weight"] == 0).all(0)
    unread = (tensors[mixer + "x_proj.weight"] == 0).all(0)
    live = torch.nonzero(~(silent & unread))[:, 0]
    return live if len(live) else torch.zeros(1, dtype=torch.int64)


def remove(config: ModelConfig, tensors: Tensors) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """The model without its dead channels: `channels` in its configuration, and fewer weights.

    The same outputs for finite activations. With int8 activations a token's scale, taken from its
    largest one, no longer counts channels that nothing reads.

    Args:
        tensors: pruned weights by canonical name; not changed.
    """
    live = live_channels(config, tensors)
    smaller = dict(tensors)
    channels = tuple(len(kept) for kept in live)
    if all(count == config.d_inner for count in channels):
        return config, smaller
    for layer, kept in enumerate(live):
        mixer = _mixer(layer)
        both = torch.cat([kept, kept + config.d_inner])
        for name in _ROWS:
            _select(smaller, mixer + name, 0, kept)
        for name in _ROWS_OF_BOTH_HALVES:
            _select(smaller, mixer + name, 0, both)
        for name in _COLUMNS:
            _select(smaller, mixer + name, 1, kept)
    return replace(config, channels=channels), smaller


def _select(tensors: dict[str, torch.Tensor], name: str, axis: int, kept: torch.Tensor) -> None:
    if name in tensors:  # the biases are optional
        tensors[name] = tensors[name].index_select(axis, kept)


def _mixer(layer: int) -> str:
    return f"backbone.layers.{layer}.mixer."
