"""SsdScan and GatedRMSNorm in ONNX Runtime: the op library against what the stock runtime has.

    python runtimes/bench/ssd_vs_stock.py docs/benchmarks/ssd_scan.json

24 heads of 64 channels, a state of 128 rows, one group, batch 1, one thread. All take turns and
write to memory that is there already; a turn is the mean of some calls, so that none is shorter
than a millisecond. Times are CPU milliseconds of the calling thread, which computes alone: what
other programs take from it on a shared machine does not count. Medians of the turns; ratios are
medians of the ratios of a turn.

    linear_attention        com.microsoft.LinearAttention by itself: steps, dt x, dt A and B and C
                            repeated for every head are given
    linear_attention_whole  the same result from the same inputs as the op: also the nodes around it
    function                the op's own ONNX function
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from interleaved import provenance
from onnx import TensorProto, helper

from ssmpress.graph import fallback, ops
from ssmpress.machine import get_library_path
from ssmpress.runtime.onnx_runtime import import_onnxruntime

H, N, P = 24, 128, 64
D = H * P
LARGEST = float(np.finfo(np.float32).max)
SSD_SHAPES: dict[str, list[int | str]] = {
    "x": [1, "l", D],
    "delta": [1, "l", H],
    "delta_bias": [H],
    "A": [H],
    "B": [1, "l", N],
    "C": [1, "l", N],
    "D": [D],
    "state": [1, H, N, P],
}
SSD_OUTPUTS: dict[str, list[int | str]] = {"y": [1, "l", D], "state_out": [1, H, N, P]}
NODE_SHAPES: dict[str, list[int | str]] = {
    "query": [1, "l", H * N],
    "key": [1, "l", H * N],
    "value": [1, "l", D],
    "state": [1, H, N, P],
    "decay": [1, "l", H],
}
NORM_SHAPES: dict[str, list[int | str]] = {"x": [1, "l", D], "z": [1, "l", D], "weight": [D]}
ATTENTION = f"""LinearAttention <q_num_heads = {H}, kv_num_heads = {H}, update_rule = "gated",
    scale = 1.0> (query, key, value, state, decay)"""
AROUND = f"""
    biased = Add(delta, delta_bias)
    dt = Softplus(biased)
    decay = Mul(dt, A)
    by_head = Constant <value_ints = [0, 0, {H}, -1]> ()
    flat = Constant <value_ints = [0, 0, -1]> ()
    last = Constant <value_ints = [-1]> ()
    times = Constant <value_ints = [1, 1, {H}]> ()
    x_heads = Reshape(x, by_head)
    dt_last = Unsqueeze(dt, last)
    x_dt = Mul(x_heads, dt_last)
    value = Reshape(x_dt, flat)
    key = Tile(B, times)
    query = Tile(C, times)
    read, state_out = com.microsoft.{ATTENTION}
    skip = Mul(D, x)
    y = Add(read, skip)
"""
Turn = Callable[[], float]


def typed(shapes: dict[str, list[int | str]]) -> str:
    """As the parser of onnx reads inputs and outputs."""
    return ", ".join(f"float[{', '.join(map(str, s))}] {name}" for name, s in shapes.items())


def graph_model(
    inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]], body: str
) -> bytes:
    """A model of standard nodes and ONNX Runtime's own."""
    header = '<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>'
    text = f"{header} stock ({typed(inputs)}) => ({typed(outputs)}) {{{body}}}"
    return onnx.parser.parse_model(text).SerializeToString()


def op_model(
    op: ops.Op,
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    **attributes: float,
) -> bytes:
    """One node of the domain, with its function."""
    node = helper.make_node(op.name, list(inputs), list(outputs), domain=ops.DOMAIN, **attributes)
    infos = [
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]
        for shapes in (inputs, outputs)
    ]
    opsets = [helper.make_opsetid("", ops.ONNX_OPSET), helper.make_opsetid(ops.DOMAIN, 1)]
    graph = helper.make_graph([node], op.name, *infos)
    model = helper.make_model(
        graph, functions=[fallback.function(op.name)], opset_imports=opsets, ir_version=10
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def contestant(
    model: bytes,
    feed: dict[str, np.ndarray],
    outputs: dict[str, list[int | str]],
    library: Path | None,
    calls: int,
) -> Turn:
    """A session of one thread with its inputs and outputs bound; calling it takes a turn, in ms."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    length = feed["x" if "x" in feed else "query"].shape[1]
    for name, value in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    for name, shape in outputs.items():
        empty = np.zeros([length if size == "l" else size for size in shape], np.float32)
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(empty))

    def turn() -> float:
        started = time.thread_time()
        for _ in range(calls):
            session.run_with_iobinding(binding)
        return 1e3 * (time.thread_time() - started) / calls

    turn.outputs = binding.copy_outputs_to_cpu  # type: ignore[attr-defined]
    return turn


def draw(shapes: dict[str, list[int | str]], length: int) -> dict[str, np.ndarray]:
    """Inputs, steps of about 0.02 and decays of about 0.9."""
    random = np.random.default_rng(0)
    sizes = {k: [length if size == "l" else size for size in v] for k, v in shapes.items()}
    feed = {k: random.standard_normal(s).astype(np.float32) for k, s in sizes.items()}
    if "A" in feed:
        feed["A"] = -np.exp(feed["A"] + 1)
        feed["delta_bias"] -= 4
    return feed


def node_feed(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What LinearAttention reads, of what SsdScan does."""
    dt = np.logaddexp(0, feed["delta"] + feed["delta_bias"]).astype(np.float32)
    return {
        "query": np.tile(feed["C"], H),
        "key": np.tile(feed["B"], H),
        "value": feed["x"] * np.repeat(dt, P, axis=-1),
        "state": feed["state"],
        "decay": dt * feed["A"],
    }


def compare(turns: dict[str, Turn], rounds: int) -> dict[str, float]:
    """Medians; the first two rounds do not count. The first contestant is ours."""
    samples = [{name: turn() for name, turn in turns.items()} for _ in range(rounds + 2)][2:]
    ours = next(iter(turns))
    times = {f"{k}_ms": round(statistics.median(s[k] for s in samples), 4) for k in turns}
    ratios = {
        f"{k}_to_{ours}": round(statistics.median(s[k] / s[ours] for s in samples), 2)
        for k in turns
        if k != ours
    }
    return times | ratios


def same(turns: dict[str, Turn], allowed: float = 1e-4) -> None:
    """Ends the run unless y of all that compute it is the same."""
    for turn in turns.values():
        turn()
    results = {k: turn.outputs()[0] for k, turn in turns.items()}  # type: ignore[attr-defined]
    expected = results[next(iter(turns))]
    for name, y in results.items():
        difference = float(np.abs(y - expected).max() / np.abs(expected).max())
        if not difference <= allowed:
            sys.exit(f"{name}: y differs by {difference:.2g} of the largest, at most {allowed:g}.")


def scan_row(length: int, rounds: int, library: Path) -> dict[str, float]:
    """SsdScan at one length."""
    calls = max(1, 64 // length)
    feed = draw(SSD_SHAPES, length)
    op = op_model(ops.SSD_SCAN, SSD_SHAPES, SSD_OUTPUTS, dt_min=0.0, dt_max=LARGEST)
    whole = graph_model(SSD_SHAPES, SSD_OUTPUTS, AROUND)
    node = graph_model(NODE_SHAPES, SSD_OUTPUTS, f"y, state_out = com.microsoft.{ATTENTION}")
    turns = {
        "op": contestant(op, feed, SSD_OUTPUTS, library, calls),
        "linear_attention_whole": contestant(whole, feed, SSD_OUTPUTS, None, calls),
        "function": contestant(op, feed, SSD_OUTPUTS, None, calls),
    }
    same(turns)
    turns["linear_attention"] = contestant(node, node_feed(feed), SSD_OUTPUTS, None, calls)
    return {"h": H, "n": N, "p": P, "l": length} | compare(turns, rounds)


def norm_row(length: int, gate_first: int, rounds: int, library: Path) -> dict[str, float]:
    """GatedRMSNorm at one length."""
    calls = max(1, 512 // length)
    outputs = {"y": NORM_SHAPES["x"]}
    attributes = {"epsilon": 1e-5, "groups": 1, "gate_first": gate_first}
    model = op_model(ops.GATED_RMS_NORM, NORM_SHAPES, outputs, **attributes)
    feed = draw(NORM_SHAPES, length)
    turns = {
        "op": contestant(model, feed, outputs, library, calls),
        "function": contestant(model, feed, outputs, None, calls),
    }
    same(turns)
    return {"d": D, "l": length, "gate_first": gate_first} | compare(turns, rounds)


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    library, rounds = get_library_path(), arguments.rounds
    result = provenance(rounds) | {
        "threads": 1,
        "ssd_scan": [scan_row(length, rounds, library) for length in (1, 4, 16, 128, 512)],
        "gated_rms_norm": [
            norm_row(length, gate_first, rounds, library)
            for length in (1, 128)
            for gate_first in (1, 0)
        ],
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
