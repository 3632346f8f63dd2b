"""Which tensors of a file are a module's: found by how many names and shapes fit.

A file's names differ from the module's by what wrappers put before them, in any order and nesting
(`module.`, `model.`, `base_model.model.`, `ema_model.`), by what they put between (`_orig_mod.`),
or by what the module itself has before the names of a file that was saved inside of it. Every
beginning of a file's names is tried; the one under which most of the module is found wins.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ssmpress.checkpoint.contents import Model
from ssmpress.checkpoint.pickle_values import StoredTensor

_START = r"(?:(?<=^)|(?<=\.))"
_BETWEEN = re.compile(
    _START + r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
_DATA_PARALLEL = re.compile(_START + r"module\.")
_PART = re.compile(r"parametrizations\.(?P<of>\w+)\.(original[01]?|0\.(mask|_u|_v))$")
_OLD_PART = re.compile(r"(?<=\w)_(orig|mask|g|u|v)$")
_ADAPTER = re.compile(r"\.base_layer(?=\.)|\.modules_to_save\.[^.]+(?=\.)|\.original_module(?=\.)")
_NORMS = (  # weight_norm's two ways to name the same two tensors
    (re.compile(r"(\w+)_g$"), r"parametrizations.\1.original0"),
    (re.compile(r"(\w+)_v$"), r"parametrizations.\1.original1"),
    (re.compile(r"parametrizations\.(\w+)\.original0$"), r"\1_g"),
    (re.compile(r"parametrizations\.(\w+)\.original1$"), r"\1_v"),
)
_LEVELS = 16  # parts of a name that are tried as a beginning
_TRIED = 8  # beginnings of one file that are looked at closely


def plain(name: str, *, data_parallel: bool = False) -> str:
    """A name without what wrappers put into it; data_parallel: nor `module.`, wherever it is."""
    name = _BETWEEN.sub("", name.replace("/", "."))
    return _DATA_PARALLEL.sub("", name) if data_parallel else name


def whole_name(name: str) -> str:
    """The name of the weight that a part is of: of `a.weight_g`, of `a.base_layer.weight`."""
    name = _ADAPTER.sub("", name)
    new = _PART.sub(lambda found: found["of"], name)
    return new if new != name else _OLD_PART.sub("", name)


@dataclass(frozen=True)
class Wanted:
    """The tensors of a module that have to be in a file.

    shapes: by name. twins: other names of tied tensors -> the one that is in `shapes`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    twins: Mapping[str, str]

    def renamed(self, data_parallel: bool, inner: str = "") -> Wanted:
        """With plain names, without what is before all of them. May become fewer."""

        def new(name: str) -> str:
            return plain(name, data_parallel=data_parallel).removeprefix(inner)

        shapes = {new(name): shape for name, shape in self.shapes.items()}
        return Wanted(shapes, {new(other): new(name) for other, name in self.twins.items()})

    def called(self, name: str) -> str | None:
        """The wanted tensor that is stored under this name, whole."""
        if name in self.shapes:
            return name
        if name in self.twins:
            return self.twins[name]
        others = (pattern.sub(new, name) for pattern, new in _NORMS)
        return next((other for other in others if other in self.shapes), None)

    def part_of(self, name: str) -> str | None:
        """The wanted tensor that a part of is stored under this name."""
        whole = whole_name(name)
        return whole if whole in self.shapes else self.twins.get(whole)


@dataclass(frozen=True)
class Fit:
    """One reading of a file.

    model: where the tensors lie. prefix: what is before their names there. inner: what is before
    the names of the module. data_parallel: `module.` is taken out of both. wanted: the module's
    tensors by plain names without `inner`.
    """

    model: Model
    prefix: str
    inner: str
    data_parallel: bool
    wanted: Wanted

    @cached_property
    def _plain(self) -> dict[str, Any]:
        tensors = self.model.tensors.items()
        return {plain(n, data_parallel=self.data_parallel): tensor for n, tensor in tensors}

    @cached_property
    def stored(self) -> dict[str, Any]:
        """The tensors behind the prefix, under what is left of their names."""
        return {
            name.removeprefix(self.prefix): tensor
            for name, tensor in self._plain.items()
            if name.startswith(self.prefix)
        }

    @cached_property
    def outside(self) -> list[str]:
        """The other names of the model."""
        return [name for name in self._plain if not name.startswith(self.prefix)]

    @cached_property
    def _found(self) -> dict[str, list[Any]]:
        """Wanted names -> the tensor, or its parts."""
        found: dict[str, list[Any]] = {}
        for name, tensor in self.stored.items():
            whole = self.wanted.called(name)
            if whole is not None and getattr(tensor, "shape", None) not in (
                None,
                self.wanted.shapes[whole],
            ):
                continue
            whole = whole or self.wanted.part_of(name)
            if whole is not None:
                found.setdefault(whole, []).append(tensor)
        return found

    @property
    def score(self) -> int:
        """How many of the wanted tensors are there."""
        return len(self._found)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.score == len(self.wanted.shapes)

    @property
    def names(self) -> tuple[str, ...]:
        """What `--weights-of` may call it, the first in messages."""
        prefix = tuple(filter(None, self.prefix.split(".")))
        keys = self.model.keys
        texts = (
            ".".join(keys + prefix),
            ".".join(keys),
            ".".join(prefix),
            *keys[-1:],
            *prefix[-1:],
        )
        return tuple(dict.fromkeys(filter(None, texts)))

    @cached_property
    def places(self) -> frozenset[Any]:
        """Where its tensors lie: equal for two readings that find the same."""
        return frozenset(_place(tensor) for parts in self._found.values() for tensor in parts)

    def __str__(self) -> str:
        name = repr(self.names[0]) if self.names else "the file itself"
        return f"{name} ({self.score} of {len(self.wanted.shapes)} tensors)"


def _place(tensor: Any) -> Any:
    if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
        return tensor.data_ptr(), tuple(tensor.shape)
    if isinstance(tensor, StoredTensor):
        return tensor.record, tensor.offset, tensor.shape
    return id(tensor)


def fits(models: Iterable[Model], wanted: Wanted) -> list[Fit]:
    """Readings of a file's models, those that find most of the module first.

    Args:
        wanted: by the module's own names.

    Returns:
        At least one of each model; of those that find the same tensors, the plainest.
    """
    readings = [fit for model in models for fit in _readings(model, wanted)]
    readings.sort(key=lambda fit: -fit.score)  # stable
    different: dict[Any, Fit] = {}
    for fit in readings:
        different.setdefault(fit.places or fit.model.keys, fit)
    return list(different.values())


def _readings(model: Model, wanted: Wanted) -> list[Fit]:
    """With `module.` and without it, the best beginnings of the file's and the module's names."""
    readings = []
    for data_parallel in (False, True):
        if data_parallel and not any("module." in n for n in (*model.tensors, *wanted.shapes)):
            continue
        outer = wanted.renamed(data_parallel)
        stored = {plain(name, data_parallel=data_parallel) for name in model.tensors}
        if len(outer.shapes) < len(wanted.shapes) or len(stored) < len(model.tensors):
            continue  # two names become one
        for inner in _common_beginnings(outer.shapes):
            inside = wanted.renamed(data_parallel, inner)
            scores = _scores(stored, inside).most_common(_TRIED)
            good = [begin for begin, score in scores if 2 * score >= scores[0][1]]
            readings += [Fit(model, begin, inner, data_parallel, inside) for begin in good]
    return readings or [Fit(model, "", "", False, wanted)]


def _scores(stored: Iterable[str], wanted: Wanted) -> Counter[str]:
    """Beginning -> how many wanted tensors there are after it, whatever their shapes."""
    found = {
        (beginning, whole)
        for name in stored
        for beginning in _beginnings(name)
        for rest in (name[len(beginning) :],)
        for whole in (wanted.called(rest) or wanted.part_of(rest),)
        if whole is not None
    }
    return Counter(beginning for beginning, _ in sorted(found, key=_by_length))


def _by_length(pair: tuple[str, str]) -> tuple[int, str, str]:
    return len(pair[0]), *pair


def _beginnings(name: str) -> list[str]:
    """ "", "a.", "a.b." of a.b.c."""
    ends = [found.end() for found in re.finditer(r"\.", name[:2000])]
    return ["", *(name[:end] for end in ends[:_LEVELS])]


def _common_beginnings(names: Iterable[str]) -> list[str]:
    """What stands before all of the names; at least nothing."""
    first, *others = [*names] or [""]
    return [b for b in _beginnings(first) if all(name.startswith(b) for name in others)]
