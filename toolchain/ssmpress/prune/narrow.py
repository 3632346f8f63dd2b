"""A model of some of its parts: fewer channels, heads or states in some of its blocks.

Which numbers of which size stay is said by whoever asks; their rows and columns are found in every
tensor by the names of its axes: smaller matrices, scan and state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.tensors import TensorSpec, layer_name, tensor_specs

Tensors = Mapping[str, torch.Tensor]
Kept = Mapping[str, torch.Tensor]
"""Name of a size -> the numbers that stay, of the sizes that lose some; see `BlockConfig.live`."""


def narrow(
    config: ModelConfig, tensors: Tensors, kept: Sequence[Mapping[str, Kept]]
) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """The model of what stays.

    Args:
        tensors: by canonical name; not changed. kept: of every layer, by part (`mixer`).
    """
    smaller, specs = dict(tensors), tensor_specs(config)
    layers = []
    for number, (layer, by_part) in enumerate(zip(config.layers, kept, strict=True)):
        blocks = {}
        for part in layer.parts():
            if stays := by_part.get(part.name):
                blocks[part.name], factors = part.block.narrowed(stays)
                for own in part.block.tensors():
                    name = layer_name(number, f"{part.name}.{own}")
                    if name in smaller:
                        chosen = _select(smaller[name], specs[name], stays)
                        smaller[name] = chosen * factors[own] if own in factors else chosen
        layers.append(layer.with_blocks(blocks))
    return replace(config, layers=tuple(layers)), smaller


def _select(tensor: torch.Tensor, spec: TensorSpec, kept: Kept) -> torch.Tensor:
    """What stays of a tensor: of every size in `kept`, wherever it is part of an axis."""
    for axis, sizes in enumerate(spec.axes):
        if set(sizes) & set(kept):
            numbers = torch.cat([kept_of + begin for kept_of, begin in _parts(spec, sizes, kept)])
            tensor = tensor.index_select(axis, numbers.to(tensor.device))
    return tensor


def _parts(spec: TensorSpec, sizes: Sequence[str], kept: Kept) -> list[tuple[torch.Tensor, int]]:
    """Of each size of an axis the numbers that stay, and where it begins."""
    parts, begin = [], 0
    for size in sizes:
        length = spec.size(size)
        parts.append((kept.get(size, torch.arange(length)), begin))
        begin += length
    return parts


def removed_channels(before: ModelConfig, after: ModelConfig) -> tuple[int, ...]:
    """How many channels went from each layer."""
    return tuple(
        _channels(layer) - _channels(left)
        for layer, left in zip(before.layers, after.layers, strict=True)
    )


def _channels(layer: LayerConfig) -> int:
    return sum(part.block.channels for part in layer.parts())
