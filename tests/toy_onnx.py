"""A small recurrent ONNX model with the interface of a bundle, made by hand.

It is no Mamba, but its logits depend on the whole past through both kinds of state, so that a
state that is lost, swapped or stale shows in them:

    x      = E[input_ids]                                     (b, l, d)
    conv   = causal depthwise convolution of x with past_conv_state
    h_t    = h_{t-1} + x_t, starting at past_scan_state (b, n, d), summed over n for the output
    logits = layer norm(x + conv + h)[positions] Eᵀ

`growing_model` has a state that every token makes longer, as attention has one:

    logits = (mean over all tokens until now of E[token])[positions] Eᵀ
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
    """`ssmpress.config` as it was before bundles listed their states: the sizes tell those."""
    sizes = {"d_model": D, "n_layer": LAYERS, "vocab_size": VOCAB, "d_state": N}
    return {**sizes, "d_conv": TAPS, "d_inner": D, "dt_rank": 1, **changes}


def states(d: int = D) -> list[dict[str, Any]]:
    """`ssmpress.states`."""
    fixed = {"dtype": "float32", "grows": None}
    return [
        {"name": f"{kind}_state.{i}", "shape": [rows, d], **fixed}
        for i in range(LAYERS)
        for kind, rows in (("conv", TAPS - 1), ("scan", N))
    ]


def weights(seed: int = 0, vocab: int = VOCAB, d: int = D) -> dict[str, NDArray[Any]]:
    """Embedding (vocab, d) and convolution (d, 1, taps)."""
    random = np.random.default_rng(seed)
    return {
        "E": random.normal(size=(vocab, d)).astype(np.float32),
        "W": random.normal(size=(d, 1, TAPS)).astype(np.float32),
    }


def toy_model(
    path: Path,
    *,
    seed: int = 0,
    vocab: int = VOCAB,
    d: int = D,
    repeats: int = 1,
    metadata: str | None = "",
    listed: str | None = "",
    custom_op: bool = False,
) -> Path:
    """Write the model.

    repeats: multiplies the work of the head, for variants of different speed.
    metadata: the text of `ssmpress.config`; empty is the right one, None is none.
    listed: the text of `ssmpress.states`, likewise; without it the bundle is an old one.
    custom_op: adds an op of the library without a fallback.
    """
    arrays = weights(seed, vocab, d)
    arrays["ET"] = np.ascontiguousarray(arrays["E"].T)
    arrays |= {
        "axis1": np.array(1, np.int64),
        "ones": np.ones((1, N, 1), np.float32) / N,
        "one": np.array([1], np.int64),
        "tail": np.array([-(TAPS - 1)], np.int64),
        "end": np.array([2**62], np.int64),
        "g": np.ones(d, np.float32),
        "zero": np.array(0, np.float32),
    }
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
            nodes,
            "toy",
            _inputs(d),
            _outputs(vocab, d),
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("ssmpress", 1)],
        ir_version=10,
    )
    entries = {
        "ssmpress.config": metadata
        if metadata != ""
        else json.dumps(config(vocab_size=vocab, d_inner=d)),
        "ssmpress.states": listed if listed != "" else json.dumps(states(d)),
    }
    helper.set_model_props(model, {key: text for key, text in entries.items() if text is not None})
    onnx.save(model, path)
    return path


def growing_model(path: Path, dtype: str = "float32") -> Path:
    """Write the model whose state grows: `seen_state.0`, (b, 2, tokens, d / 2) of `dtype`."""
    node, make = helper.make_node, helper.make_tensor_value_info
    element = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
    arrays = {
        "E": weights()["E"],
        "ET": np.ascontiguousarray(weights()["E"].T),
        "split": np.array([0, 0, 2, D // 2]),
        "joined": np.array([0, 0, D]),
        "axis1": np.array(1),
        "one": np.array([1]),
    }
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        node("Gather", ["E", "input_ids"], ["x"]),
        node("Reshape", ["x", "split"], ["heads"]),
        node("Transpose", ["heads"], ["news"], perm=[0, 2, 1, 3]),
        node("Cast", ["news"], ["stored"], to=element),
        node("Concat", ["past_seen_state.0", "stored"], ["present_seen_state.0"], axis=2),
        node("Cast", ["present_seen_state.0"], ["all"], to=TensorProto.FLOAT),
        node("Transpose", ["all"], ["by_token"], perm=[0, 2, 1, 3]),
        node("Reshape", ["by_token", "joined"], ["tokens"]),
        node("CumSum", ["tokens", "axis1"], ["sums"]),
        node("Shape", ["tokens"], ["size"]),
        node("ConstantOfShape", ["size"], ["ones"], value=one),
        node("CumSum", ["ones", "axis1"], ["counts"]),
        node("Div", ["sums", "counts"], ["means"]),
        node("Shape", ["past_seen_state.0"], ["before"], start=2, end=3),
        node("Shape", ["tokens"], ["until"], start=1, end=2),
        node("Slice", ["means", "before", "until", "one"], ["new"]),
        node("Gather", ["new", "logits_positions"], ["picked"], axis=1),
        node("MatMul", ["picked", "ET"], ["logits"]),
    ]
    shape = ["b", 2, "past", D // 2]
    graph = helper.make_graph(
        nodes,
        "growing",
        [*_inputs(D)[:2], make("past_seen_state.0", element, shape)],
        [_outputs(VOCAB, D)[0], make("present_seen_state.0", element, ["b", 2, "all", D // 2])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    state = {"name": "seen_state.0", "shape": [2, 0, D // 2], "dtype": dtype, "grows": 1}
    entries = {"ssmpress.config": {"vocab_size": VOCAB}, "ssmpress.states": [state]}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in entries.items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def growing_reference(tokens: NDArray[Any]) -> NDArray[np.float64]:
    """`growing_model`'s logits of every position in float64. (l,) -> (l, vocab)."""
    table = weights()["E"].astype(np.float64)
    means = np.cumsum(table[tokens], axis=0) / np.arange(1, len(tokens) + 1)[:, None]
    result: NDArray[np.float64] = means @ table.T
    return result


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


def changed_states(number: int, **changes: Any) -> list[dict[str, Any]]:
    listed = states()
    listed[number] |= changes
    return listed


SPOILED_STATES = [
    ("{", "ssmpress.states: expected JSON"),
    ("[" * 100_000, "ssmpress.states: expected JSON"),
    ("{}", "expected a list of states"),
    ([1], "state 0: name: expected a name"),
    ([{}] * 70_000, "expected a list of states"),
    (states()[:-1], "unexpected input past_scan_state.1"),
    ([*states(), {**states()[0], "name": "more"}], "an input named past_more"),
    ([*states(), states()[0]], "each state once"),
    (changed_states(1, name=""), "state 1: name: expected a name"),
    (changed_states(1, name=7), "state 1: name: expected a name"),
    (changed_states(1, dtype="float64"), "state 1: dtype: expected float32 or float16; got"),
    (changed_states(1, dtype="float16"), "input past_scan_state.0: expected"),
    (changed_states(1, shape=[4, 9]), "input past_scan_state.0: expected"),
    (changed_states(1, shape=[4]), "input past_scan_state.0: expected"),
    (changed_states(1, shape=[]), "state 1: shape: expected 1 to 7 sizes"),
    (changed_states(1, shape="48"), "state 1: shape: expected 1 to 7 sizes"),
    (changed_states(1, shape=[4, True]), "state 1: shape: expected 1 to 7 sizes"),
    (changed_states(1, shape=[4, -8]), "state 1: shape: expected 1 to 7 sizes"),
    (changed_states(1, shape=[4, 8.5]), "state 1: shape: expected 1 to 7 sizes"),
    (changed_states(1, shape=[1] * 8), "state 1: shape: expected 1 to 7 sizes"),
    (changed_states(1, shape=[2**24 + 1, 1]), "1 to 7 sizes of at most 16777216"),
    (changed_states(1, shape=[2**24, 2**24]), "state 1: shape: expected 1 to 7 sizes"),
    (changed_states(1, grows=2), "grows: expected an axis of the shape, or null; got 2"),
    (changed_states(1, grows=True), "state 1: grows: expected an axis"),
    (changed_states(1, grows=0), "sizes of at most 16777216, 0 where it grows"),
    (changed_states(1, grows=0, shape=[0, 8]), "input past_scan_state.0: expected"),
]
"""`ssmpress.states` as somebody may have spoiled it, and what Python and ssmrun say of it."""
