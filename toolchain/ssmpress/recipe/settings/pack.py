"""How the kept weights are stored."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from ssmpress.formats import Values
from ssmpress.recipe.option import (
    Option,
    Panel,
    check_settings,
)


class Head(StrEnum):
    """How the head's weights are stored, and a tied embedding's. `AUTO`: 4 bits beside an int8
    body, which cost 0.6 % of a 70 % mamba-31m's perplexity; else like the body.
    """

    AUTO = "auto"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True)
class PackSettings:
    """How the kept weights are stored. int8 and int4 also quantise the activations, per token."""

    values: Annotated[
        Values,
        Option(
            "Type of the stored weights; int8 quantises the activations too. Several, such as "
            "int8,fp16, are all made and compared.",
            Panel.BUNDLE,
            swept=True,
        ),
    ] = Values.INT8
    head: Annotated[
        Head,
        Option(
            "Type of the head's weights, which a tied embedding shares. auto: 4 bits beside int8, "
            "else as --values.",
            Panel.BUNDLE,
        ),
    ] = Head.AUTO
    keep_dead_channels: Annotated[
        bool,
        Option(
            "Keep channels that pruning left without a way to the output; removing them is exact.",
            Panel.BUNDLE,
        ),
    ] = False

    def __post_init__(self) -> None:
        check_settings(self)

    def head_values(self) -> Values:
        """Type of the head's weights."""
        if self.head is not Head.AUTO:
            return Values(self.head)
        return Values.INT4 if self.values is Values.INT8 else self.values
