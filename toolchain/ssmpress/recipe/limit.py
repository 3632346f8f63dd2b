"""A limit of the gate: a number, or a multiple of the baseline's value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssmpress.recipe.option import Check, Typed


@dataclass(frozen=True)
class Relative:
    """A limit as a multiple of the baseline's value: 1.05 is written `1.05x`."""

    factor: float

    def __str__(self) -> str:
        return f"{self.factor:g}x"


Limit = float | Relative


def _in_range(limit: Limit) -> bool:
    value = limit.factor if isinstance(limit, Relative) else limit
    return math.isfinite(value) and 0 <= value <= 1e15


def _written(limit: Any) -> str:
    """The text of a limit, or of what JSON makes of one.

    None is the limit that every value keeps, since an option that is left out has its default.
    """
    if isinstance(limit, Mapping):
        return f"{limit['factor']:g}x"
    return "0" if limit is None else str(limit)


LIMIT_CHECK = Check(_in_range, "a number of at least 0")
# gate/policy.py reads it, together with those of a policy file.
LIMIT_TYPED = Typed(lambda _, text: text, _written)
LIMIT_METAVAR = "NUMBER|FACTORx"
