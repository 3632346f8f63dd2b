"""What pruning left without a way to the output: removed, exactly.

Which parts of a block those are, a channel of a mixer for example, the block says: `live` in its
own file. Their rows and columns go from every tensor of it, by the names of the tensors' axes:
smaller matrices, scan and state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.facts import BlockConfig
from ssmpress.blocks.tensors import TensorSpec, layer_name, tensor_specs

Tensors = Mapping[str, torch.Tensor]
Live = Mapping[str, torch.Tensor]
"""Name of a size -> the numbers that stay; see `BlockConfig.live`."""


def live_parts(config: ModelConfig, tensors: Tensors) -> tuple[dict[str, Live], ...]:
    """What can change an output of every layer's blocks, by part (`mixer`).

    Args:
        tensors: pruned weights by canonical name.
    """
    return tuple(_live(layer, number, tensors) for number, layer in enumerate(config.layers))


def _live(layer: LayerConfig, number: int, tensors: Tensors) -> dict[str, Live]:
    live = {}
    for part in layer.parts():
        names = {name: layer_name(number, f"{part.name}.{name}") for name in part.block.tensors()}
        weights = {own: tensors[name] for own, name in names.items() if name in tensors}
        live[part.name] = part.block.live(weights)
    return live


def remove(config: ModelConfig, tensors: Tensors) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """The model without its dead parts: smaller blocks, and fewer weights.

    The same outputs for finite activations. With int8 activations a token's scale, taken from its
    largest one, no longer counts channels that nothing reads.

    Args:
        tensors: pruned weights by canonical name; not changed.
    """
    live = live_parts(config, tensors)
    smaller = dict(tensors)
    layers = []
    for number, (layer, by_part) in enumerate(zip(config.layers, live, strict=True)):
        prefixes = {layer_name(number, f"{part}."): kept for part, kept in by_part.items() if kept}
        for name, spec in tensor_specs(config).items() if prefixes else ():
            kept = next((k for prefix, k in prefixes.items() if name.startswith(prefix)), None)
            if kept is not None:
                smaller[name] = _select(smaller[name], spec, kept)
        blocks = {part.name: _smaller(part.block, by_part[part.name]) for part in layer.parts()}
        layers.append(layer.with_blocks(blocks))
    return replace(config, layers=tuple(layers)), smaller


def _smaller(block: BlockConfig, kept: Live) -> BlockConfig:
    sizes = {name: len(numbers) for name, numbers in kept.items()}
    changed: Any = block
    result: BlockConfig = replace(changed, **sizes) if sizes else block
    return result


def _select(tensor: torch.Tensor, spec: TensorSpec, kept: Live) -> torch.Tensor:
    """What stays of a tensor: of every size in `kept`, wherever it is part of an axis."""
    for axis, sizes in enumerate(spec.axes):
        if not set(sizes) & set(kept):
            continue
        begin, numbers = 0, []
        for size in sizes:
            length = spec.size(size)
            numbers.append(begin + kept.get(size, torch.arange(length)))
            begin += length
        tensor = tensor.index_select(axis, torch.cat(numbers))
    return tensor


def removed_channels(before: ModelConfig, after: ModelConfig) -> tuple[int, ...]:
    """How many channels `remove` took from each layer."""
    return tuple(
        _channels(layer) - _channels(left)
        for layer, left in zip(before.layers, after.layers, strict=True)
    )


def _channels(layer: LayerConfig) -> int:
    return sum(part.block.channels for part in layer.parts())
