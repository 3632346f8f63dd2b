"""Packed model -> one ONNX graph for prefill and decode.

Inputs and outputs (b batch, l sequence length, p positions, i layer; all sizes but the model's own
are dynamic):

====================== ======= ========================= =======================================
name                   type    shape                     what
====================== ======= ========================= =======================================
input_ids              int64   (b, l)                    tokens, 0 .. vocab_size - 1
logits_positions       int64   (p,)                      positions in 0 .. l-1 whose logits are
                                                         wanted: all, the last, or none
past_{name}.{i}        state   (b, ...)                  what layer i carries: its blocks' states,
                                                         such as conv_state (b, d_conv-1, d)
logits                 float32 (b, p, vocab_size)        scores of the next token
present_{name}.{i}     state   as past_{name}.{i}        states after the tokens: the next call's
                                                         past states
====================== ======= ========================= =======================================

Zero states start a sequence. A classifier and a forecaster see their whole input at once, start
from the zero state inside the graph, and have one input and one output:

====================== ======= ========================= =======================================
input_ids              int64   (b, l)                    a classifier's tokens, no padding
logits                 float32 (b, classes)              scores of the classes
series                 float32 (b, lookback, variates)   a forecaster's z-scored time steps
forecast               float32 (b, horizon, variates)    the time steps after them
====================== ======= ========================= =======================================

Initializers are named after the checkpoint's tensors, packed sections
with the section's name appended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ssmpress._version import __version__
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.tensors import (
    EMBEDDING,
    HEAD,
    LAST_NORM,
    PATCH_EMBEDDING,
    layer_name,
    layer_states,
)
from ssmpress.errors import BadInputError
from ssmpress.files import blaming
from ssmpress.formats import CONFIG_KEY, END_TOKENS_KEY, Values
from ssmpress.graph import fallback, ops
from ssmpress.graph.nodes import BLOCK_NODES
from ssmpress.graph.packed_graph import PackedGraph, Place, matrix_attributes
from ssmpress.pack.frequent import FrequentRows
from ssmpress.pack.model import PackedModel
from ssmpress.states import STATES_KEY, StateTensor, states_json

EXTERNAL_DATA_BYTES = 1 << 30
"""Above this the weights go to a file of their own; protobuf ends at 2 GiB."""
EXTERNAL_ALIGNMENT = 4096
"""Bytes: a page, the least that onnx-ir aligns to; the format needs SECTION_ALIGNMENT."""

IR_VERSION = 8
"""The first with functions, and opset 18's own."""


def export(model: PackedModel, path: Path) -> tuple[Path, ...]:
    """Write the graph to `path` (model.onnx), with `path`.data beside it above 1 GiB.

    Returns:
        The files written.

    Raises:
        WriteError: a file cannot be written.
    """
    graph = build(model)
    with blaming(path):
        return save(graph, path, external=model.nbytes >= EXTERNAL_DATA_BYTES)


def save(graph: ir.Model, path: Path, *, external: bool) -> tuple[Path, ...]:
    if not external:
        ir.save(graph, path)
        return (path,)
    data = path.with_name(path.name + ".data")
    ir.save(
        graph,
        path,
        external_data=data.name,
        size_threshold_bytes=1024,
        alignment=EXTERNAL_ALIGNMENT,
        align_threshold=0,
    )
    return (path, data)


def build(model: PackedModel) -> ir.Model:
    """The ONNX model, with the fallback functions of the ops it uses."""
    graph = _ModelGraph(model)
    graph.build()
    functions = [
        ir.serde.deserialize_function(fallback.function(name)) for name in sorted(graph.ops_used)
    ]
    result = ir.Model(
        graph.finish("mamba"),
        ir_version=IR_VERSION,
        producer_name="ssmpress",
        producer_version=__version__,
        functions=functions,
        doc_string=f"{model.config.title} {model.config.task.kind}; inputs, outputs and states: "
        "docs/ops.md of ssmpress.",
    )
    ends = {END_TOKENS_KEY: list(model.end_tokens)} if model.end_tokens else {}
    result.metadata_props[CONFIG_KEY] = json.dumps(model.config.to_dict() | ends, sort_keys=True)
    result.metadata_props[STATES_KEY] = states_json(graph.states)
    return result


class _ModelGraph(PackedGraph):
    """A model of packed matrices; every method returns the values it made."""

    def __init__(self, model: PackedModel) -> None:
        super().__init__(model, partial(_described, config=model.config))
        self.states: list[StateTensor] = []
        self.present: list[ir.Value] = []  # the same after the tokens

    def build(self) -> None:
        """The whole model: the task's inputs and nodes, around all layers."""
        task = self.config.task
        ports = task.ports(self.config.vocab_size)
        inputs = [self.input(port.name, _TYPES[port.type], port.shape) for port in ports.inputs]
        outputs = task.nodes(self, *inputs)
        for value, port in zip(outputs, ports.outputs, strict=True):
            self.output(value, port.shape)
        for value, state in zip(self.present, self.states, strict=True):
            self.output(value, _dims(state, "present"), _TYPES[state.dtype])

    def layers(self, entries: ir.Value) -> ir.Value:
        """The embedding and all layers: the residual stream (b, l, d_model) before the last norm.

        Args:
            entries: int64 (b, l), tokens, or float32 (b, l, patch).
        """
        if self.config.has_vocabulary:
            read = self.embedding(entries)
            x = self.scaled("embedding/scaled", read, self.config.embedding_scale)
        else:
            x = self.linear(f"{PATCH_EMBEDDING}.weight", entries, "patch_embedding")
        recurrent = self.config.task.recurrent
        batch = None if recurrent else self.node("Shape", "batch", [x], start=0, end=1)
        for number, layer in enumerate(self.config.layers):
            states = layer_states(layer, number)
            if batch is None:
                past = [self.past(state) for state in states]
            else:
                past = [self.zeros(state, batch) for state in states]
            x, *present = self.layer(number, layer, x, past)
            if recurrent:
                self.states += states
                self.present += present
        return x

    def layer(
        self, number: int, layer: LayerConfig, x: ir.Value, past: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """A layer from its states: the residual stream and the new states."""
        present: list[ir.Value] = []
        read, normal = "", x
        for part in layer.parts():
            if part.norm != read:
                read, normal = part.norm, self.model_norm(layer_name(number, part.norm), x)
            at, count = Place(number, part.name), len(part.block.states())
            before = past[len(present) : len(present) + count]
            y, *after = BLOCK_NODES[part.block.kind].nodes(self, part.block, at, normal, before)
            sum_name = f"layers.{number}/{_RESIDUALS[part.name]}"
            added = self.scaled(f"{sum_name}/added", y, part.scale)
            x = self.node("Add", sum_name, [x, added])
            present += after
        return [x, *present]

    def norm(self, x: ir.Value) -> ir.Value:
        """The last norm. x: (..., d_model)."""
        return self.model_norm(LAST_NORM, x, self.config.logits_scale)

    def past(self, state: StateTensor) -> ir.Value:
        """An input that holds a state before the tokens."""
        return self.input(f"past_{state.name}", _TYPES[state.dtype], _dims(state, "past"))

    def zeros(self, state: StateTensor, batch: ir.Value) -> ir.Value:
        """A state before the first step: one value for all layers that have one like it."""
        base = state.name.partition(".")[0]
        name = f"{base}_{'x'.join(map(str, state.shape))}"

        def make() -> ir.Value:
            size = self.constant(f"{name}_size", np.array(state.shape))
            shape = self.node("Concat", f"{name}_shape", [batch, size], axis=0)
            return self.node("ConstantOfShape", f"zero_{name}", [shape])

        return self.once(f"zero_{name}", make)

    def head(self, x: ir.Value, output: str) -> ir.Value:
        """The head's rows by x (..., d_model): the task's own, or scores of the next token."""
        if self.config.outputs:
            return self.linear(f"{HEAD}.weight", x, output)
        name, frequent = self.model.head_name, self.model.frequent
        if frequent is None:
            return self.linear(name, x, output)
        logits = self.linear(name, x, "logits/rounded")
        (errors,) = self.call(
            ops.LINEAR[frequent.errors.format],
            "logits/errors",
            {"x": x, **self.error_sections(frequent)},
            doc=f"{name}: what rounding took from the rows of the most frequent tokens",
            **matrix_attributes(frequent.errors),
        )
        rows = np.append(frequent.ids, 0)  # 0 is added to token 0
        shape = self.node("Shape", "logits/errors_shape", [errors])
        tokens = self.constant(f"{name}.frequent.ids", rows.reshape(1, 1, -1))
        places = self.node("Expand", "logits/errors_places", [tokens, shape])
        return self.node(
            "ScatterElements", "logits", [logits, places, errors], axis=2, reduction="add"
        )

    def error_sections(self, frequent: FrequentRows) -> dict[str, ir.Value]:
        """The packed errors of the head's frequent rows, by section."""
        return self.sections(f"{self.model.head_name}.frequent", frequent.errors)

    def embedding(self, tokens: ir.Value) -> ir.Value:
        """Rows of the embedding, read from the packed bytes that a tied head uses too."""
        name = EMBEDDING
        matrix = self.model.matrices[name]
        if not matrix.layout.whole:
            raise BadInputError(
                f"{name}: expected a dense format, since rows are read; got {matrix.format.name}."
            )
        sections = self.sections(name, matrix)
        if matrix.format in ops.EMBEDDING:
            frequent = self.model.frequent if self.config.tie_embeddings else None
            (read,) = self.call(
                ops.EMBEDDING[matrix.format],
                "embedding" if frequent is None else "embedding/rounded",
                {"ids": tokens, **sections},
                **matrix_attributes(matrix),
            )
            return read if frequent is None else self.corrected(read, tokens, frequent)
        # A Gather counts an id below 0 from the end; as the number of rows it refuses it.
        first = self.constant(f"{EMBEDDING}.first_id", np.array(0))
        end = self.constant(f"{EMBEDDING}.end_id", np.array(matrix.rows))
        below = self.node("Less", "embedding/below_zero", [tokens, first])
        counted = self.node("Where", "embedding/ids", [below, end, tokens])
        rows = self.node("Gather", "embedding/rows", [sections["weight"], counted], axis=0)
        if matrix.format.values is Values.FP32:
            return rows
        return self.node("Cast", "embedding", [rows], to=ir.DataType.FLOAT.value)

    def corrected(self, read: ir.Value, tokens: ir.Value, frequent: FrequentRows) -> ir.Value:
        """Embeddings plus what rounding took from those of the most frequent tokens."""
        slots = self.constant(f"{EMBEDDING}.frequent.slots", frequent.slots(self.config.vocab_size))
        short = self.node("Gather", "embedding/slots_int16", [slots, tokens], axis=0)
        slot = self.node("Cast", "embedding/slots", [short], to=ir.DataType.INT64.value)
        (errors,) = self.call(
            ops.EMBEDDING[frequent.errors.format],
            "embedding/errors",
            {"ids": slot, **self.error_sections(frequent)},
            **matrix_attributes(frequent.errors),
        )
        return self.node("Add", "embedding", [read, errors])


_RESIDUALS = {"mixer": "residual", "beside": "residual_beside", "mlp": "residual_mlp"}
"""Part of a layer -> name of the node that adds it to the residual stream."""
_TYPES = {
    "int64": ir.DataType.INT64,
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
}


def _dims(state: StateTensor, side: str) -> tuple[int | str, ...]:
    """Sizes of a state's input or output; `past_tokens` or `present_tokens` where it grows."""
    sizes: list[int | str] = list(state.shape)
    if state.grows is not None:
        sizes[state.grows] = f"{side}_tokens"
    return ("batch", *sizes)


def _described(name: str, config: ModelConfig) -> str:
    """What an input or output is, for viewers; `.3` at its end is the layer."""
    ports = config.task.ports(config.vocab_size)
    texts = {port.name: port.text for port in (*ports.inputs, *ports.outputs)}
    if name in texts:
        return texts[name]
    side, _, state = name.partition("_")
    base, _, layer = state.partition(".")
    if side == "present":
        return f"the next call's past_{base} (layer {layer})"
    kinds = (part.block.kind for part in config.layers[int(layer)].parts())
    what = next(t for kind in kinds for s, t in BLOCK_NODES[kind].STATES.items() if s == base)
    return f"{what}; zeros start a sequence (layer {layer})"
