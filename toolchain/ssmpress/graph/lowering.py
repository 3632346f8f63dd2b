"""Our PyTorch operators in an exported graph -> the ops of `ops.py` and standard nodes around."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ssmpress.graph import ops
from ssmpress.graph.builder import GraphBuilder
from ssmpress.graph.packed_graph import packed_product
from ssmpress.nets.fx_graph import FxGraph, aten
from ssmpress.nets.products import linear_matrix
from ssmpress.pack.matrix import PackedMatrix

TRACED_DOMAIN = "ssmpress.traced"
"""Of a node that stands for a PyTorch operator until it is lowered."""

NO_LIMIT = float(np.finfo(np.float32).max)


class Lowering:
    """Replaces the nodes of TRACED_DOMAIN.

    fx_graph: that the ONNX graph was made from. matrices: packed ones by name.
    """

    def __init__(
        self, graph: ir.Graph, fx_graph: FxGraph, matrices: Mapping[str, PackedMatrix]
    ) -> None:
        self.graph, self.fx_graph, self.matrices = graph, fx_graph, matrices
        self.builder = GraphBuilder(str)
        self.values = {str(v.name): v for node in graph for v in node.outputs}
        """Name of a node in FX -> its value, of those that are no inputs."""
        self.products: dict[str, ir.Value] = {}
        """Name of a linear node in FX -> its value before the bias."""

    def run(self) -> None:
        """Replace them all."""
        for node in list(self.graph):
            if node.domain == TRACED_DOMAIN:
                self._lower(node)
        for name, value in self.builder.initializers.items():
            self.graph.initializers[name] = value

    def _lower(self, node: ir.Node) -> None:
        call = _Call(node)
        outputs = _LOWER[node.op_type](self, call)
        made, self.builder.nodes = self.builder.nodes, []
        ir.convenience.replace_nodes_and_values(
            self.graph, node, [node], made, list(node.outputs)[: len(outputs)], outputs
        )
        self.values |= {str(value.name): value for value in outputs}

    # ---- values ----

    def numbers(self, name: str, *values: int) -> ir.Value:
        """int64 (k,) as a constant."""
        return self.builder.constant(name, np.array(values, np.int64))

    def filled(self, name: str, shape: tuple[int, ...], number: float) -> ir.Value:
        """A float32 constant of one number."""
        return self.builder.constant(name, np.full(shape, number, np.float32))

    def permuted(self, name: str, x: ir.Value, order: list[int]) -> ir.Value:
        """x with its axes in another order."""
        return self.builder.node("Transpose", name, [x], perm=order)

    def zeros(self, call: _Call, like: ir.Value, batch: Any, shape: tuple[int, ...]) -> ir.Value:
        """float32 (batch, *shape); `like` has the batch as its first axis, if it varies."""
        if isinstance(batch, int):
            text = "x".join(map(str, (batch, *shape)))
            return self.filled(f"zeros_{text}", (batch, *shape), 0)
        text = "x".join(map(str, shape))

        def make() -> ir.Value:
            batch_size = self._batch(call, like, str(batch))
            size = self.numbers(f"size_{text}", *shape)
            whole = self.builder.node("Concat", call.part("sizes"), [batch_size, size], axis=0)
            return self.builder.node("ConstantOfShape", call.part("zeros"), [whole])

        return self.builder.once(f"{batch} x {text}", make)

    def _batch(self, call: _Call, like: ir.Value, symbol: str) -> ir.Value:
        """The size of the first axis: of an input that has it, so that all scans share it."""
        for value in self.graph.inputs:
            for axis, size in enumerate(value.shape or ()):
                if str(getattr(size, "value", size)) == symbol:
                    name = f"{call.name}/batch"
                    return self.builder.node("Shape", name, [value], start=axis, end=axis + 1)
        return self.builder.node("Shape", call.part("batch"), [like], start=0, end=1)

    # ---- operators ----

    def linear(self, call: _Call) -> list[ir.Value]:
        """x Wᵀ + bias."""
        x, weight, bias = call.inputs
        name = linear_matrix(self.fx_graph, call.fx)
        product_name = call.part("product") if bias is not None else call.name
        matrix = self.matrices.get(name)
        if matrix is None:
            rows = int(call.fx.meta["val"].shape[-1])
            flat = weight
            if call.fx.args[1].meta["val"].dim() > 2:
                shape = self.numbers(f"shape_{rows}x", rows, -1)
                flat = self.builder.node("Reshape", call.part("matrix"), [weight, shape])
            turned = self.permuted(call.part("transposed"), flat, [1, 0])
            product = self.builder.node("MatMul", product_name, [x, turned])
        else:
            product = packed_product(self.builder, name, matrix, x, product_name)
        if bias is None:
            return [product]
        self.products[call.name] = product
        return [self.builder.node("Add", call.name, [product, bias])]

    def selective_scan(self, call: _Call) -> list[ir.Value]:
        """SelectiveScan where it computes this; else UngatedScan, and the gate in nodes."""
        u, delta, bias, A, B, C, D, z, state = call.inputs
        softplus, reverse, offset = bool(call.fx.args[9]), bool(call.fx.args[10]), 0.0
        if not softplus and bias is None:
            delta, bias, softplus, offset = self._step(call.fx.args[1], delta)
        batch, _, channels = call.shape(0)
        states = call.shape(3)[1]
        zeros = self.filled(f"zeros_{channels}", (channels,), 0)
        if state is None:
            state = self.zeros(call, u, batch, (states, channels))
        inputs = {
            "u": u,
            "delta": delta,
            "delta_bias": zeros if bias is None else bias,
            "A": self.permuted(call.part("A"), A, [1, 0]),
            "B": B,
            "C": C,
            "D": zeros if D is None else D,
            "state": state,
        }
        if softplus and not reverse and not offset and z is not None:
            return self.builder.call(ops.SELECTIVE_SCAN, call.name, inputs | {"z": z}, call.ends)
        y, end = self.builder.call(
            ops.UNGATED_SCAN,
            call.name if z is None else call.part("ungated"),
            inputs,
            {"state_out": call.ends["state_out"]},
            softplus=int(softplus),
            reverse=int(reverse),
            offset=offset,
        )
        return [
            y if z is None else self.builder.node("Mul", call.name, [y, self.silu(call, z)]),
            end,
        ]

    def _step(self, node: Any, delta: ir.Value) -> tuple[ir.Value, ir.Value | None, bool, float]:
        """A step size that was computed before the scan: from what the scan's own kernel makes it,
        which is faster than ONNX Runtime's Softplus.

        Returns:
            delta and delta_bias, whether softplus is taken of them, and what is added then.
        """
        offset, softened = 0.0, node
        if node.target is aten.add.Tensor and isinstance(node.args[1], int | float):
            if node.kwargs.get("alpha", 1) != 1:
                return delta, None, False, 0.0
            softened, offset = node.args[0], float(node.args[1])
        if softened.target is not aten.softplus.default or len(softened.args) > 1:
            return delta, None, False, 0.0
        before = softened.args[0]
        if before.target is torch.ops.ssmpress.linear.default and before.args[2] is not None:
            product = self.products[before.name]
            return product, self._value(before.args[2]), True, offset
        return self._value(before), None, True, offset

    def _value(self, node: Any) -> ir.Value:
        """The value of a node in FX."""
        if node in self.fx_graph.tensors:
            return self.graph.initializers[self.fx_graph.tensors[node]]
        return self.values[node.name]

    def silu(self, call: _Call, z: ir.Value) -> ir.Value:
        """z sigmoid(z)."""
        sigmoid = self.builder.node("Sigmoid", call.part("sigmoid"), [z])
        return self.builder.node("Mul", call.part("gate"), [z, sigmoid])

    def causal_conv1d(self, call: _Call) -> list[ir.Value]:
        """CausalConv1d, or a Conv where there is no SiLU."""
        x, weight, bias, state = call.inputs
        silu = bool(call.fx.args[4])
        batch, _, channels = call.shape(0)
        taps = call.shape(1)[1]
        if bias is None:
            bias = self.filled(f"zeros_{channels}", (channels,), 0)
        if state is None:
            state = self.zeros(call, x, batch, (taps - 1, channels))
        if silu:
            inputs = {
                "x": x,
                "weight": self.permuted(call.part("weight"), weight, [1, 0]),
                "bias": bias,
                "state": state,
            }
            return self.builder.call(
                ops.CAUSAL_CONV1D, call.name, inputs, call.ends, channels=channels
            )
        padded = self.builder.node("Concat", call.part("padded"), [state, x], axis=1)
        first = self.permuted(call.part("channels_first"), padded, [0, 2, 1])
        one = self.numbers("one", 1)
        kernel = self.builder.node("Unsqueeze", call.part("kernel"), [weight, one])
        y = self.builder.node("Conv", call.part("convolved"), [first, kernel, bias], group=channels)
        length = self.builder.node("Shape", call.part("length"), [x], start=1, end=2)
        end = self.builder.node("Shape", call.part("end"), [padded], start=1, end=2)
        kept = self.builder.node("Slice", call.ends["state_out"], [padded, length, end, one])
        return [self.permuted(call.name, y, [0, 2, 1]), kept]

    def ssd_scan(self, call: _Call) -> list[ir.Value]:
        """SsdScan, heads and groups flattened into the last axis."""
        x, delta, bias, A, B, C, D, state = call.inputs
        batch, _, heads, width = call.shape(0)
        groups, states = call.shape(4)[2:]
        if state is None:
            state = self.zeros(call, x, batch, (heads, states, width))
        lowest, highest = (float(limit) for limit in call.fx.args[9:11])
        shape = {
            "x": self.numbers(f"shape_0_0_{heads * width}", 0, 0, heads * width),
            "B": self.numbers(f"shape_0_0_{groups * states}", 0, 0, groups * states),
            "D": self.numbers(f"shape_{heads * width}", heads * width),
            "y": self.numbers(f"shape_0_0_{heads}_{width}", 0, 0, heads, width),
        }

        def reshaped(name: str, value: ir.Value, kind: str) -> ir.Value:
            return self.builder.node("Reshape", call.part(name), [value, shape[kind]])

        inputs = {
            "x": reshaped("x", x, "x"),
            "delta": delta,
            "delta_bias": self.filled(f"zeros_{heads}", (heads,), 0) if bias is None else bias,
            "A": A,
            "B": reshaped("B", B, "B"),
            "C": reshaped("C", C, "B"),
            "D": self.filled(f"zeros_{heads * width}", (heads * width,), 0)
            if D is None
            else reshaped("D", D, "D"),
            "state": state,
        }
        y, end = self.builder.call(
            ops.SSD_SCAN,
            call.part("flat"),
            inputs,
            {"state_out": call.ends["state_out"]},
            dt_min=max(lowest, 0.0),
            dt_max=min(highest, NO_LIMIT),
        )
        return [self.builder.node("Reshape", call.name, [y, shape["y"]]), end]

    def gated_rms_norm(self, call: _Call) -> list[ir.Value]:
        """GatedRMSNorm of (b, l, d); another rank is made that."""
        x, z, weight = call.inputs
        eps, groups, gate_first = call.fx.args[3:6]
        own, name = len(call.shape(0)), call.name
        if own != 3:
            three = self.numbers(f"shape_1_rest_{call.shape(0)[-1]}", 1, -1, call.shape(0)[-1])
            z = self.builder.node("Reshape", call.part("z"), [z, three])
            sizes = self.builder.node("Shape", call.part("sizes"), [x])
            x = self.builder.node("Reshape", call.part("x"), [x, three])
            name = call.part("flat")
        (y,) = self.builder.call(
            ops.GATED_RMS_NORM,
            name,
            {"x": x, "z": z, "weight": weight},
            epsilon=float(eps),
            groups=int(groups),
            gate_first=int(gate_first),
        )
        return [y if own == 3 else self.builder.node("Reshape", call.name, [y, sizes])]

    def rms_norm(self, call: _Call) -> list[ir.Value]:
        """RMSNorm."""
        x, weight = call.inputs
        return self.builder.call(
            ops.RMS_NORM, call.name, {"x": x, "weight": weight}, epsilon=float(call.fx.args[2])
        )


class _Call:
    """A call of an operator: its inputs in ONNX, None where there is none, and its node in FX."""

    def __init__(self, node: ir.Node) -> None:
        self.fx = node.meta["node"]
        self.name = str(node.outputs[0].name)
        self.ends = {"state_out": str(node.outputs[1].name)} if len(node.outputs) > 1 else {}
        tensors = [
            argument
            for argument in self.fx.target._schema.arguments
            if str(argument.type) in ("Tensor", "Optional[Tensor]")
        ]
        given: list[ir.Value | None] = list(node.inputs)
        self.inputs: list[Any] = given + [None] * (len(tensors) - len(given))

    def part(self, name: str) -> str:
        """The name of a node that helps to compute this call."""
        return f"{self.name}/{name}"

    def shape(self, argument: int) -> tuple[Any, ...]:
        """Of a tensor argument; sizes that vary are torch's."""
        return tuple(
            int(size) if str(size).isdigit() else size
            for size in self.fx.args[argument].meta["val"].shape
        )


_LOWER = {
    name: getattr(Lowering, name)
    for name in (
        "linear",
        "selective_scan",
        "causal_conv1d",
        "ssd_scan",
        "gated_rms_norm",
        "rms_norm",
    )
}
"""Operator -> how it is lowered."""
