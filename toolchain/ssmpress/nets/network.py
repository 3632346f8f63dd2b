"""A network of the user's own: what ssmpress is told of it, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssmpress.errors import BadInputError
from ssmpress.recipe.suggest import did_you_mean
from ssmpress.tasks.network import MAX_METRIC_NAME
from ssmpress.tasks.network_ports import TYPES

if TYPE_CHECKING:
    from torch import Tensor, nn

SPLITS = ("calibration", "evaluation")
"""What `samples` is asked for: to prune and train on, and to judge by."""


@dataclass(frozen=True)
class Network:
    """A PyTorch module with Mamba blocks in it, and what only its owner knows.

        >>> import torch
        >>> from ssmpress import Network
        >>> net = Network(
        ...     build=lambda: torch.nn.Linear(4, 2),
        ...     inputs={"input": torch.zeros(1, 4)},
        ...     dynamic={"input": {0: "batch"}},
        ...     samples=lambda split: [(torch.ones(8, 4), torch.zeros(8, 2))],
        ...     loss=torch.nn.functional.mse_loss,
        ...     metric=lambda outputs, target: float((outputs - target).square().mean()),
        ...     metric_name="MSE",
        ...     higher_is_better=False,
        ... )
        >>> net.call(net.build(), net.inputs).shape
        torch.Size([1, 2])

    build: a module without trained weights. Where mamba-ssm is not installed, it finds stand-ins
        under mamba-ssm's names.
    inputs: an example of each input, in the order of the arguments of `forward`.
    samples: "calibration" or "evaluation" -> batches (inputs, target), as `forward` takes them;
        inputs by name, in their order, or the only one. They are read once.
    loss: of the module's outputs and a target; a scalar with gradients.
    metric: of outputs and a target, a number: the mean over the batch.
    dynamic: input -> axis -> name of a size that varies; axes of one name vary together. A batch
        axis is called "batch".
    metric_name, higher_is_better: of the metric, in reports; quality kept is a ratio of two means.
    outputs: names of the outputs; without them a dict's own, else `output`, or `output_0` and on.
    distill: of a pruned and the dense module's outputs, a scalar that recovery makes small; by
        default the squared distance relative to the dense outputs' variance.
    states: input -> output that is its value in the next call, of a network that is called again
        and again. They start at zero.

    Raises:
        BadInputError: a field is of another kind, or names an input that is not there.
    """

    build: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    samples: Callable[[str], Iterable[tuple[Any, Any]]]
    loss: Callable[[Any, Any], Tensor]
    metric: Callable[[Any, Any], Any]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    metric_name: str = "score"
    higher_is_better: bool = True
    outputs: Sequence[str] = ()
    distill: Callable[[Any, Any], Tensor] | None = None
    states: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("build", "samples", "loss", "metric"):
            if not callable(getattr(self, name)):
                raise _field_error(name, "a function", getattr(self, name))
        if self.distill is not None and not callable(self.distill):
            raise _field_error("distill", "a function", self.distill)
        _check_inputs(self.inputs)
        for name in ("dynamic", "states"):
            if not isinstance(getattr(self, name), Mapping):
                raise _field_error(name, "a dict by the inputs' names", getattr(self, name))
        for name, axes in self.dynamic.items():
            self._check_input("dynamic", name)
            _check_axes(name, axes, self.inputs[name].dim())
        for name in self.states:
            self._check_input("states", name)
        if len(self.states) == len(self.inputs):
            raise _field_error("states", "at least one input that is none", dict(self.states))
        text = self.metric_name
        if not isinstance(text, str) or not text.strip():
            raise _field_error("metric_name", "a name", text)
        if len(text) > MAX_METRIC_NAME or not text.isprintable():
            raise _field_error("metric_name", f"1 to {MAX_METRIC_NAME} printable characters", text)
        if not isinstance(self.higher_is_better, bool):
            raise _field_error("higher_is_better", "True or False", self.higher_is_better)
        names = tuple(self.outputs)
        if isinstance(self.outputs, str) or not all(isinstance(n, str) and n for n in names):
            raise _field_error("outputs", "names", self.outputs)
        if len(set(names)) < len(names):
            raise _field_error("outputs", "different names", list(names))

    def _check_input(self, where: str, name: str) -> None:
        if name not in self.inputs:
            raise BadInputError(
                f"Network: {where}: expected one of the inputs {', '.join(self.inputs)}; got "
                f"{name!r}.{did_you_mean(str(name), self.inputs)}"
            )

    def bound(self, inputs: Any) -> dict[str, Tensor]:
        """The inputs of a sample by name, in order; states that are not among them are zeros.

        Args:
            inputs: a mapping, a tuple or list in order, or the only one.

        Raises:
            BadInputError: one is missing, unknown, or no tensor of the example's rank.
        """
        import torch

        names, own = list(self.inputs), [name for name in self.inputs if name not in self.states]
        if isinstance(inputs, Mapping):
            if not set(own) <= set(inputs) <= set(names):
                raise _sample_error(f"the inputs {', '.join(names)}", ", ".join(map(str, inputs)))
            given = {name: inputs[name] for name in names if name in inputs}
        else:
            values = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
            if len(values) not in (len(own), len(names)):
                raise _sample_error(f"{len(own)} inputs ({', '.join(own)})", str(len(values)))
            given = dict(zip(names if len(values) == len(names) else own, values, strict=True))
        tensors = {name: torch.as_tensor(value) for name, value in given.items()}
        for name, tensor in tensors.items():
            self._check_sample(name, tensor)
        return {name: tensors.get(name, self._zero_state(name, tensors)) for name in names}

    def _zero_state(self, name: str, given: Mapping[str, Tensor]) -> Tensor:
        """An input's zeros, in the sizes that the given ones have where they vary together."""
        sizes = {
            size: given[other].shape[axis]
            for other, axes in self.dynamic.items()
            if other in given
            for axis, size in axes.items()
        }
        example, axes = self.inputs[name], self.dynamic.get(name, {})
        shape = [sizes.get(axes.get(i, ""), size) for i, size in enumerate(example.shape)]
        return example.new_zeros(shape)

    def _check_sample(self, name: str, tensor: Tensor) -> None:
        """Whether an input of a sample has the example's type and its sizes that do not vary."""
        example, axes = self.inputs[name], self.dynamic.get(name, {})
        fits = tensor.dim() == example.dim() and all(
            size == expected or axis in axes
            for axis, (size, expected) in enumerate(zip(tensor.shape, example.shape, strict=True))
        )
        if not fits or tensor.dtype != example.dtype:
            sizes = ", ".join(axes.get(i, str(size)) for i, size in enumerate(example.shape))
            raise _sample_error(
                f"{name} {_type_name(example)} ({sizes})",
                f"{_type_name(tensor)} {tuple(tensor.shape)}",
            )

    def call(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
        """What the module returns: by keyword if `forward` has arguments of all the names, else in
        order."""
        known = inspect.signature(module.forward).parameters
        if all(name in known for name in inputs):
            return module(**inputs)
        return module(*inputs.values())

    def flat(self, outputs: Any) -> dict[str, Tensor]:
        """The outputs of a call by name, in order; what is no tensor is left out."""
        import torch

        values = list(_leaves(outputs))
        tensors = [(key, value) for key, value in values if isinstance(value, torch.Tensor)]
        if self.outputs:
            if len(self.outputs) != len(tensors):
                raise BadInputError(
                    f"Network: outputs: expected {len(tensors)} names, one of each tensor that "
                    f"forward returns; got {len(self.outputs)}."
                )
            return {n: value for n, (_, value) in zip(self.outputs, tensors, strict=True)}
        if not tensors:
            raise BadInputError(
                f"Network: expected forward to return tensors; got {type(outputs).__name__}."
            )
        if len(tensors) == 1 and not tensors[0][0]:
            return {"output": tensors[0][1]}
        keys = [key or f"output_{i}" for i, (key, _) in enumerate(tensors)]
        if len(set(keys)) < len(keys):  # dicts in a nest may have the same keys
            keys = [f"output_{i}" for i in range(len(tensors))]
        return {key: value for key, (_, value) in zip(keys, tensors, strict=True)}

    def structured(self, flat: Mapping[str, Tensor], like: Any) -> Any:
        """Outputs by name in the structure in which forward returned `like`."""
        import torch

        from ssmpress.prune.materials.nested import mapped

        values = iter(flat.values())
        return mapped(like, lambda leaf: next(values) if isinstance(leaf, torch.Tensor) else leaf)


def _leaves(value: Any, key: str = "") -> Iterable[tuple[str, Any]]:
    """What a nest of dicts, tuples and lists holds, each with the key of the innermost dict."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, str(name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item, key if len(value) == 1 else "")
    else:
        yield key, value


def _check_inputs(inputs: Any) -> None:
    import torch

    if not isinstance(inputs, Mapping) or not inputs:
        raise _field_error("inputs", "an example of each input by name", inputs)
    for name, example in inputs.items():
        if not isinstance(name, str) or not isinstance(example, torch.Tensor):
            raise _field_error("inputs", "tensors by name", {name: type(example).__name__})
        if _type_name(example) not in TYPES:
            raise BadInputError(
                f"Network: inputs: {name}: expected one of the types {', '.join(TYPES)}; got "
                f"{_type_name(example)}. Give the example and the samples as one of these, and "
                "convert it in forward if need be."
            )


def _check_axes(name: str, axes: Any, rank: int) -> None:
    good = isinstance(axes, Mapping) and all(
        type(axis) is int and 0 <= axis < rank and isinstance(size, str) and size.isidentifier()
        for axis, size in axes.items()
    )
    if not good:
        raise _field_error("dynamic", f"names of sizes by axis, 0 to {rank - 1}, for {name}", axes)


def _type_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _field_error(name: str, expected: str, got: object) -> BadInputError:
    text = repr(got)
    return BadInputError(
        f"Network: {name}: expected {expected}; got "
        f"{text if len(text) <= 60 else text[:57] + '...'}."
    )


def _sample_error(expected: str, got: str) -> BadInputError:
    return BadInputError(f"Network: samples: expected {expected}; got {got}.")
