"""Which architecture a checkpoint was taken for, and what says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """name: such as Mamba-1. evidence: a clause, what says so. assumed: nothing but the names and
    shapes of the tensors does, which others may share."""

    name: str
    evidence: str
    assumed: bool = False

    def __str__(self) -> str:
        return f"{self.name}{', assumed' if self.assumed else ''}: {self.evidence}"


ASSUMED_MAMBA2 = Architecture(
    "Mamba-2",
    "its tensors have the names and shapes, and there is no config.json; how many groups share B "
    "and C, the norm's place and the limits of dt no tensor shows: they are taken as 1 group, a "
    "norm of the gated values and no limits; if that is not so, put its config.json beside the "
    "weights",
    assumed=True,
)
"""Of a state dict by itself with Mamba-2's names."""

ASSUMED = Architecture(
    "Mamba-1",
    "its tensors have the names and shapes, and there is no config.json; FalconMamba has exactly "
    "the same, and norms of dt, B and C that no tensor shows: if it is one, put its config.json "
    "beside the weights",
    assumed=True,
)
"""Of a state dict by itself with Mamba-1's names."""


def configured(values: Mapping[str, Any], name: str) -> Architecture:
    """What a config.json says that was read without an error.

    Args:
        values: its object. name: what it was read as.
    """
    if "model_type" in values:
        said = f"model_type {values['model_type']!r}"
    elif isinstance(layer := (values.get("ssm_cfg") or {}).get("layer"), str):
        said = f"ssm_cfg.layer {layer!r}"
    else:
        said = "no model_type and no ssm_cfg.layer, without which it is Mamba1"
    return Architecture(name, f"config.json has {said}")
