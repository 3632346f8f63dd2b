"""What pruning left without a way to the output: removed, exactly.

Which parts of a block those are, a channel of a mixer or a head of an attention for example, the
block says: `live` in its own file.
"""

from __future__ import annotations

import torch

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.tensors import layer_name
from ssmpress.prune.narrow import Kept, Tensors, narrow


def live_parts(config: ModelConfig, tensors: Tensors) -> tuple[dict[str, Kept], ...]:
    """What can change an output of every layer's blocks, by part (`mixer`).

    Args:
        tensors: pruned weights by canonical name.
    """
    return tuple(_live(layer, number, tensors) for number, layer in enumerate(config.layers))


def _live(layer: LayerConfig, number: int, tensors: Tensors) -> dict[str, Kept]:
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
    return narrow(config, tensors, live_parts(config, tensors))
