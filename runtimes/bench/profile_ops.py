"""Where the time of a model goes, by ONNX Runtime's own profile: milliseconds by op and layer part.

    PYTHONPATH=toolchain python runtimes/bench/profile_ops.py build/bench/models/70-int8.onnx

Profiling itself costs time (a few microseconds a node), so the sum is larger than the benchmark's.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ssmpress.machine import get_library_path
from ssmpress.runtime.loading import open_session
from ssmpress.runtime.session import Session

STEPS = 40
PROMPT = 512


def profile(model: Path, library: Path | None, *, threads: int) -> dict[str, Any]:
    """Medians over the calls: {"decode": rows, "prefill_512": rows}, costliest first.

    A row is {"op", "part", "nodes", "ms"}: all nodes of one op type and one place in a layer.
    "between nodes" is the time of a call that no node accounts for.
    """
    result = {}
    for name, tokens, calls in (("decode", 1, STEPS), ("prefill_512", PROMPT, 4)):
        session = open_session(model, threads=threads, library=library, profile=True)
        _run(session, tokens, calls)
        trace = session.end_profiling()
        try:
            result[name] = _rows(json.loads(trace.read_text()), skip=2 if calls > 4 else 1)
        finally:
            trace.unlink()
    return result


def _run(session: Session, tokens: int, calls: int) -> None:
    random = np.random.default_rng(0)
    vocab = session.interface.vocab_size
    state = session.initial_state(1)
    for _ in range(calls):
        if tokens == 1:
            session.step(random.integers(vocab, size=1), state)
        else:
            session.prefill(random.integers(vocab, size=(1, tokens)))


def _rows(events: list[dict[str, Any]], skip: int) -> list[dict[str, Any]]:
    calls = [e for e in events if e.get("name") == "model_run"]
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    per_call: list[dict[tuple[str, str], float]] = []
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for call in calls[skip:]:
        begin, end = call["ts"], call["ts"] + call["dur"]
        times: dict[tuple[str, str], float] = defaultdict(float)
        inside = [e for e in nodes if begin <= e["ts"] < end]
        for e in inside:
            times[_key(e)] += e["dur"] / 1000
        times["(none)", "between nodes"] = (call["dur"] - sum(e["dur"] for e in inside)) / 1000
        per_call.append(times)
        counts = defaultdict(int)
        for e in inside:
            counts[_key(e)] += 1
    keys = {key for times in per_call for key in times}
    rows = [
        {
            "op": key[0],
            "part": key[1],
            "nodes": counts[key],
            "ms": round(median(times[key] for times in per_call), 4),
        }
        for key in keys
    ]
    return sorted(rows, key=lambda row: -row["ms"])


def _key(event: dict[str, Any]) -> tuple[str, str]:
    """Op type, and the node's name without its layer and other numbers."""
    name = event["name"].removesuffix("_kernel_time")
    part = re.sub(r"layers\.\d+[/.]", "", name)
    return event["args"]["op_name"], re.sub(r"\d+", "#", part)


def main() -> None:
    """Print both profiles of a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stock", action="store_true", help="without the op library")
    arguments = parser.parse_args()
    library = None if arguments.stock else get_library_path()
    for name, rows in profile(arguments.model, library, threads=arguments.threads).items():
        total = sum(row["ms"] for row in rows)
        print(f"{name}: {total:.3f} ms")
        for row in rows[:25]:
            print(f"  {row['ms']:9.3f} ms {row['nodes']:4d} x {row['op']:24s} {row['part']}")


if __name__ == "__main__":
    main()
