"""The vocabulary of packed-matrix formats: structure of the mask, type of the values, op names.

`docs/sparse_format.md` specifies every format byte by byte. Symbols: r rows (output features),
c columns (input features).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Values(StrEnum):
    """Type of the stored weights. `INT8` and `INT4` also quantise the activations, per token."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def quantizes_activations(self) -> bool:
        """Whether products are sums of integers."""
        return self in (Values.INT8, Values.INT4)


class Structure(StrEnum):
    """How the positions of the stored weights are encoded."""

    DENSE = "dense"
    BITMASK = "bitmask"
    WINDOW = "window"


@dataclass(frozen=True)
class Format:
    """One packed-matrix format = one op name and version; `pack/layouts/` has its layout."""

    structure: Structure
    values: Values
    version: int = 1

    @property
    def name(self) -> str:
        """Name in reports and manifests, for example `bitmask-int8`."""
        return f"{self.structure}-{self.values}"

    @property
    def op_type(self) -> str:
        """ONNX op type, for example `BitmaskLinearInt8`."""
        return f"{self.structure.capitalize()}Linear{self.values.capitalize()}"


SECTION_ALIGNMENT = 64
"""Bytes. Every packed section starts on, and is padded with zeros to, a multiple of this."""

SIZE_LIMIT = 1 << 24
"""Largest vocabulary, or size of a state, of a bundle: no real model comes near, and one beyond it
is damage. `runtimes/runner/model/fields.h` has the same."""

CONFIG_KEY = "ssmpress.config"
"""Metadata entry of an exported model: its configuration as JSON."""

END_TOKENS_KEY = "end_tokens"
"""Entry of that object: the tokens after which a text is over. None where it is absent."""

END_TOKEN_LIMIT = 256
"""Most of them; a model has a handful. `runtimes/runner/model/fields.h` has the same."""

PLAN_BYTES = 2_000_000_000
"""Bytes of weight files that a plan reads to the last value."""
