"""Packed model -> one ONNX graph for prefill and decode.

Inputs and outputs (b batch, l sequence length, p positions, i layer; all sizes but the model's own
are dynamic):

====================== ======= ========================= =======================================
name                   type    shape                     what
====================== ======= ========================= =======================================
input_ids              int64   (b, l)                    tokens, 0 .. vocab_size - 1
logits_positions       int64   (p,)                      positions in 0 .. l-1 whose logits are
                                                         wanted: all, the last, or none
past_conv_state.{i}    float32 (b, d_conv-1, d)          last inputs of the convolution
past_scan_state.{i}    float32 (b, d_state, d)           state of the selective scan
logits                 float32 (b, p, vocab_size)        scores of the next token
present_conv_state.{i} float32 as past_conv_state.{i}    states after the tokens: the next call's
present_scan_state.{i} float32 as past_scan_state.{i}    past states
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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ssmpress._version import __version__
from ssmpress.checkpoint.config import EMBEDDING, HEAD, PATCH_EMBEDDING, ModelConfig
from ssmpress.errors import BadInputError
from ssmpress.files import blaming
from ssmpress.formats import CONFIG_KEY, Values
from ssmpress.graph import fallback, ops
from ssmpress.graph.builder import GraphBuilder
from ssmpress.pack.frequent import FrequentRows
from ssmpress.pack.matrix import PackedMatrix
from ssmpress.pack.model import PackedModel
from ssmpress.states import STATES_KEY, StateTensor, states_json

FloatArray = NDArray[np.float32]
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
        return _save(graph, path, external=model.nbytes >= EXTERNAL_DATA_BYTES)


def _save(graph: ir.Model, path: Path, *, external: bool) -> tuple[Path, ...]:
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
    graph = _MambaGraph(model)
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
        doc_string=f"Mamba-1 {model.config.task.kind}; inputs, outputs and states: docs/ops.md of "
        "ssmpress.",
    )
    result.metadata_props[CONFIG_KEY] = json.dumps(model.config.to_dict(), sort_keys=True)
    result.metadata_props[STATES_KEY] = states_json(graph.states)
    return result


class _MambaGraph(GraphBuilder):
    """A Mamba of packed matrices; every method returns the values it made."""

    def __init__(self, model: PackedModel) -> None:
        super().__init__(partial(_described, config=model.config))
        self.model, self.config = model, model.config
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
            self.output(value, ("batch", *state.shape))

    def layers(self, entries: ir.Value) -> ir.Value:
        """The embedding and all layers: the residual stream (b, l, d_model) before the last norm.

        Args:
            entries: int64 (b, l), tokens, or float32 (b, l, patch).
        """
        if self.config.has_vocabulary:
            x = self.embedding(entries)
        else:
            x = self.linear(f"{PATCH_EMBEDDING}.weight", entries, "patch_embedding")
        if not self.config.task.recurrent:
            return self.from_zero_states(x)
        for i in range(self.config.n_layer):
            x, *after = self.layer(i, x, self.past_states(i))
            self.present += after
        return x

    def norm(self, x: ir.Value) -> ir.Value:
        """The last norm. x: (..., d_model)."""
        return self.rms_norm("backbone.norm_f", x)

    def past_states(self, i: int) -> list[ir.Value]:
        """Inputs that hold the states of layer i before the tokens."""
        states = [
            StateTensor(f"{kind}_state.{i}", (rows, self.config.channels_of(i)))
            for kind, rows in zip(("conv", "scan"), self.state_rows(), strict=True)
        ]
        self.states += states
        return [
            self.input(f"past_{state.name}", ir.DataType.FLOAT, ("batch", *state.shape))
            for state in states
        ]

    def from_zero_states(self, x: ir.Value) -> ir.Value:
        """All layers, each from the zero state. x: (b, l, d_model) -> (b, l, d_model)."""
        batch = self.node("Shape", "batch", [x], start=0, end=1)
        states: dict[int, list[ir.Value]] = {}
        for i in range(self.config.n_layer):
            channels = self.config.channels_of(i)
            if channels not in states:
                states[channels] = self.zero_states(batch, channels)
            x, *_ = self.layer(i, x, states[channels])
        return x

    def zero_states(self, batch: ir.Value, channels: int) -> list[ir.Value]:
        """The states before the first step of every layer that has this many channels."""
        states = []
        for kind, rows in zip(("conv", "scan"), self.state_rows(), strict=True):
            name = f"{kind}_state_{channels}"
            size = self.constant(f"{name}_size", np.array([rows, channels]))
            shape = self.node("Concat", f"{name}_shape", [batch, size], axis=0)
            states.append(self.node("ConstantOfShape", f"zero_{name}", [shape]))
        return states

    def state_rows(self) -> tuple[int, int]:
        return self.config.d_conv - 1, self.config.d_state

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

    def sections(self, name: str, matrix: PackedMatrix) -> dict[str, ir.Value]:
        """The sections of a packed matrix as constants, by section."""
        return {s: self.constant(f"{name}.{s}", array) for s, array in matrix.sections.items()}

    def tensor(
        self, name: str, change: Callable[[FloatArray], FloatArray] | None = None
    ) -> ir.Value:
        """An unpacked weight, changed to what the op wants."""
        array = self.model.tensors[name]
        return self.constant(name, change(array) if change else array)

    def linear(self, name: str, x: ir.Value, output: str) -> ir.Value:
        """y = x Wᵀ with the packed matrix `name`, and its bias if the checkpoint has one."""
        matrix = self.model.matrices[name]
        sections = self.sections(name, matrix)
        bias_name = name.removesuffix("weight") + "bias"
        has_bias = bias_name in self.model.tensors and "dt_proj" not in name
        (product,) = self.call(
            ops.LINEAR[matrix.format],
            output + "/product" if has_bias else output,
            {"x": x, **sections},
            doc=f"{name}, {matrix.rows} x {matrix.columns}, {matrix.format.name}: {matrix.reason}",
            **matrix_attributes(matrix),
        )
        if has_bias:
            product = self.node("Add", output, [product, self.tensor(bias_name)])
        return product

    def embedding(self, tokens: ir.Value) -> ir.Value:
        """Rows of the embedding, read from the packed bytes that a tied head uses too."""
        name = "backbone.embedding.weight"
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
        rows = self.node("Gather", "embedding/rows", [sections["weight"], tokens], axis=0)
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

    def rms_norm(self, name: str, x: ir.Value) -> ir.Value:
        epsilon: dict[str, Any] = {ops.EPSILON_ATTRIBUTE: self.config.norm_eps}
        (normalized,) = self.call(
            ops.RMS_NORM,
            name.removeprefix("backbone."),
            {"x": x, "weight": self.tensor(f"{name}.weight")},
            **epsilon,
        )
        return normalized

    def layer(
        self, i: int, x: ir.Value, past: Sequence[ir.Value]
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Layer i from its two states: the residual stream and the new states."""
        c, weights, name = self.config, f"backbone.layers.{i}", f"layers.{i}"
        channels = c.channels_of(i)
        mixer = f"{weights}.mixer"
        normalized = self.rms_norm(f"{weights}.norm", x)
        xz = self.linear(f"{mixer}.in_proj.weight", normalized, f"{name}/in_proj")
        before_conv, z = self.split(f"{name}/xz", xz, ("x", "z"), (channels, channels))
        u, conv_state = self.convolution(i, before_conv, past[0])
        dbc = self.linear(f"{mixer}.x_proj.weight", u, f"{name}/x_proj")
        sizes = (c.dt_rank, c.d_state, c.d_state)
        delta_rank, B, C = self.split(f"{name}/dbc", dbc, ("delta", "B", "C"), sizes)
        delta = self.linear(f"{mixer}.dt_proj.weight", delta_rank, f"{name}/dt_proj")
        A = self.tensor(f"{mixer}.A_log", lambda A_log: -np.exp(A_log).T)
        D, bias = self.tensor(f"{mixer}.D"), self.tensor(f"{mixer}.dt_proj.bias")
        y, scan_state = self.call(
            ops.SELECTIVE_SCAN,
            f"{name}/scan",
            {
                "u": u,
                "delta": delta,
                "delta_bias": bias,
                "A": A,
                "B": B,
                "C": C,
                "D": D,
                "z": z,
                "state": past[1],
            },
            {"state_out": f"present_scan_state.{i}"},
        )
        out = self.linear(f"{mixer}.out_proj.weight", y, f"{name}/out_proj")
        return self.node("Add", f"{name}/residual", [x, out]), conv_state, scan_state

    def split(
        self, name: str, x: ir.Value, parts: Sequence[str], sizes: Sequence[int]
    ) -> list[ir.Value]:
        key = "split_" + "_".join(map(str, sizes))
        lengths = self.constant(key, np.array(sizes, np.int64))
        return self.several("Split", name, [x, lengths], [f"{name}/{p}" for p in parts], axis=-1)

    def convolution(self, i: int, x: ir.Value, state: ir.Value) -> list[ir.Value]:
        weights = f"backbone.layers.{i}.mixer.conv1d"
        bias_name = f"{weights}.bias"
        if bias_name in self.model.tensors:
            bias = self.tensor(bias_name)
        else:
            bias = self.constant(bias_name, np.zeros(self.config.channels_of(i), np.float32))
        weight = self.tensor(f"{weights}.weight", lambda w: w[:, 0].T)
        channels: dict[str, Any] = {ops.CHANNELS_ATTRIBUTE: self.config.channels_of(i)}
        return self.call(
            ops.CAUSAL_CONV1D,
            f"layers.{i}/conv",
            {"x": x, "weight": weight, "bias": bias, "state": state},
            {"state_out": f"present_conv_state.{i}"},
            **channels,
        )


def matrix_attributes(matrix: PackedMatrix) -> dict[str, Any]:
    """Attributes of every op with a packed matrix."""
    return {
        ops.COLUMNS_ATTRIBUTE: matrix.columns,
        ops.VERSION_ATTRIBUTE: matrix.format.version,
    }


_TYPES = {"int64": ir.DataType.INT64, "float32": ir.DataType.FLOAT}
_STATES = {
    "past_conv_state": "last inputs of the convolution, oldest first; zeros start a sequence",
    "past_scan_state": "state of the selective scan; zeros start a sequence",
    "present_conv_state": "the next call's past_conv_state",
    "present_scan_state": "the next call's past_scan_state",
}


def _described(name: str, config: ModelConfig) -> str:
    """What an input or output is, for viewers; `.3` at its end is the layer."""
    ports = config.task.ports(config.vocab_size)
    texts = {port.name: port.text for port in (*ports.inputs, *ports.outputs)}
    if name in texts:
        return texts[name]
    base, _, layer = name.partition(".")
    return f"{_STATES[base]} (layer {layer})"
