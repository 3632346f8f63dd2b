"""A small recurrent ONNX model with the interface of a bundle, made by hand.

It is no Mamba, but its logits depend on the whole past through both kinds of state, so that a
state that is lost, swapped or stale shows in them:

    x      = E[input_ids]                                     (b, l, d)
    conv   = causal depthwise convolution of x with past_conv_state
    h_t    = h_{t-1} + x_t, starting at past_scan_state (b, n, d), summed over n for the output
    logits = layer norm(x + conv + h)[positions] Eᵀ
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

VOCAB, D, N, TAPS, LAYERS = 50, 8, 4, 4, 2


def config(**changes: Any) -> dict[str, Any]:
    """The model's metadata."""
    sizes = {"d_model": D, "n_layer": LAYERS, "vocab_size": VOCAB, "d_state": N}
    return {**sizes, "d_conv": TAPS, "d_inner": D, "dt_rank": 1, **changes}


def weights(seed: int = 0, vocab: int = VOCAB, d: int = D) -> dict[str, NDArray[Any]]:
    """Embedding (vocab, d) and convolution (d, 1, taps)."""
    random = np.random.default_rng(seed)
    return {
        "E": random.normal(size=(vocab, d)).astype(np.float32),
        "W": random.normal(size=(d, 1, TAPS)).astype(np.float32),
    }


def toy_model(
    path: Path, *, seed: int = 0, vocab: int = VOCAB, d: int = D, repeats: int = 1,
    metadata: str | None = "", custom_op: bool = False,
) -> Path:  # fmt: skip
    """Write the model.

    repeats: multiplies the work of the head, for variants of different speed.
    metadata: the text of `ssmpress.config`; empty is the right one, None is none.
    custom_op: adds an op of the library without a fallback.
    """
    arrays = weights(seed, vocab, d)
    arrays["ET"] = np.ascontiguousarray(arrays["E"].T)
    arrays |= {
        "axis1": np.array(1, np.int64), "ones": np.ones((1, N, 1), np.float32) / N,
        "one": np.array([1], np.int64), "tail": np.array([-(TAPS - 1)], np.int64),
        "end": np.array([2**62], np.int64), "g": np.ones(d, np.float32),
        "zero": np.array(0, np.float32),
    }  # fmt: skip
    nodes = [helper.make_node("Gather", ["E", "input_ids"], ["x.0"])]
    for i in range(LAYERS):
        nodes += _layer(i, d)
    nodes.append(helper.make_node("LayerNormalization", [f"x.{LAYERS}", "g"], ["normed"]))
    nodes.append(helper.make_node("Gather", ["normed", "logits_positions"], ["picked"], axis=1))
    source = "picked"
    for i in range(repeats - 1):  # each depends on the one before: nothing to fold or share
        nodes.append(helper.make_node("MatMul", [source, "ET"], [f"wide.{i}"]))
        nodes.append(helper.make_node("MatMul", [f"wide.{i}", "E"], [f"narrow.{i}"]))
        nodes.append(helper.make_node("Mul", [f"narrow.{i}", "zero"], [f"nothing.{i}"]))
        nodes.append(helper.make_node("Add", ["picked", f"nothing.{i}"], [f"again.{i}"]))
        source = f"again.{i}"
    nodes.append(helper.make_node("MatMul", [source, "ET"], ["logits"]))
    if custom_op:
        nodes.insert(1, helper.make_node("NoSuchOp", ["x.0"], ["unused"], domain="ssmpress"))
    model = helper.make_model(
        helper.make_graph(
            nodes, "toy", _inputs(d), _outputs(vocab, d),
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("ssmpress", 1)],
        ir_version=10,
    )  # fmt: skip
    if metadata is not None:
        text = metadata or json.dumps(config(vocab_size=vocab, d_inner=d))
        helper.set_model_props(model, {"ssmpress.config": text})
    onnx.save(model, path)
    return path


def _layer(i: int, d: int) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Concat", [f"past_conv_state.{i}", f"x.{i}"], [f"padded.{i}"], axis=1),
        node("Slice", [f"padded.{i}", "tail", "end", "one"], [f"present_conv_state.{i}"]),
        node("Transpose", [f"padded.{i}"], [f"channels.{i}"], perm=[0, 2, 1]),
        node("Conv", [f"channels.{i}", "W"], [f"filtered.{i}"], group=d),
        node("Transpose", [f"filtered.{i}"], [f"conv.{i}"], perm=[0, 2, 1]),
        node("CumSum", [f"x.{i}", "axis1"], [f"sum.{i}"]),
        node("ReduceSum", [f"past_scan_state.{i}", "one"], [f"past.{i}"], keepdims=1),
        node("Add", [f"sum.{i}", f"past.{i}"], [f"h.{i}"]),
        node("ReduceSum", [f"x.{i}", "one"], [f"news.{i}"], keepdims=1),
        node("Mul", [f"news.{i}", "ones"], [f"spread.{i}"]),
        node("Add", [f"past_scan_state.{i}", f"spread.{i}"], [f"present_scan_state.{i}"]),
        node("Sum", [f"x.{i}", f"conv.{i}", f"h.{i}"], [f"mixed.{i}"]),
        node("Tanh", [f"mixed.{i}"], [f"x.{i + 1}"]),
    ]


def _states(d: int, prefix: str) -> list[onnx.ValueInfoProto]:
    make, real = helper.make_tensor_value_info, TensorProto.FLOAT
    values = []
    for i in range(LAYERS):
        values.append(make(f"{prefix}_conv_state.{i}", real, ["b", TAPS - 1, d]))
        values.append(make(f"{prefix}_scan_state.{i}", real, ["b", N, d]))
    return values


def _inputs(d: int) -> list[onnx.ValueInfoProto]:
    make, whole = helper.make_tensor_value_info, TensorProto.INT64
    ids = make("input_ids", whole, ["b", "l"])
    return [ids, make("logits_positions", whole, ["p"]), *_states(d, "past")]


def _outputs(vocab: int, d: int) -> list[onnx.ValueInfoProto]:
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "p", vocab])
    return [logits, *_states(d, "present")]


def reference(tokens: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """The toy's logits of every position from the zero state, in float64. (l,) -> (l, vocab)."""
    arrays = {name: array.astype(np.float64) for name, array in weights(seed).items()}
    x = arrays["E"][tokens]
    for _ in range(LAYERS):
        padded = np.concatenate([np.zeros((TAPS - 1, D)), x])
        conv = sum(padded[j : j + len(x)] * arrays["W"][:, 0, j] for j in range(TAPS))
        x = np.tanh(x + conv + np.cumsum(x, axis=0))
    centred = x - x.mean(axis=1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    result: NDArray[np.float64] = normed @ arrays["E"].T
    return result
