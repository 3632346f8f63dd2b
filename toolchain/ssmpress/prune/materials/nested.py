"""Nests of mappings, tuples and lists, as a network of one's own takes and returns them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The nest with every value in it changed: whatever is no mapping, tuple or list."""
    if isinstance(value, Mapping):
        items = {key: mapped(item, change) for key, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, tuple | list):
        parts = [mapped(item, change) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return change(value)


def leaves(value: Any) -> Iterator[Any]:
    """What a nest holds, in order."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def on_device(value: Any, device: torch.device) -> Any:
    """The nest with its tensors on a device, and all else as it is."""
    return mapped(value, lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf)
