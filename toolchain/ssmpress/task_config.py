"""What a model is for: the `task` block of config.json. No torch, no NumPy.

Without a block a checkpoint is a language model. The other two share its backbone and have a head
of their own; what their inputs mean is in the block, so that a checkpoint and a bundle carry it:

    {"kind": "classification", "classes": ["negative", "positive"], "pooling": "mean",
     "max_length": 4096}

    {"kind": "forecast", "lookback": 96, "horizon": 96, "variates": ["load", "oil"],
     "mean": [7.4, 13.3], "std": [7.1, 8.6], "patch": 16, "stride": 8,
     "normalisation": "instance"}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from ssmpress.errors import BadInputError

INSTANCE_EPS = 1e-5
"""Added to the variance of a window before the root: a constant window has none."""
LIMIT = 1 << 20
"""Largest length, and most classes or variates, that a block may name."""


class Kind(StrEnum):
    """What the model predicts."""

    LANGUAGE_MODEL = "language-model"
    CLASSIFICATION = "classification"
    FORECAST = "forecast"


@dataclass(frozen=True, kw_only=True)
class Task:
    """The task of a model; checked when built.

    kind: language models have no other field.
    classes: labels by the order of the logits, at least 2, each once.
    pooling: what the head sees of a text: the mean of all positions, or the last one.
    max_length: tokens; of a longer text the first so many are used.
    lookback, horizon: time steps that are read and predicted.
    variates: names of the columns, each once. The model forecasts each by itself, with the same
        weights.
    mean, std: of each variate over the training part; inputs and forecasts are (x - mean) / std.
    patch, stride: time steps per token and between the starts of two tokens.
    normalisation: "instance" subtracts each window's mean and divides by its standard deviation
        before the model, and undoes it after; "none".

    Raises:
        BadInputError: a field is out of its range, or belongs to another kind.
    """

    kind: Kind = Kind.LANGUAGE_MODEL
    classes: tuple[str, ...] = ()
    pooling: str = "mean"
    max_length: int = 0
    lookback: int = 0
    horizon: int = 0
    variates: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    patch: int = 0
    stride: int = 0
    normalisation: str = "instance"

    def __post_init__(self) -> None:
        if self.kind is Kind.CLASSIFICATION:
            _names(self, "classes", least=2)
            _choice(self, "pooling", ("mean", "last"))
            _integer(self, "max_length")
        elif self.kind is Kind.FORECAST:
            self._check_forecast()

    def _check_forecast(self) -> None:
        for name in ("lookback", "horizon", "patch", "stride"):
            _integer(self, name)
        _names(self, "variates", least=1)
        _choice(self, "normalisation", ("instance", "none"))
        for name in ("mean", "std"):
            values = getattr(self, name)
            good = all(_is_number(x) and (name == "mean" or x > 0) for x in values)
            if len(values) != len(self.variates) or not good:
                wanted = "finite" if name == "mean" else "positive finite"
                raise _error(
                    name, f"{len(self.variates)} {wanted} numbers, one per variate", values
                )
        if self.patch > self.lookback or (self.lookback - self.patch) % self.stride:
            raise _error(
                "patch", f"patches of {self.patch} every {self.stride} steps that end with the "
                "lookback", f"lookback {self.lookback}",
            )  # fmt: skip

    @property
    def patches(self) -> int:
        """Tokens that one variate's window becomes."""
        return (self.lookback - self.patch) // self.stride + 1

    @property
    def outputs(self) -> int:
        """Rows of the head: a logit per class, or a value per time step of the horizon."""
        return len(self.classes) if self.kind is Kind.CLASSIFICATION else self.horizon

    def to_dict(self) -> dict[str, Any]:
        """The block, with the fields of its kind; tuples as lists."""
        values = {name: getattr(self, name) for name in _FIELDS[self.kind]}
        return {"kind": str(self.kind)} | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Any) -> Task:
        """The inverse of to_dict.

        Raises:
            BadInputError: it is no object, a field is unknown, missing, or out of range.
        """
        if not isinstance(values, Mapping):
            raise BadInputError(f"task: expected an object; got {_short(values)}.")
        kinds = [str(kind) for kind in Kind]
        if values.get("kind") not in kinds:
            raise _error("kind", " or ".join(kinds), values.get("kind"))
        kind = Kind(values["kind"])
        names = _FIELDS[kind]
        if unknown := sorted(set(values) - {"kind", *names}):
            raise _error(ascii(unknown[0])[1:-1], f"no such field in a {kind}", "one")
        if missing := [name for name in names if name not in values]:
            raise _error(missing[0], f"this field of a {kind}", "nothing")
        plain = {name: _tuple(name, values[name]) for name in names}
        return cls(kind=kind, **plain)


_FIELDS: dict[Kind, tuple[str, ...]] = {
    Kind.LANGUAGE_MODEL: (),
    Kind.CLASSIFICATION: ("classes", "pooling", "max_length"),
    Kind.FORECAST: (
        "lookback", "horizon", "variates", "mean", "std", "patch", "stride", "normalisation",
    ),
}  # fmt: skip
_LISTS = {field.name for field in fields(Task) if field.default == ()}


def _tuple(name: str, value: Any) -> Any:
    if name not in _LISTS:
        return value
    if not isinstance(value, list | tuple):
        raise _error(name, "a list", value)
    return tuple(value)


def _integer(task: Task, name: str) -> None:
    value = getattr(task, name)
    if type(value) is not int or not 1 <= value <= LIMIT:
        raise _error(name, f"an integer from 1 to {LIMIT}", value)


def _choice(task: Task, name: str, choices: tuple[str, ...]) -> None:
    if getattr(task, name) not in choices:
        raise _error(name, " or ".join(choices), getattr(task, name))


def _names(task: Task, name: str, least: int) -> None:
    values = getattr(task, name)
    good = all(isinstance(value, str) and value for value in values)
    if not good or not least <= len(values) <= LIMIT or len(set(values)) < len(values):
        raise _error(name, f"at least {least} different names", list(values))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _error(field: str, expected: str, got: object) -> BadInputError:
    return BadInputError(
        f"task.{field[:60]}: expected {expected}; got {_short(got)}. "
        "Correct config.json, or take the one that came with the weights."
    )
