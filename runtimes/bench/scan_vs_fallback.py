"""SelectiveScan in ONNX Runtime: the op library against the op's own ONNX function.

    python runtimes/bench/scan_vs_fallback.py docs/benchmarks/selective_scan.json

d 1536, n 16, l 128 and one token, batch 1, one thread; the two take turns; medians, and the least
of each for a busy machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ssmpress.graph import fallback, ops
from ssmpress.machine import get_library_path
from ssmpress.measure.interleaved import host_environment
from ssmpress.runtime.onnx_runtime import import_onnxruntime

D, N = 1536, 16
REPEATS = 60


def make_model() -> bytes:
    """One SelectiveScan node with its fallback function."""
    shapes = {
        "u": [1, "l", D],
        "delta": [1, "l", D],
        "delta_bias": [D],
        "A": [N, D],
        "B": [1, "l", N],
        "C": [1, "l", N],
        "D": [D],
        "z": [1, "l", D],
        "state": [1, N, D],
    }
    inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "l", D]),
        helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [1, N, D]),
    ]
    node = helper.make_node(
        ops.SELECTIVE_SCAN.name, list(shapes), ["y", "state_out"], domain=ops.DOMAIN
    )
    opsets = [helper.make_opsetid("", ops.ONNX_OPSET), helper.make_opsetid(ops.DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph([node], "scan", inputs, outputs),
        functions=[fallback.function(ops.SELECTIVE_SCAN.name)],
        opset_imports=opsets,
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def session(model: bytes, *, library: bool) -> Any:
    """One thread, with or without the op library."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(str(get_library_path()))
    return onnxruntime.InferenceSession(model, options)


def bound(run: Any, feed: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> Any:
    """Inputs and outputs that stay where they are, as between the nodes of a model: a plain call
    allocates y anew and copies it, 0.3 ms for 128 tokens."""
    onnxruntime = import_onnxruntime()
    binding = run.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    return binding


def milliseconds(run: Any, binding: Any) -> float:
    """One call."""
    started = time.perf_counter()
    run.run_with_iobinding(binding)
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    """Measure and write the JSON file."""
    model = make_model()
    ours, stock = session(model, library=True), session(model, library=False)
    rows = []
    for length in (128, 1):
        random = np.random.default_rng(0)

        def draw(*shape: int, random: np.random.Generator = random) -> np.ndarray:
            return random.standard_normal(shape).astype(np.float32)

        feed = {
            "u": draw(1, length, D),
            "delta": draw(1, length, D),
            "delta_bias": draw(D) - 4,
            "A": -np.abs(draw(N, D)),
            "B": draw(1, length, N),
            "C": draw(1, length, N),
            "D": draw(D),
            "z": draw(1, length, D),
            "state": draw(1, N, D),
        }
        outputs = {"y": draw(1, length, D), "state_out": draw(1, N, D)}
        bindings = [bound(run, feed, outputs) for run in (ours, stock)]
        samples = [
            (milliseconds(ours, bindings[0]), milliseconds(stock, bindings[1]))
            for _ in range(REPEATS + 5)
        ][5:]
        columns = list(zip(*samples, strict=True))
        mine, other = (statistics.median(column) for column in columns)
        least, least_other = (min(column) for column in columns)
        rows.append(
            {
                "d": D,
                "n": N,
                "l": length,
                "op_ms": round(mine, 4),
                "fallback_ms": round(other, 4),
                "speedup": round(other / mine, 2),
                "op_ms_min": round(least, 4),
                "fallback_ms_min": round(least_other, 4),
                "speedup_of_min": round(least_other / least, 2),
            }
        )
    environment = host_environment(threads=1, library=get_library_path())
    kept = ("cpu", "isa_flags", "ops_isa", "threads", "onnxruntime", "load_average_1min")
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": {key: environment[key] for key in kept},
        "repeats": REPEATS,
        "rows": rows,
    }
    Path(sys.argv[1]).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
