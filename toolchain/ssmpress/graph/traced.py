"""A traced network -> an ONNX file: our operators become the ops of `ops.py`, the rest is standard.

    Traced -> torch.onnx (standard operators; ours as they are) -> weights, `lowering.py`
           -> onnxscript's optimizer (constants, unused nodes) -> names, functions -> file

Inputs, outputs and sizes that vary have the user's names; initializers are named after the module's
tensors, packed sections with the section's name appended.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ssmpress._version import __version__
from ssmpress.errors import BadInputError
from ssmpress.files import blaming
from ssmpress.formats import CONFIG_KEY
from ssmpress.graph import fallback, ops
from ssmpress.graph.export import EXTERNAL_DATA_BYTES, IR_VERSION, save
from ssmpress.graph.lowering import TRACED_DOMAIN, Lowering
from ssmpress.nets.fx_graph import FxGraph, line_of
from ssmpress.nets.trace import Traced
from ssmpress.pack.matrix import PackedMatrix
from ssmpress.states import STATES_KEY

OPSETS = (ops.ONNX_OPSET, 20, 23)
"""Tried one after the other: an operator of the user's may need a later one."""

MOST_FOLDED = 1 << 24
"""Elements of a constant that is computed once, when the file is written."""


class Packed(Protocol):
    """What a network's tensors became."""

    @property
    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Those that are not packed, by name."""

    @property
    def matrices(self) -> Mapping[str, PackedMatrix]:
        """Packed matrices (out, in), by name."""

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""


def export_network(
    traced: Traced, packed: Packed, config: Mapping[str, Any], path: Path
) -> tuple[Path, ...]:
    """Write the graph to `path` (model.onnx), with `path`.data beside it above 1 GiB.

    Args:
        packed: all tensors of `traced.shapes`. A matrix of `traced.matrices` that is not packed is
            a product in float32. config: the metadata entry ssmpress.config.

    Returns:
        The files written.

    Raises:
        BadInputError: an operation cannot be exported: the line of the user's code, and what to do.
        WriteError: a file cannot be written.
    """
    graph = build_network(traced, packed, config)
    with blaming(path):
        return save(graph, path, external=packed.nbytes >= EXTERNAL_DATA_BYTES)


def build_network(traced: Traced, packed: Packed, config: Mapping[str, Any]) -> ir.Model:
    """The ONNX model, with the fallback functions of the ops it uses."""
    program = translated(traced)
    model = program.model.clone()
    assert program.exported_program is not None
    fx_graph = FxGraph(program.exported_program, traced.names)
    _set_tensors(model.graph, traced, packed)
    lowering = Lowering(model.graph, fx_graph, packed.matrices)
    lowering.run()
    _optimize(model)
    _name_ports(model.graph, traced)
    _forget_where_it_was_made(model)
    for name in sorted(lowering.builder.ops_used):
        function = ir.serde.deserialize_function(fallback.function(name))
        model.functions[function.identifier()] = function
    model.opset_imports[ops.DOMAIN] = ops.DOMAIN_VERSION
    model.opset_imports.pop(TRACED_DOMAIN, None)
    model.ir_version = _ir_version(model.opset_imports[""])
    model.producer_name, model.producer_version = "ssmpress", __version__
    model.doc_string = "network; inputs and outputs: docs/ops.md of ssmpress."
    model.metadata_props.clear()
    model.metadata_props[CONFIG_KEY] = json.dumps(config, sort_keys=True)
    model.metadata_props[STATES_KEY] = "[]"
    return model


# ---- torch.onnx ----


_translated: WeakKeyDictionary[Traced, torch.onnx.ONNXProgram] = WeakKeyDictionary()
"""What `translated` has made, of traces that are still in use."""


def translated(traced: Traced) -> torch.onnx.ONNXProgram:
    """The program in standard operators, ours in TRACED_DOMAIN, not to be changed; made once: the
    exporter takes half a minute for 30 blocks, and a network is written dense and packed."""
    if traced not in _translated:
        _translated[traced] = _translate(traced)
    return _translated[traced]


def _translate(traced: Traced) -> torch.onnx.ONNXProgram:
    failure: Exception | None = None
    for opset in OPSETS:
        try:
            with _quiet(), torch.no_grad():
                program = torch.onnx.export(
                    traced.program,
                    custom_translation_table=_translations(),
                    dynamo=True,
                    opset_version=opset,
                    optimize=False,
                    verbose=False,
                )
        except Exception as error:
            failure = failure or error
            continue
        assert program is not None
        return program
    assert failure is not None
    raise BadInputError(_failure(traced, failure)) from failure


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's advice on packages that no user of this needs."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _failure(traced: Traced, error: Exception) -> str:
    """The operation that has no translation, its line, and what to do."""
    text = ""
    cause: BaseException | None = error
    while cause is not None:
        text += f"\n{cause}"
        cause = cause.__cause__
    match = re.search(r"translating node %\w+ .*?target=torch\.ops\.([\w.]+)\]", text, re.DOTALL)
    what = match[1] if match else type(error).__name__
    line = _line(traced, what) if match else ""
    return (
        f"Network: forward cannot be exported: expected operations that ONNX has; got {what}"
        f"{' at ' + line if line else ''}. Compute this in another way, or outside of forward."
    )


def _line(traced: Traced, what: str) -> str:
    """FILE:LINE of the first call of an operation; empty where it cannot be found."""
    try:
        nodes = traced.program.run_decompositions().graph.nodes
    except Exception:  # what the exporter failed at, it may fail at again
        nodes = traced.program.graph.nodes
    return next((line_of(node) for node in nodes if str(node.target) == what), "")


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Each operator of ours -> a function that adds it as one node of TRACED_DOMAIN."""
    names = ("linear", "selective_scan", "causal_conv1d", "ssd_scan", "gated_rms_norm", "rms_norm")
    operators = [getattr(torch.ops.ssmpress, name).default for name in names]
    own = {operator: _translation(operator) for operator in operators}
    return own | {torch.ops.aten.softplus.default: _softplus}


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """In one node, which above the threshold is x to 2e-9."""
    from onnxscript import opset18

    del threshold
    if beta == 1:
        return opset18.Softplus(x)
    factor: Any = opset18.Constant(value_float=float(beta))
    return opset18.Div(opset18.Softplus(opset18.Mul(x, factor)), factor)


def _translation(operator: Any) -> Callable[..., Any]:
    """A function of the operator's arguments, of which the tensors are the node's inputs."""
    from onnxscript.values import Op, Opset

    schema, new = operator._schema, onnx.defs.OpSchema
    tensors = [
        number
        for number, argument in enumerate(schema.arguments)
        if str(argument.type) in ("Tensor", "Optional[Tensor]")
    ]
    optional = new.FormalParameterOption.Optional
    definition = new(
        schema.name.partition("::")[2],
        TRACED_DOMAIN,
        1,
        inputs=[
            new.FormalParameter(schema.arguments[i].name, "T", param_option=optional)
            for i in tensors
        ],
        outputs=[new.FormalParameter(f"y{i}", "T") for i in range(len(schema.returns))],
        type_constraints=[("T", ["tensor(float)"], "")],
    )
    op = Op(Opset(TRACED_DOMAIN, 1), definition.name, definition)

    def translate(*arguments: Any) -> Any:
        return op(*(arguments[number] for number in tensors))

    return translate


# ---- weights and names ----


def _set_tensors(graph: ir.Graph, traced: Traced, packed: Packed) -> None:
    """Give the initializers the module's names and the packed model's values; tied ones are one."""
    first: dict[str, ir.Value] = {}
    for value in list(graph.initializers.values()):
        name = traced.names.get(str(value.name))
        if name is None:
            continue  # a constant of the code
        graph.initializers.pop(str(value.name))
        if name in first:
            value.replace_all_uses_with(first[name], replace_graph_outputs=True)
            continue
        first[name] = value
        if name in packed.tensors:
            array = np.ascontiguousarray(packed.tensors[name])
            value.const_value = ir.Tensor(array, name=name)
        value.name = name
        graph.initializers[name] = value


def _optimize(model: ir.Model) -> None:
    """Compute what is constant, drop what is unused or twice there."""
    from onnxscript import optimizer

    with _quiet():
        optimizer.optimize_ir(
            model,
            onnx_shape_inference=False,
            input_size_limit=MOST_FOLDED,
            output_size_limit=MOST_FOLDED,
        )


def _name_ports(graph: ir.Graph, traced: Traced) -> None:
    """Inputs, outputs and their sizes by the user's names."""
    inputs, outputs = traced.ports
    taken = {port.name for port in (*inputs, *outputs)}
    for node in graph:
        for value in node.outputs:
            if value.name in taken:
                value.name = f"{value.name}_value"
    for value, port in zip(graph.inputs, inputs, strict=True):
        value.name, value.shape = port.name, ir.Shape(port.shape)
    for index, port in enumerate(outputs):
        value = graph.outputs[index]
        if value.name in taken or value.producer() is None:
            value = _copied(graph, value)
            graph.outputs[index] = value
        value.name, value.shape = port.name, ir.Shape(port.shape)


def _copied(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A value of its own for an output that is an input, a weight or another output too."""
    node = ir.node("Identity", [value])
    graph.append(node)
    node.outputs[0].type = value.type
    return node.outputs[0]


def _forget_where_it_was_made(model: ir.Model) -> None:
    """Drop the exporter's notes: lines and folders of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    model.graph.name = "network"


def _ir_version(opset: int) -> int:
    versions: Mapping[int, int] = {18: IR_VERSION, 20: 9, 23: 11}
    return versions[opset]
