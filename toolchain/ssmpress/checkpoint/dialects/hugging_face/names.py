"""Tensors under other names, and joined."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

Renames = Mapping[str, str]
"""Part of a foreign name -> of the canonical one, both whole words between dots, the first that
fits."""

Joins = Mapping[str, Sequence[str]]
"""Module -> modules whose rows, one after the other, are its own, all named within their layer."""


def rename(name: str, names: Renames) -> str:
    """The name with every part of it replaced once."""
    parts = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![^.])(?:{parts})(?![^.])", lambda found: names[found[0]], name)


def renamed(tensors: Mapping[str, torch.Tensor], names: Renames) -> dict[str, torch.Tensor]:
    """The tensors under `rename`d names."""
    return {rename(name, names): tensor for name, tensor in tensors.items()}


def joined(tensors: Mapping[str, torch.Tensor], joins: Joins) -> dict[str, torch.Tensor]:
    """The tensors with the parts of each join made one; parts that do not fit stay as they are."""
    result = dict(tensors)
    for whole, parts in joins.items():
        for kind in ("weight", "bias"):
            first = f".{parts[0]}.{kind}"
            for name in [name for name in result if name.endswith(first)]:
                layer = name.removesuffix(first)
                own = [f"{layer}.{part}.{kind}" for part in parts]
                found = [result[part] for part in own if part in result]
                alike = {(t.dtype, t.layout, t.dim(), t.shape[1:]) for t in found}
                if len(found) == len(own) and len(alike) == 1 and found[0].dim() in (1, 2):
                    result[f"{layer}.{whole}.{kind}"] = torch.cat(found)
                    for part in own:
                        del result[part]
    return result


def separated(
    tensors: Mapping[str, torch.Tensor], parts: Mapping[str, Mapping[str, int]]
) -> dict[str, torch.Tensor]:
    """The inverse of `joined`.

    Args:
        tensors: by canonical name.
        parts: canonical name of a whole module -> of each of its parts the name within the layer
            and the rows, in their order.
    """
    result: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module not in parts:
            result[name] = tensor
            continue
        layer = ".".join(module.split(".")[:3])  # backbone.layers.3
        pieces = torch.split(tensor, list(parts[module].values()))
        for part, piece in zip(parts[module], pieces, strict=True):
            result[f"{layer}.{part}.{kind}"] = piece.clone()
    return result
