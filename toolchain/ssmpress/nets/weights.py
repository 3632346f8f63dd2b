"""Weights as people have them -> tensors by the names of a module's own state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmpress.checkpoint import foreign, lora
from ssmpress.checkpoint.contents import contents_of, find_number, tell_place
from ssmpress.checkpoint.fold import fold, without_counters
from ssmpress.checkpoint.names import printable, without_wrappers
from ssmpress.checkpoint.read import float32
from ssmpress.checkpoint.state_dict import check_dense, loaded
from ssmpress.checkpoint.weight_files import beside
from ssmpress.errors import BadInputError, UsageError
from ssmpress.nets.fit import Fit, Wanted, fits, plain
from ssmpress.nets.weight_sources import files_of, read_sources

_COUNTER = "num_batches_tracked"
_PAIR = re.compile(r"^(?P<module>.*?)\.?(lora_[AB]|lora_embedding_[AB]|(lora_)?alpha$)")


def read_weights_for(
    path: Path, module: nn.Module, weights_of: str | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of a module out of a file or folder, whatever lies around them there.

    Args:
        path: safetensors, a torch.save archive of any kind, .npz, or a folder with one of them or
            with the parts of one.
        module: of which names, shapes and types are asked; its values only where a file need not
            have them.
        weights_of: which of several models in the file, such as "ema".

    Returns:
        Every tensor of `module.state_dict()` by its name there, with memory of its own, floats as
        float32 or what the module has beyond; and notes, one sentence each.

    Raises:
        BadInputError: a file is missing, damaged or hostile; it has several models; a tensor is
            missing, or of another shape or type, or not finite.
        UsageError: there is no model of the name `weights_of`.
    """
    path, expected, notes = Path(path), _Expected(module), list[str]()
    try:
        value = read_sources(files_of(path))
    except OSError as error:
        raise BadInputError(
            f"{error.filename or path}: cannot be read: {error.strerror or error}. Check the path "
            "and its permissions."
        ) from error
    contents = contents_of(value, path)
    fit = _chosen(fits(contents.models, expected.wanted), path, weights_of)
    tell_place(fit.model, contents, value, notes)
    if fit.prefix:
        notes.append(f"prefix {printable(fit.prefix)!r} removed")
    alpha = find_number(value, "lora_alpha")
    return _Reading(path, expected, fit, alpha, notes).tensors(), tuple(notes)


def _chosen(options: list[Fit], path: Path, weights_of: str | None) -> Fit:
    if weights_of is not None:
        named = [fit for fit in options if weights_of in fit.names]
        if not named:
            raise UsageError(
                f"--weights-of: expected one of the models in {path}, "
                f"{', '.join(map(str, options[:9]))}; got {weights_of!r}."
            )
        return named[0]
    complete = [fit for fit in options if fit.complete]
    if len(complete) > 1:
        names = [fit.names[0] for fit in complete if fit.names]
        raise BadInputError(
            f"{path}: expected one set of weights for the network; got several: "
            f"{', '.join(map(str, complete[:9]))}. Say which: --weights-of {printable(names[-1])}."
        )
    return options[0]


class _Expected:
    """What a module's state dict holds.

    state: tensors by name. parameters: the names of those that are trained. twins: name -> the
    first name of the same tensor. wanted: what has to be in a file.
    """

    def __init__(self, module: nn.Module) -> None:
        self.state = {n: t for n, t in module.state_dict().items() if isinstance(t, Tensor)}
        parameters = dict(module.named_parameters(remove_duplicate=False))
        buffers = dict(module.named_buffers(remove_duplicate=False))
        if lazy := next((n for n, t in parameters.items() if nn.parameter.is_lazy(t)), None):
            raise BadInputError(
                f"Network: build: {lazy}: expected a tensor whose sizes are known; got one of a "
                "lazy module. Call the module once in build, with an example."
            )
        self.parameters = parameters.keys()
        objects = {name: id(tensor) for name, tensor in (*parameters.items(), *buffers.items())}
        first: dict[int, str] = {}
        self.twins = {n: first.setdefault(objects.get(n, id(t)), n) for n, t in self.state.items()}
        self.wanted = Wanted(
            {
                name: tuple(tensor.shape)
                for name, tensor in self.state.items()
                if self.twins[name] == name and not self.optional(name)
            },
            {name: twin for name, twin in self.twins.items() if twin != name},
        )

    def optional(self, name: str) -> bool:
        """Whether a file need not have it: a counter, or a table of integers that build makes."""
        tensor = self.state[name]
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        return name.endswith(_COUNTER) or (whole and name not in self.parameters)


@dataclass
class _Reading:
    """A file's tensors, taken for the module's.

    alpha: lora_alpha, if the file says it. notes: get a sentence about everything that was put
    together, left out or not there.
    """

    path: Path
    expected: _Expected
    fit: Fit
    alpha: float | None
    notes: list[str]

    def tensors(self) -> dict[str, Tensor]:
        """All of the module's, by its own names.

        Raises:
            BadInputError: one is missing or does not fit.
        """
        own = {self._plain(name): name for name in self.expected.state}
        direct: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for stored, value in self.fit.stored.items():
            name = stored if stored in own else self.fit.wanted.called(stored)
            if name is None or own[name] in direct:
                others[stored] = value
            else:
                direct[own[name]] = value
        for name, tensor in self._together(direct, others, own).items():
            direct[own[name]] = tensor
        self._check(direct, others)
        state = self.expected.state
        result = {name: self._converted(name, direct[name]) for name in state if name in direct}
        self._check_twins(result)
        read = {self.expected.twins[name]: tensor for name, tensor in result.items()}
        self._tell(others, [name for name in state if self.expected.twins[name] not in read])
        for name, twin in self.expected.twins.items():
            if name not in result:
                result[name] = read[twin] if twin in read else state[name].clone()
        return {name: result[name] for name in state}

    def _plain(self, name: str) -> str:
        return plain(name, data_parallel=self.fit.data_parallel).removeprefix(self.fit.inner)

    def _together(
        self, direct: Mapping[str, Any], others: dict[str, Any], own: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """Wanted weights out of parts, and with LoRA's pairs added; parts are taken out of
        `others`."""
        where, wanted = str(self.path), self.fit.wanted
        has_pairs = any("lora_" in name for name in others)
        parts = {
            name: value
            for name, value in others.items()
            if wanted.part_of(name) or (has_pairs and _PAIR.match(name))
        }
        if not parts:
            return {}
        foreign.check_quantised(parts, where)
        tensors = {name: loaded(name, value, where) for name, value in parts.items()}
        check_dense(tensors, where)
        tensors = fold(tensors, where, self.notes)
        if has_pairs:
            changed = {f"{found['module']}.weight" for n in parts if (found := _PAIR.match(n))}
            for name in changed & own.keys():
                if own[name] in direct:
                    tensors[name] = loaded(name, direct[own[name]], where)
            adapter = beside(self.path, "adapter_config.json")
            scale = lora.read_scale(adapter, self.alpha, where)
            tensors = lora.merge(tensors, scale, where, self.notes)
        for name in parts:
            del others[name]
        others.update({name: tensor for name, tensor in tensors.items() if name not in own})
        return {name: tensor for name, tensor in tensors.items() if name in own}

    def _check(self, direct: Mapping[str, Any], others: Mapping[str, Any]) -> None:
        """Whether all that is wanted is there, and has the module's shapes."""
        there = {self.expected.twins[name] for name in direct}
        needed = [name for name in self.expected.wanted.shapes if name not in there]
        if needed:
            without_wrappers(others, str(self.path), [])
            foreign.check_quantised(others, str(self.path))
            raise self._missing(needed, others)
        for name, value in direct.items():
            expected = tuple(self.expected.state[name].shape)
            got = tuple(getattr(value, "shape", expected))
            if got != expected:
                raise BadInputError(
                    f"{self.path}: {name}: expected {expected}, as build makes it; got {got}. Give "
                    "build the sizes that the network was trained with."
                )

    def _missing(self, needed: list[str], others: Mapping[str, Any]) -> BadInputError:
        name = next((n for n in needed if n in self.expected.parameters), needed[0])
        total = len(self.expected.wanted.shapes)
        shape = self.expected.wanted.shapes[name]
        alike = [n for n, t in others.items() if getattr(t, "shape", None) == shape] or [*others]
        near = get_close_matches(self._plain(name), alike[:5000], 1, cutoff=0.3)
        nearest = f" The nearest that is there is {printable(near[0])}." if near else ""
        return BadInputError(
            f"{self.path}: {name}: expected this tensor {shape} of the network that build makes; "
            f"got none ({len(needed)} of {total} are missing, {len(others)} of the file are not "
            f"used).{nearest} Let build make the network that was trained, or give its weights."
        )

    def _converted(self, name: str, value: Any) -> Tensor:
        """A copy of the module's type, floats as float32 at least."""
        like, tensor = self.expected.state[name], loaded(name, value, str(self.path))
        kind = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout)
        if (
            not _alike(tensor, like)
            or kind.startswith("torch.sparse")
            or "float8" in kind
            or "float4" in kind
        ):
            wanted = "float" if like.is_floating_point() else str(like.dtype).removeprefix("torch.")
            raise BadInputError(
                f"{self.path}: {name}: expected dense {wanted} values, as build makes them; got "
                f"{kind.removeprefix('torch.')}. Convert quantised or sparse weights to floats "
                "first."
            )
        if not like.is_floating_point():
            return tensor.to(like.dtype, copy=True).contiguous()
        if like.dtype != torch.float64 and name in self.expected.parameters:
            return float32(name, tensor)
        wide = torch.promote_types(like.dtype, torch.float32)  # a buffer may hold infinities
        return tensor.to(wide, copy=True).contiguous()

    def _check_twins(self, result: Mapping[str, Tensor]) -> None:
        """Whether what build ties is equal in the file."""
        for name, twin in self.expected.twins.items():
            if name in result and twin in result and not torch.equal(result[name], result[twin]):
                raise BadInputError(
                    f"{self.path}: {name}: expected the values of {twin}, which build makes one "
                    "tensor with it; got others. Let build make the network that was trained."
                )

    def _tell(self, others: Mapping[str, Any], kept: list[str]) -> None:
        counted = {name: t for name, t in others.items() if isinstance(t, Tensor)}
        counters = set(counted) - set(without_counters(counted, []))
        unused = [name for name in (*others, *self.fit.outside) if name not in counters]
        tables = [n for n in kept if not n.endswith(_COUNTER)]
        for words, names in (
            ("tensors of the file that the network has not, not used", unused),
            ("not in the file, taken as build makes them", tables),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                self.notes.append(f"{words}: {', '.join(map(printable, names[:3]))}{more}")


def _alike(tensor: Tensor, like: Tensor) -> bool:
    """Whether values can be of the type of `like`: floats only of floats, others exactly."""
    if tensor.is_complex() != like.is_complex():
        return False
    if like.is_floating_point() or not tensor.is_floating_point():
        return tensor.is_floating_point() == like.is_floating_point()
    return torch.equal(tensor, tensor.round())  # a counter that was saved with the weights
