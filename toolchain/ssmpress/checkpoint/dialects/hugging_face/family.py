"""What every family of Hugging Face's models answers: the Protocol of the modules beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from ssmpress.blocks.config import ModelConfig
from ssmpress.checkpoint.dialects.json_reader import JsonReader


class Family(Protocol):
    """How one or several values of `model_type` are spelled.

    TYPES: those values. KEYS: field of a configuration -> its key in config.json, where that is
        another word.
    """

    TYPES: tuple[str, ...]
    KEYS: Mapping[str, str]

    def parse(self, reader: JsonReader) -> ModelConfig:
        """Read the object of a config.json; see `Dialect.parse`."""
        ...

    def problem(self, config: ModelConfig) -> str:
        """Why the family cannot say this configuration; empty if it can."""
        ...

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """What `parse` reads back and transformers loads, without what all families have."""
        ...

    def arranged(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of a weight file under canonical names, prefixes of wrappers before them."""
        ...

    def spelled(
        self, tensors: Mapping[str, torch.Tensor], config: ModelConfig
    ) -> dict[str, torch.Tensor]:
        """The inverse of `arranged`."""
        ...
