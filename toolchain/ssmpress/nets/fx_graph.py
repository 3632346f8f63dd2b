"""What the passes over a traced graph are written with: parameters, views of them, new nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ssmpress.nets.user_errors import is_installed

aten = torch.ops.aten

SAME_VALUES = (
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
)
"""Ops that hand on what they are given."""

_CASTS = (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten._to_copy.default)

_CHECKS = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
)

VIEWS = (
    *SAME_VALUES,
    *_CASTS,
    aten.mT.default,
    aten.numpy_T.default,
    aten.permute.default,
    aten.reshape.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
)
"""Ops that show all elements of their first argument in another shape or order."""


ELEMENT_WISE = (
    *SAME_VALUES,
    aten.abs.default,
    aten.add.Tensor,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.div.Tensor,
    aten.dropout.default,
    aten.exp.default,
    aten.gelu.default,
    aten.mul.Tensor,
    aten.neg.default,
    aten.pow.Tensor_Scalar,
    aten.relu.default,
    aten.rsqrt.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.softplus.default,
    aten.sqrt.default,
    aten.sub.Tensor,
    aten.tanh.default,
    aten.to.dtype,
)
"""Ops that treat all elements of tensors alike; the other arguments of most are numbers."""

PARTS = (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes)
"""Ops that cut a tensor along an axis, their third argument."""

_FRAME = re.compile(r'^ *File "(.*)", line (\d+)', re.MULTILINE)


class FxGraph:
    """The graph of an exported program, and which of its inputs are tensors of the module.

    canonical: name of a tensor in the program -> its first name in the module, for tied ones.
    """

    def __init__(self, program: ExportedProgram, canonical: Mapping[str, str]) -> None:
        self.program = program
        self.graph = program.graph_module.graph
        kinds = (InputKind.PARAMETER, InputKind.BUFFER)
        names = {
            spec.arg.name: canonical.get(str(spec.target), str(spec.target))
            for spec in program.graph_signature.input_specs
            if spec.kind in kinds
        }
        self.tensors = {n: names[n.name] for n in self.graph.nodes if n.name in names}
        """Placeholder -> name of the parameter or buffer."""
        self.mode = detect_fake_mode([n.meta.get("val") for n in self.graph.nodes])

    def value(self, node: Any) -> Any:
        """The fake tensor or number of a node; what is no node is itself."""
        return node.meta["val"] if isinstance(node, fx.Node) else node

    def calls(self, *targets: Any) -> Iterator[fx.Node]:
        """The nodes that call one of the ops, of all nodes there are now."""
        for node in list(self.graph.nodes):
            if node.op == "call_function" and node.target in targets:
                yield node

    def add(
        self, origin: fx.Node, target: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> fx.Node:
        """A call before `origin`, that stands for the same line of the user's."""
        with self.graph.inserting_before(origin):
            node: fx.Node = self.graph.call_function(target, args, kwargs)
        for key in ("stack_trace", "nn_module_stack"):
            if key in origin.meta:
                node.meta[key] = origin.meta[key]
        values = fx.node.map_arg(args, self.value)
        assert self.mode is not None
        # Without the Python dispatcher a C++ kernel may ask for a size, which fixes it.
        with self.mode, enable_python_dispatcher(), torch.no_grad():
            node.meta["val"] = target(*values, **kwargs)
        return node

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Use `new` wherever `old` is used, in the program's outputs too, and drop `old`."""
        old.replace_all_uses_with(new)
        self.program.graph_signature.replace_all_uses(old.name, new.name)
        self.graph.erase_node(old)

    def permuted(self, origin: fx.Node, x: fx.Node, order: list[int]) -> fx.Node:
        """x with its axes in another order."""
        if order == list(range(len(order))):
            return x
        return self.add(origin, aten.permute.default, x, order)

    def drop_checks(self) -> None:
        """Remove what only checks: the types and sizes of this module's tensors are known."""
        for node in list(self.graph.nodes):
            if node.target in _CHECKS:
                self.graph.erase_node(node)
        self.finish()

    def free_views(self) -> None:
        """Make views reshapes: a view asks for elements that lie in order, and passes that move
        permutes do not keep that."""
        for node in self.calls(aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default

    def finish(self) -> None:
        """Drop what nobody uses and compile."""
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.program.graph_module.recompile()


def source(node: Any) -> tuple[Any, list[fx.Node]]:
    """What a chain of views starts from, and the views, the last one first."""
    chain = []
    while isinstance(node, fx.Node) and node.target in VIEWS and _is_view(node):
        chain.append(node)
        node = node.args[0]
    return node, chain


def _is_view(node: fx.Node) -> bool:
    if node.all_input_nodes != [node.args[0]]:
        return False  # a size that varies is among its arguments
    before, after = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    return bool(before.dtype == after.dtype)


def viewed(tensor: Tensor, chain: list[fx.Node]) -> Tensor:
    """What the views of `source` make of a tensor."""
    for node in reversed(chain):
        if node.target in SAME_VALUES or node.target in _CASTS:
            continue
        tensor = node.target(tensor, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return tensor


def line_of(node: fx.Node) -> str:
    """FILE:LINE of the user's code that a node comes from; empty where none is known."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [(file, line) for file, line in frames if not is_installed(Path(file))]
    return ":".join(own[-1]) if own else ""
