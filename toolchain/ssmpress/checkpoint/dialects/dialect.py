"""What every dialect answers: the Protocol of the modules in this folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from ssmpress.blocks.config import ModelConfig


class Dialect(Protocol):
    """How one library spells a model: its config.json, its tensors' names, its weight file.

    NAME: such as mamba-ssm. WEIGHTS: name of the weight file that is written.
    """

    NAME: str
    WEIGHTS: str

    def speaks(self, values: Mapping[str, Any]) -> bool:
        """Whether the object of a config.json is in this dialect."""
        ...

    def parse(self, values: Mapping[str, Any], where: str) -> ModelConfig:
        """Read the object of a config.json.

        Raises:
            BadInputError: no such model can be run, or a key has a wrong type or value.
        """
        ...

    def keys(self, config: ModelConfig) -> Mapping[str, str]:
        """Field of this configuration -> its key in config.json, where that is another word."""
        ...

    def problem(self, config: ModelConfig) -> str:
        """Why the dialect cannot say this configuration; empty if it can."""
        ...

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """The config.json that `parse` reads back and the library loads; see `problem`."""
        ...

    def canonical(self, name: str) -> str:
        """The canonical name of a tensor where no config.json says more; of any other name, that
        name."""
        ...

    def arranged(
        self, tensors: Mapping[str, torch.Tensor], config: ModelConfig
    ) -> dict[str, torch.Tensor]:
        """The tensors of a weight file under canonical names, joined where this dialect has several
        for one of ours. Prefixes that wrappers put before all names stay.

        Args:
            tensors: of any shapes, with values of their own.
        """
        ...

    def spelled(
        self, tensors: Mapping[str, torch.Tensor], config: ModelConfig
    ) -> dict[str, torch.Tensor]:
        """What the weight file holds: tensors by the dialect's names.

        Args:
            tensors: by canonical name.
        """
        ...
