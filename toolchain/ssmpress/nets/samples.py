"""The samples of a user's network, read once: batches, and the user's loss and metric of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmpress.errors import BadInputError, SsmpressError
from ssmpress.nets.network import Network
from ssmpress.nets.user_errors import in_users_code
from ssmpress.prune.materials.nested import leaves, mapped
from ssmpress.prune.resume import tensor_bytes

if TYPE_CHECKING:
    from torch import nn

MAX_BYTES = 8 << 30
"""Of the arrays of one split; more is asked for in smaller parts."""

MAX_BATCHES = 100_000
"""Of one split: a generator without an end is told so before the memory is full."""


@dataclass(frozen=True)
class NetworkSamples:
    """Batches of one split.

    module: the dense one, in eval mode on the CPU. batches: inputs by name, and target, on the CPU.
    like: the module's outputs for the first batch.
    """

    network: Network
    module: nn.Module
    batches: tuple[tuple[dict[str, Tensor], Any], ...]
    like: Any

    @property
    def count(self) -> int:
        """The number of batches."""
        return len(self.batches)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The samples of each batch: the length of axis 0 of its first input."""
        return tuple(_first_axis(inputs) for inputs, _ in self.batches)

    def batch(self, number: int) -> tuple[dict[str, Tensor], Any]:
        """The inputs by name and the target of a batch, on the CPU."""
        return self.batches[number]

    def arrays(self, number: int) -> dict[str, NDArray[Any]]:
        """The inputs of a batch for ONNX Runtime."""
        return {name: t.numpy() for name, t in self.batches[number][0].items()}

    def call(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
        """What the module returns."""
        with in_users_code("forward"):
            return self.network.call(module, inputs)

    def flat(self, outputs: Any) -> dict[str, Tensor]:
        """The outputs of a call by name, in the graph's order."""
        return self.network.flat(outputs)

    def structured(self, arrays: Mapping[str, NDArray[Any]]) -> Any:
        """ONNX Runtime's outputs as the module returns them."""
        tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
        return self.network.structured(tensors, self.like)

    def mean_outputs(self, number: int) -> dict[str, NDArray[Any]]:
        """What the dense module returns on average, as if it were its outputs for a batch.

        The mean of its outputs for the first batch, over all axes but the last, or over all where
        the last has another size; in the shape that the module has for this batch.
        """
        shapes = self._output_shapes[_shapes(self.batches[number][0])]
        return {
            name: _mean(first, shapes[name]).numpy() for name, first in self.flat(self.like).items()
        }

    @cached_property
    def _output_shapes(self) -> dict[tuple[torch.Size, ...], dict[str, torch.Size]]:
        """The shapes of the outputs by those of the inputs: one call of the module for each."""
        examples = {_shapes(inputs): inputs for inputs, _ in self.batches}
        with torch.no_grad():
            return {
                shapes: {n: t.shape for n, t in self.flat(self.call(self.module, inputs)).items()}
                for shapes, inputs in examples.items()
            }

    def loss(self, outputs: Any, target: Any) -> Tensor:
        """The user's loss.

        Raises:
            BadInputError: it is no scalar with gradients.
        """
        with in_users_code("loss"):
            value = self.network.loss(outputs, target)
        return _scalar("loss", value)

    def distance(self, student: Any, teacher: Any) -> Tensor:
        """The user's `distill`, or the mean over the floating-point outputs of

        mean((student - teacher)^2) / var(teacher)

        Raises:
            BadInputError: `distill` returns no scalar with gradients, or there is none, and no
                output has floating-point numbers.
        """
        if self.network.distill is not None:
            with in_users_code("distill"):
                value = self.network.distill(student, teacher)
            return _scalar("distill", value)
        parts = [
            _distance(a.float(), b.float())
            for a, b in zip(self.flat(student).values(), self.flat(teacher).values(), strict=True)
            if b.is_floating_point()
        ]
        if not parts:
            raise BadInputError(
                "Network: distill: expected this function, since no output is of floating-point "
                "numbers; got none."
            )
        return torch.stack(parts).mean()

    def metric(self, outputs: Any, target: Any) -> float:
        """The user's metric of a batch.

        Raises:
            BadInputError: it is no number. One that is not finite is a number.
        """
        with in_users_code("metric"), torch.no_grad():
            value = self.network.metric(outputs, target)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadInputError(
                f"Network: metric: expected a number; got {_described(value)}. Return the mean "
                "over the batch."
            ) from error

    @cached_property
    def _digests(self) -> tuple[bytes, ...]:
        return tuple(_digest(inputs, target) for inputs, target in self.batches)

    def digest(self) -> bytes:
        """SHA-256 of all batches."""
        return hashlib.sha256(b"".join(self._digests)).digest()

    def part_in(self, other: Any) -> float:
        """Part of these batches, 0 .. 1, that others have too."""
        known = set(other._digests)
        return sum(one in known for one in self._digests) / self.count

    def check(self) -> None:
        """Try the user's functions on the first batch, before anything takes long.

        Raises:
            BadInputError: forward, `loss`, `distill` or `metric` fails, or returns something else
                than it is to.
        """
        inputs, target = self.batches[0]
        with _thawed(self.module):
            outputs = self.call(self.module, inputs)
            dense = mapped(outputs, _copied)
            self._check_again(dense)
            self.loss(outputs, target)
            self.distance(outputs, dense)
        value = self.metric(dense, target)
        if not math.isfinite(value):
            raise BadInputError(
                f"Network: metric: expected a finite number for the first batch; got {value}. "
                "Check that the weights are this network's and that the metric fits its outputs."
            )

    def _check_again(self, outputs: Any) -> None:
        """Whether a second call has the outputs of the first, `like`."""
        first = self.flat(self.like)
        for name, again in self.flat(outputs).items():
            if not _equal(first[name], again):
                raise BadInputError(
                    f"Network: forward: expected the same {name} for the same inputs; got another "
                    "in a second call. Leave out what draws random numbers in eval mode "
                    "(self.training tells), write into no input (x = x * 2, not x.mul_(2)), and "
                    "take what is kept from call to call as an input, with states."
                )

    def some(self, numbers: list[int]) -> NetworkSamples:
        """The batches with these numbers alone."""
        return replace(self, batches=tuple(self.batches[number] for number in numbers))


def read_samples(network: Network, split: str, module: nn.Module) -> NetworkSamples:
    """All batches of a split, checked, and one call of the module.

    Args:
        split: "calibration" or "evaluation". module: the dense one, on the CPU.

    Raises:
        BadInputError: there are none, or more than MAX_BYTES; one does not fit the network's
            inputs; forward fails or returns something else than tensors.
    """
    batches, size = [], 0
    with in_users_code(f'samples("{split}")'):
        items = iter(_iterable(network.samples(split), split))
    while True:
        with in_users_code(f'samples("{split}")'):
            item = next(items, None)
        if item is None:
            break
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise _error(split, "pairs (inputs, target)", _described(item))
        # Copied: the user may fill the same tensors again for the next batch.
        inputs, target = mapped((network.bound(item[0]), item[1]), _copied)
        batches.append((inputs, target))
        size += sum(getattr(leaf, "nbytes", 0) for leaf in leaves((inputs, target)))
        if size > MAX_BYTES or len(batches) > MAX_BATCHES:
            most = f"at most {MAX_BATCHES:,} batches and {MAX_BYTES >> 30} GiB"
            raise _error(split, f"an end after {most}", "more")
    if not batches:
        raise _error(split, "at least one batch", "none")
    with in_users_code("forward"), torch.no_grad():
        like = network.call(module.eval(), batches[0][0])
    like = mapped(like, _copied)
    network.flat(like)
    samples = NetworkSamples(network, module, tuple(batches), like)
    samples.check()
    return samples


@contextmanager
def _thawed(module: nn.Module) -> Iterator[None]:
    """Parameters that the user froze have gradients: what is pruned will."""
    frozen = [p for p in module.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _equal(first: Tensor, again: Tensor) -> bool:
    """Whether two outputs are the same but for the order in which threads add up."""
    if first.shape != again.shape or first.dtype != again.dtype:
        return False
    if not first.is_floating_point():
        return torch.equal(first, again)
    finite = first[first.isfinite()].abs()
    most = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(first, again, rtol=0.0, atol=1e-4 * most, equal_nan=True)


def _iterable(value: Any, split: str) -> Iterable[Any]:
    if isinstance(value, Tensor | Mapping) or not isinstance(value, Iterable):
        raise _error(split, "batches (inputs, target), one after the other", _described(value))
    return value


def _copied(leaf: Any) -> Any:
    """A value of the user's that nobody else will change: tensors on the CPU, without gradients."""
    if isinstance(leaf, Tensor):
        return leaf.detach().to("cpu", copy=True)
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _scalar(name: str, value: Any) -> Tensor:
    """What `loss` or `distill` returned, as a scalar."""
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        raise BadInputError(
            f"Network: {name}: expected a tensor with one floating-point number; got "
            f"{_described(value)}. Return the mean over the batch."
        )
    if torch.is_grad_enabled() and not value.requires_grad:
        raise BadInputError(
            f"Network: {name}: expected a tensor with gradients; got one without. Compute it from "
            "the outputs, without detach, item or torch.no_grad."
        )
    return value.reshape(())


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """mean((student - teacher)^2) / var(teacher), over what is finite of the teacher: logits may be
    masked with infinities. The unit of an output that is constant is 1."""
    known = teacher.isfinite()
    difference = torch.where(known, student, 0.0) - torch.where(known, teacher, 0.0)
    variance = teacher[known].var(correction=0)
    unit = torch.where(variance > 0, variance, 1.0)
    return difference.square().sum() / known.sum().clamp_min(1) / unit


def _shapes(inputs: Mapping[str, Tensor]) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in inputs.values())


def _mean(values: Tensor, shape: torch.Size) -> Tensor:
    """The mean over all axes but the last, or over all, in a shape."""
    rows = values.double()
    same_last = values.dim() > 0 and shape[-1:] == values.shape[-1:]
    mean = rows.reshape(-1, rows.shape[-1]).mean(0) if same_last else rows.mean()
    return mean.expand(shape).to(values.dtype).contiguous()


def _first_axis(inputs: Mapping[str, Tensor]) -> int:
    first = next(iter(inputs.values()))
    return first.shape[0] if first.dim() else 1


def _digest(inputs: Mapping[str, Tensor], target: Any) -> bytes:
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            value = tensor_bytes(value), value.dtype, value.shape
        if isinstance(value, np.ndarray) and value.dtype != object:
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif isinstance(value, Mapping):
            for key in value:
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, tuple | list):
            for item in value:
                add(item)
        elif hasattr(value, "__dict__"):  # its repr may name an address, another one in each run
            digest.update(type(value).__qualname__.encode())
            add(vars(value))
        else:
            digest.update(repr(value).encode())

    add(inputs)
    add(target)
    return digest.digest()


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return f"{type(value).__name__}"


def _error(split: str, expected: str, got: str) -> SsmpressError:
    return BadInputError(f'Network: samples("{split}"): expected {expected}; got {got}.')
