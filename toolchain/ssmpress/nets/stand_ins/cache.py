"""The states that mamba_ssm's blocks keep in its `InferenceParams`."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def states_of(
    block: Any, inference_params: Any, batch_size: int, fresh: bool
) -> tuple[Tensor, Tensor]:
    """A block's two states; zeros that are put there, where it has none yet.

    fresh: set them to zero.
    """
    assert block.layer_idx is not None, "layer_idx: a block with a cache has a number."
    memory = inference_params.key_value_memory_dict
    if block.layer_idx not in memory:
        memory[block.layer_idx] = block.allocate_inference_cache(batch_size, 0)
    states: tuple[Tensor, Tensor] = memory[block.layer_idx]
    if fresh:
        for state in states:
            state.zero_()
    return states
