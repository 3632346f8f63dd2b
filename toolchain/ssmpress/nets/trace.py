"""A user's module as a graph: what it computes, which of its weights are matrices, its ports.

module -> torch.export -> products marked, scans of reversed sequences turned -> Traced
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import TorchFunctionMode

from ssmpress.blocks.tensors import MatrixSpec
from ssmpress.errors import BadInputError, SsmpressError
from ssmpress.nets import operators  # noqa: F401  registers the operators
from ssmpress.nets.depthwise import mark_convolutions
from ssmpress.nets.fx_graph import FxGraph, aten, line_of, source
from ssmpress.nets.given_steps import replace_given_steps
from ssmpress.nets.network import Network
from ssmpress.nets.permutes import cancel_permutes
from ssmpress.nets.products import mark_products
from ssmpress.nets.reversed_scans import turn_scans
from ssmpress.nets.user_errors import users_line
from ssmpress.recipe.suggest import did_you_mean
from ssmpress.tasks.network_ports import NetPort

MOST_OF_A_LINE = 1000
"""Nodes that one line of the user's may become: blocks built in a list share their lines, so that a
net of 100 blocks has hundreds; only a loop over time steps has more."""

FEWEST_STEPS = 8
"""Of a loop over a size: fewer operations of a line are no sign of one."""

_PREFIX = "module."


@dataclass(frozen=True, eq=False)
class Traced:
    """A module as a graph whose products with matrices are `ssmpress::linear`.

    network: that it was traced for. program: what it computes; its inputs and outputs stand in the
    order of `ports`. names: tensor of the program -> its name in the module, the first of several.
    matrices: weights that are used in products alone, by name. shapes: of all parameters and
    buffers, each tied one once. ports: inputs and outputs.
    """

    network: Network
    program: ExportedProgram
    names: Mapping[str, str]
    matrices: Mapping[str, MatrixSpec]
    shapes: Mapping[str, tuple[int, ...]]
    ports: tuple[tuple[NetPort, ...], tuple[NetPort, ...]]


class _Call(nn.Module):
    """The module as a function of its inputs in order, with outputs by name."""

    def __init__(self, network: Network, module: nn.Module) -> None:
        super().__init__()
        self.network, self.module = network, module

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        named = dict(zip(self.network.inputs, inputs, strict=True))
        with _FreeSizes():
            return self.network.flat(self.network.call(self.module, named))


class _FreeSizes(TorchFunctionMode):
    """Calls what keeps sizes free instead of what asks for them as numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func in (torch.max_pool1d, F.max_pool1d) and not named.pop("return_indices", False):
            return _max_pool1d(*args, **named)
        return func(*args, **(kwargs or {}))


def _max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """torch.max_pool1d of a plane with one row."""

    def wide(value: Any, row: int) -> list[int]:
        return [row, *value] if isinstance(value, list | tuple) else [row, value]

    pooled = torch.max_pool2d(
        input.unsqueeze(-2),
        wide(kernel_size, 1),
        wide(stride, 1) if stride else wide(kernel_size, 1),
        wide(padding, 0),
        wide(dilation, 1),
        ceil_mode,
    )
    return pooled.squeeze(-2)


def trace(network: Network, module: nn.Module) -> Traced:
    """Trace a module that was built under the stand-ins.

    Args:
        module: in evaluation mode from here on; its weights are not looked at.

    Raises:
        BadInputError: it cannot be traced: the line of the user's code, and what to do.
    """
    call = _Call(network, module).eval()
    program = _without_writes(network, _exported(network, call))
    _check_lines(program)
    names = _canonical_names(call)
    graph = FxGraph(program, names)
    graph.drop_checks()
    replace_given_steps(graph)
    graph.free_views()
    turn_scans(graph)
    mark_convolutions(graph)
    matrices = mark_products(graph)
    cancel_permutes(graph)
    ports = _ports(network, graph)
    _check_states(network, *ports)
    shapes = {
        name.removeprefix(_PREFIX): tuple(tensor.shape)
        for tensors in (call.named_parameters(), call.named_buffers())
        for name, tensor in tensors
    }
    return Traced(network, program, names, matrices, shapes, ports)


def _canonical_names(call: nn.Module) -> dict[str, str]:
    """Name of a tensor in the program -> its first name in the user's module."""
    first: dict[int, str] = {}
    names = {}
    for tensors in (
        call.named_parameters(remove_duplicate=False),
        call.named_buffers(remove_duplicate=False),
    ):
        for name, tensor in tensors:
            names[name] = first.setdefault(id(tensor), name.removeprefix(_PREFIX))
    return names


# ---- torch.export ----


def _exported(network: Network, call: _Call) -> ExportedProgram:
    """The program of a call, sizes of `network.dynamic` being free."""
    examples, axes = _examples(network)
    shapes = [dict.fromkeys(axes[name], Dim.DYNAMIC) or None for name in network.inputs]
    inputs = tuple(examples.values())
    try:
        with _quiet(), torch.no_grad():
            return export(call, inputs, dynamic_shapes=(tuple(shapes),), strict=False)
    except SsmpressError:
        raise
    except Exception as error:
        raise BadInputError(_failure(network, call, inputs, error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of torch.export, and the whole graph that it prints before it fails."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _without_writes(network: Network, program: ExportedProgram) -> ExportedProgram:
    """The program with new tensors in place of writes into others: passes may not tell which other
    tensor of the graph is changed by a write.

    Raises:
        BadInputError: it writes into an input or a buffer.
    """
    if not any(_writes(node) for node in program.graph.nodes):
        return program
    with _quiet(), torch.no_grad():
        program = program.run_decompositions({})
    for spec in program.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            name = str(spec.target)
            what = f"the buffer {name.removeprefix(_PREFIX)}"
            if spec.kind is OutputKind.USER_INPUT_MUTATION:
                placeholders = program.graph_signature.user_inputs
                what = f"its input {list(network.inputs)[placeholders.index(name)]}"
            raise BadInputError(
                f"Network: forward: expected code that changes no input and no buffer; got code "
                f"that writes into {what}. Write x = x * 2, not x.mul_(2), and take what is kept "
                "from call to call as an input, with states."
            )
    return program


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _examples(network: Network) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """Inputs to trace with. A size that varies is at least 2, and differs from the others: one of
    1 would be taken for a constant, and equal ones for the same."""
    axes = {name: dict(network.dynamic.get(name, {})) for name in network.inputs}
    sizes: dict[str, int] = {}
    for name, example in network.inputs.items():
        for axis, size in axes[name].items():
            sizes.setdefault(size, example.shape[axis])
    taken = [size for size in sizes.values() if size > 1]
    for size, length in sizes.items():
        if length < 2:
            sizes[size] = next(n for n in range(2, 99) if n not in taken)
            taken.append(sizes[size])
    examples = {}
    for name, example in network.inputs.items():
        tensor = example.detach()
        for axis, size in axes[name].items():
            if tensor.shape[axis] == 1 and sizes[size] != 1:
                tensor = tensor.repeat_interleave(sizes[size], axis)
        examples[name] = tensor.clone()
    return examples, axes


_CONSTANT_SIZE = re.compile(
    r"L\['inputs'\]\[(\d+)\]\.size\(\)\[(\d+)\].{0,80}constant \((\d+)\)", re.DOTALL
)


def _failure(network: Network, call: _Call, inputs: tuple[Tensor, ...], error: Exception) -> str:
    """What a user can do about an error of torch.export."""
    text = str(error)
    constant = _CONSTANT_SIZE.search(text)
    if constant:
        name = list(network.inputs)[int(constant[1])]
        size = network.dynamic[name][int(constant[2])]
        loop = _loop(call, inputs, int(constant[3]))
        why = f"{loop} is a Python loop over it" if loop else "forward makes it a constant"
        return (
            f"Network: dynamic: expected code for any {size}, axis {constant[2]} of {name}; got "
            f"code for {constant[3]} alone: {why}. Write it with tensor operations or mamba_ssm's "
            f"selective_scan_fn, take sizes from x.shape and not len(x), or leave {size} out of "
            "dynamic."
        )
    where = users_line(error)
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return (
            f"Network: forward cannot be exported: what it does{where} depends on a tensor's "
            "values (if, while, int(), item() or a boolean index). Use torch.where, or compute it "
            "before forward."
        )
    lines = text.strip().splitlines() or [""]
    return (
        f"Network: forward cannot be exported: {type(error).__name__}{where}: "
        f"{lines[0][:300].rstrip('.')}. {_way(network)}"
    )


def _way(network: Network) -> str:
    sizes = sorted({size for axes in network.dynamic.values() for size in axes.values()})
    way = "Compute this with operations that torch.export knows."
    if not sizes:
        return way
    return (
        f"{way} Sizes that vary ({', '.join(sizes)}) are to be taken from x.shape, or left out of "
        "dynamic."
    )


def _loop(call: _Call, inputs: tuple[Tensor, ...], steps: int) -> str:
    """The line that becomes at least as many nodes as the constant size; empty if there is none."""
    try:
        with _quiet(), torch.no_grad():
            fresh = tuple(tensor.clone() for tensor in inputs)  # the others are marked dynamic
            program = export(call, fresh, strict=False)
    except Exception:
        return ""
    line, count = _longest_line(program)
    return line if count >= steps - 1 >= FEWEST_STEPS else ""


def _longest_line(program: ExportedProgram) -> tuple[str, int]:
    """The line of the user's that became the most calls of one op, and how many."""
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    counts = Counter((line_of(node), node.target) for node in calls)
    ((line, _), count), *_ = counts.most_common(1) or [(("", None), 0)]
    return line, count


def _check_lines(program: ExportedProgram) -> None:
    line, count = _longest_line(program)
    if count > MOST_OF_A_LINE and line:
        raise BadInputError(
            f"Network: forward cannot be exported: expected at most {MOST_OF_A_LINE} operations of "
            f"one line; got {count} of {line}: a Python loop would be written out step by step. "
            "Write it with tensor operations or mamba_ssm's selective_scan_fn."
        )


# ---- ports ----

_TYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.bool: "bool",
}


def _ports(network: Network, graph: FxGraph) -> tuple[tuple[NetPort, ...], tuple[NetPort, ...]]:
    """The inputs and outputs; sizes that vary by the user's names for them."""
    signature = graph.program.graph_signature
    nodes = {node.name: node for node in graph.graph.nodes}
    placeholders = [
        nodes[spec.arg.name] for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT
    ]
    words: dict[str, str] = {}
    inputs = []
    for (name, example), node in zip(network.inputs.items(), placeholders, strict=True):
        shape: list[int | str] = list(example.shape)
        for axis, size in network.dynamic.get(name, {}).items():
            shape[axis] = size
            words[str(graph.value(node).shape[axis])] = size
        kind, (low, high) = _type(name, example.dtype), _range(graph, node, example)
        inputs.append(NetPort(name, kind, tuple(shape), tuple(example.shape), low, high))
    sizes = {size: example for port in inputs for size, example in _sizes(port)}
    outputs = []
    values = [nodes[spec.arg.name].meta["val"] for spec in signature.output_specs]
    for name, value in zip(_output_names(graph.program), values, strict=True):
        if free_unbacked_symbols(value):
            raise BadInputError(
                f"Network: {name}: expected an output whose sizes follow from those of the inputs; "
                "got sizes that depend on values, such as of x[x > 0] or nonzero. Return a mask, "
                "or leave this output out."
            )
        named = tuple(_named(size, words) for size in value.shape)
        example_shape = tuple(_example(size, sizes) for size in named)
        outputs.append(NetPort(name, _type(name, value.dtype), named, example_shape))
    return tuple(inputs), tuple(outputs)


def _check_states(
    network: Network, inputs: tuple[NetPort, ...], outputs: tuple[NetPort, ...]
) -> None:
    """Whether the names of inputs and outputs differ, and a state fits in where it came out."""
    known = {port.name: port for port in outputs}
    for port in inputs:
        if port.name in known:
            raise BadInputError(
                f"Network: outputs: expected other names than the inputs'; got {port.name!r} "
                "twice. Name the outputs: outputs=(...)."
            )
        after = network.states.get(port.name)
        if after is None:
            continue
        if after not in known:
            raise BadInputError(
                f"Network: states: {port.name}: expected one of the outputs {', '.join(known)}; "
                f"got {after!r}.{did_you_mean(after, known)}"
            )
        if (known[after].type, known[after].shape) != (port.type, port.shape):
            raise BadInputError(
                f"Network: states: {port.name}: expected the type and sizes of the input, "
                f"{_words(port)}; got {_words(known[after])} of {after}."
            )


def _words(port: NetPort) -> str:
    return f"{port.type} ({', '.join(map(str, port.shape))})"


def _output_names(program: ExportedProgram) -> list[str]:
    """The keys of what `_Call` returned."""
    return list(program.call_spec.out_spec.context)


def _sizes(port: NetPort) -> list[tuple[str, int]]:
    pairs = zip(port.shape, port.example, strict=True)
    return [(size, example) for size, example in pairs if isinstance(size, str)]


def _named(size: Any, words: Mapping[str, str]) -> int | str:
    """A size of torch's, such as 7 or s77 // 4, with the user's names for what varies."""
    text = str(size)
    if text.isdigit():
        return int(text)
    return re.sub(r"[A-Za-z_]\w*", lambda match: words.get(match[0], match[0]), text)


def _example(size: int | str, sizes: Mapping[str, int]) -> int:
    """An output's size for the example; 1 where it is no plain name."""
    return size if isinstance(size, int) else sizes.get(size, 1)


def _type(name: str, dtype: torch.dtype) -> str:
    if dtype not in _TYPES:
        raise BadInputError(
            f"Network: {name}: expected one of the types {', '.join(_TYPES.values())}; got "
            f"{str(dtype).removeprefix('torch.')}. Convert it in forward."
        )
    return _TYPES[dtype]


def _range(graph: FxGraph, node: fx.Node, example: Tensor) -> tuple[int | None, int | None]:
    """Integers that an input takes: the rows of an embedding that reads it, else the example's."""
    if example.is_floating_point() or example.dtype is torch.bool:
        return None, None
    for call in graph.calls(aten.embedding.default):
        start, _ = source(call.args[1])
        if start is node:
            return 0, int(graph.value(call.args[0]).shape[0])
    low, high = (int(example.min()), int(example.max())) if example.numel() else (0, 0)
    return low, high + 1
