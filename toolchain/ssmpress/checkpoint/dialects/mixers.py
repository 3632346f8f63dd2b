"""The mixers that a model has, of some kinds."""

from __future__ import annotations

from typing import TypeVar

from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.facts import BlockConfig

_Mixer = TypeVar("_Mixer", bound=BlockConfig)


def mixers_of(config: ModelConfig, *kinds: type[_Mixer]) -> list[_Mixer]:
    """The mixers of these classes, equal ones once, in the order of the layers."""
    mixers = dict.fromkeys(layer.mixer for layer in config.layers)
    return [mixer for mixer in mixers if isinstance(mixer, kinds)]
