"""Which tensors of a file are the model: out of wrappers, beside optimisers, one of several."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from ssmpress.checkpoint.names import printable
from ssmpress.checkpoint.pickle_values import StandIn, StoredTensor
from ssmpress.checkpoint.weight_files import Described
from ssmpress.errors import BadInputError, UsageError

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_NO_MODEL = re.compile(r"optim|sched|scaler|rng|callbacks|loops|amp|grad", re.IGNORECASE)
"""Keys that training loops keep other things under, whose tensors may have a model's names."""

_BLOCK = re.compile(r"(^|[._])A_logs?$")
_EMBEDDING = re.compile(r"embed|wte", re.IGNORECASE)
_TENSOR_CLASS = re.compile(
    r"_rebuild\w*$|Tensor$|Params4bit$|Int8Params$|^numpy.*\._(reconstruct|frombuffer)$"
)
_DEPTH, _MODULES, _LONGEST = 4, 1 << 16, 1000  # the longest prefix of a name


@dataclass(frozen=True)
class Model:
    """The tensors of one model in a file.

    keys: that lead to it; none are the file itself. beside: what lies around it, by key.
    """

    keys: tuple[str, ...]
    tensors: dict[str, Any]
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What `--weights-of` calls it."""
        return ".".join(self.keys)

    def __str__(self) -> str:
        values = sum(prod(tensor.shape) for tensor in self.tensors.values() if _known(tensor))
        name = repr(printable(self.name)) if self.keys else "the file itself"
        return f"{name} ({len(self.tensors)} tensors, {values:,} values)"


@dataclass
class Contents:
    """What was found in a file: every set of tensors by name, and objects of other classes by
    where they lie. seen: objects that were looked at."""

    models: list[Model] = field(default_factory=list)
    objects: dict[str, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)


def contents_of(value: Any, path: Path) -> Contents:
    """All tensors by name in what `read_weights` or `read_shapes` returned.

    Raises:
        BadInputError: there are none.
    """
    search = Contents()
    _find(value, (), (), search)
    if not search.models:
        raise _nothing(value, path)
    return search


def choose_tensors(
    value: Any, path: Path, notes: list[str], weights_of: str | None
) -> dict[str, Any]:
    """The tensors of the model by their names in the file.

    Args:
        value: what `read_weights` or `read_shapes` returned.
        weights_of: which of several models; None where there is one.

    Raises:
        BadInputError: there are no tensors by name, or those of several models.
        UsageError: there is no model of the name.
    """
    search = contents_of(value, path)
    with_blocks = [m for m in search.models if any(map(_BLOCK.search, m.tensors))]
    options = [part for m in with_blocks or search.models for part in _copies(m)]
    chosen = _chosen(options if with_blocks else options[:1], search, path, weights_of)
    tell_place(chosen, search, value, notes)
    return chosen.tensors


def _chosen(options: list[Model], search: Contents, path: Path, weights_of: str | None) -> Model:
    if weights_of is not None:
        named = [m for m in [*options, *search.models] if weights_of in (m.name, *m.keys[-1:])]
        if not named:
            raise UsageError(
                f"--weights-of: expected one of the models in {path}, "
                f"{', '.join(map(str, options))}; got {weights_of!r}."
            )
        return named[0]
    if len(options) > 1:
        raise BadInputError(
            f"{path}: expected one model; got several: {', '.join(map(str, options))}. Say which: "
            f"--weights-of {printable(options[-1].name or options[0].name)}."
        )
    return options[0]


def tell_place(chosen: Model, search: Contents, value: Any, notes: list[str]) -> None:
    """Say where the tensors were, and what was left out."""
    if chosen.keys:
        place = ", ".join(repr(printable(key)) for key in chosen.keys)
        beside = ", ".join(map(printable, chosen.beside[:9]))
        notes.append(f"state dict found under {place}" + f"; not used: {beside}" * bool(beside))
    if objects := list(search.objects.items())[:5]:
        told = ", ".join(f"{printable(key)} ({printable(name)})" for key, name in objects)
        notes.append(f"objects of other classes, neither imported nor called: {told}")
    mapping = value if isinstance(value, dict) else {}
    ignored = [] if chosen.keys else [str(key)[:40] for key in mapping if key not in chosen.tensors]
    if ignored:
        notes.append(f"not tensors, left out: {', '.join(map(printable, ignored[:9]))}")


def _nothing(value: Any, path: Path) -> BadInputError:
    if not isinstance(value, dict | StandIn):
        return BadInputError(
            f"{path}: expected a state dict (name -> tensor); got "
            f"{'Tensor' if _known(value) else type(value).__name__}. Save model.state_dict()."
        )
    if isinstance(value, StandIn):
        got = f"an object of {printable(value.name)} without tensors"
    else:
        got = ", ".join(printable(str(key)[:40]) for key in list(value)[:5]) or "nothing"
    return BadInputError(
        f"{path}: expected tensors by name, or such a dict under "
        f"{', '.join(map(repr, _WRAPPERS))}; got {got}. Save model.state_dict()."
    )


def find_number(value: Any, name: str) -> float | None:
    """A number that lies under a name anywhere in what was saved, such as lora_alpha."""
    level, seen = [value], set[int]()
    for _ in range(_DEPTH):
        mappings = [_mapping(item) for item in level]
        found = next((m[name] for m in mappings if type(m.get(name)) in (int, float)), None)
        if found is not None:
            return float(found)
        inner = [item for m in mappings for item in m.values() if isinstance(item, dict | StandIn)]
        level = list({id(item): item for item in inner if id(item) not in seen}.values())[:1000]
        seen.update(map(id, level))
    return None


# ---- the search ----


def _known(value: Any) -> bool:
    return isinstance(value, Tensor | StoredTensor | Described)


def _is_tensor(value: Any) -> bool:
    """A tensor, or an object of a class that stands for one and is refused by name later."""
    return _known(value) or (isinstance(value, StandIn) and bool(_TENSOR_CLASS.search(value.name)))


def _mapping(value: Any) -> Mapping[Any, Any]:
    """What a dict, or an object, holds by name."""
    if isinstance(value, dict):
        return value
    if isinstance(value, StandIn):
        if value.items:
            return value.items
        return {k: v for state in value.states[:8] for k, v in list(state.items())[:10_000]}
    return {}


def _find(value: Any, keys: tuple[str, ...], beside: tuple[str, ...], search: Contents) -> None:
    if isinstance(value, StandIn) and isinstance(value.attribute("_modules"), dict):
        search.objects.setdefault(".".join(keys) or "the file", value.name)
        tensors = dict(islice(_module_tensors(value), _MODULES))
        search.models += [Model(keys, tensors, beside)] if tensors else []
        return
    mapping = _mapping(value)
    if len(keys) > _DEPTH or id(value) in search.seen:
        return
    search.seen.add(id(value))
    direct = {k: v for k, v in mapping.items() if isinstance(k, str) and _is_tensor(v)}
    if direct:
        search.models.append(Model(keys, direct, beside))
    for key, item in mapping.items():
        if key in direct or not isinstance(item, dict | StandIn) or not isinstance(key, str):
            continue
        if isinstance(item, StandIn):
            search.objects.setdefault(".".join((*keys, key)), item.name)
        if not _NO_MODEL.search(key):
            others = tuple(str(other)[:40] for other in mapping if other != key)[:9]
            _find(item, (*keys, key), others, search)


def _module_tensors(root: StandIn) -> Iterator[tuple[str, Any]]:
    """What `state_dict()` of a pickled module would be, from the attributes that it has; at most
    _MODULES of its modules are looked at, since one may hold another many times."""
    waiting, looked_at = [("", root)], 0
    while waiting and looked_at < _MODULES:
        prefix, module = waiting.pop()
        looked_at += 1
        skipped = module.attribute("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _named(module.attribute(kind)):
                if _is_tensor(tensor) and name not in _listed(skipped):
                    yield prefix + name, tensor
        inner = [(n, m) for n, m in _named(module.attribute("_modules")) if isinstance(m, StandIn)]
        if len(prefix) < _LONGEST:
            waiting += [(f"{prefix}{name}.", m) for name, m in reversed(inner[:_MODULES])]


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    """The items of a dict whose keys are texts."""
    items = value.items() if isinstance(value, dict) else ()
    return ((name, item) for name, item in items if isinstance(name, str))


def _listed(value: Any) -> tuple[Any, ...]:
    """A pickled set's members, if its call says them."""
    if isinstance(value, StandIn) and value.arguments and isinstance(value.arguments[0], list):
        return tuple(value.arguments[0][:100])
    return ()


def _copies(model: Model) -> list[Model]:
    """The models of a state dict in which one name stands before each of two equal sets of names,
    such as `model.` and `ema_model.`."""
    prefix = _common_prefix(list(model.tensors))
    groups: dict[str, dict[str, Any]] = {}
    for name, tensor in model.tensors.items():
        first, dot, rest = name.removeprefix(prefix).partition(".")
        if dot:
            groups.setdefault(first, {})[rest] = tensor
    whole = {
        first: tensors
        for first, tensors in groups.items()
        if any(map(_BLOCK.search, tensors)) and any(map(_EMBEDDING.search, tensors))
    }
    sets = Counter(frozenset(tensors) for tensors in whole.values())
    equal = {first: t for first, t in whole.items() if sets[frozenset(t)] > 1}
    if not equal:
        return [model]
    others = tuple(groups)
    return [
        Model((*model.keys, first), tensors, tuple(o for o in others if o != first))
        for first, tensors in equal.items()
    ]


def _common_prefix(names: list[str]) -> str:
    """What all names begin with, up to a dot."""
    low, high = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[: low[:length].rfind(".") + 1]
