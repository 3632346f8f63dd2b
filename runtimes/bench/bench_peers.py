"""The same shape in other runtimes, in one interleaved run: ONNX Runtime, OpenVINO, llama.cpp.

    PYTHONPATH=toolchain build/peers/bin/python runtimes/bench/bench_peers.py \\
        build/bench/peers.json

`make bench-peers` makes that environment (peers.txt) and the models. A peer that fails to load is
named in the result with its reason, and left out. ONNX Runtime and OpenVINO get the better graph
for each task: one for prompts, one for single tokens, in a process each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import peer_models
from bench_models import MODELS
from gguf_models import QUANTISATIONS
from interleaved import Contestant, Run, measure, provenance, spread

from ssmpress.files import write_json
from ssmpress.machine import get_library_path

PEER = (sys.executable, str(Path(__file__).parent / "peer_worker.py"))
OURS = ("70-int8", "70-fp16", "90-int8", "dense-int8", "dense-fp32")
PROMPT = 512
DECODE = 24
SUFFIX = " (tokens)"
"""Of a contestant that only decodes; the table shows it in the row of the one for prompts."""


def contestants(models: Path, peers: Path) -> list[Contestant]:
    """Ours first, then every peer."""
    library = str(get_library_path())
    ours = [
        Contestant(
            f"ssmpress {name}",
            {"model": str(models / f"{name}.onnx"), "library": library},
            decode_tokens=DECODE,
        )
        for name in OURS
    ]
    others = _onnx_runtime(peers) + _openvino(peers) + _llama(peers)
    return ours + [replace(c, optional=True) for c in others]


def _onnx_runtime(peers: Path) -> list[Contestant]:
    result = []
    for title, stem in (("fp32", "stock"), ("int8", "ort-int8"), ("int4", "ort-int4")):
        name = f"onnxruntime {title}"
        prompt, token = ({"model": str(peers / f"{stem}-{k}.onnx")} for k in peer_models.GRAPHS)
        result.append(Contestant(name, prompt, prompt_tokens=PROMPT, decode_tokens=0))
        result.append(Contestant(name + SUFFIX, token, prompt_tokens=1, decode_tokens=DECODE))
    return result


def _openvino(peers: Path) -> list[Contestant]:
    result = []
    files = (
        ("fp32", "stock-{}.onnx"),
        ("int8", "openvino-int8-{}.xml"),
        ("int4", "openvino-int4-{}.xml"),
    )
    for title, pattern in files:
        for kind in peer_models.GRAPHS:
            decodes = kind == "token"
            length = 1 if decodes else PROMPT
            load = {"engine": "openvino", "model": str(peers / pattern.format(kind))}
            result.append(
                Contestant(
                    f"openvino {title}" + SUFFIX * decodes,
                    {**load, "length": length},
                    PEER,
                    prompt_tokens=length,
                    decode_tokens=DECODE * decodes,
                )
            )
    return result


def _llama(peers: Path) -> list[Contestant]:
    return [
        Contestant(
            f"llama.cpp {name}",
            {"engine": "llama.cpp", "model": str(peers / f"130m-{name}.gguf"), "length": 1},
            PEER,
            decode_tokens=DECODE,
        )
        for name in ("F32", *QUANTISATIONS)
    ]


def summary(run: Run, entries: list[Contestant], described: dict[str, Any]) -> dict[str, Any]:
    """One run as JSON types; a runtime's two graphs in one row."""
    rows: dict[str, Any] = {}
    for c in (c for c in entries if c.name in run.times):
        name = c.name.removesuffix(SUFFIX)
        times = run.times[c.name].summary()
        row = rows.setdefault(name, {})
        decodes = c.decode_tokens > 0
        row |= {k: v for k, v in times.items() if k != "peak_rss_mb" or decodes}
        if decodes:
            row["file_mb"] = round(peer_models.file_bytes(Path(c.load["model"])) / 1e6, 1)
    step = described["70-int8"]["step_bytes"]
    beyond = max(run.bandwidth)
    return {
        "threads": run.threads,
        "read_gb_per_s": {str(size): spread(rates) for size, rates in run.bandwidth.items()},
        "rows": rows,
        "left_out": run.left_out,
        "over_limit": run.over_limit("ssmpress 70-int8", step, beyond),
        "bars": bars(run) if run.threads == 1 else [],
    }


def bars(run: Run) -> list[dict[str, Any]]:
    """What was asked for and what came out, by round."""
    wanted = (
        ("ssmpress 70-int8", "llama.cpp Q4_0-pure", "decode", 1.9),
        ("ssmpress 70-int8", "onnxruntime fp32 (tokens)", "decode", 5.5),
        ("ssmpress dense-int8", "llama.cpp Q8_0", "decode", 1.0),
        ("ssmpress 70-int8", "onnxruntime fp32", "prefill", 2.0),
        ("ssmpress 70-int8", "openvino fp32", "prefill", 1.0),
    )
    rows = []
    for fast, slow, what, factor in wanted:
        if slow in run.left_out:
            continue
        got = run.ratio(slow, fast, what)
        text = f"{fast} over {slow.removesuffix(SUFFIX)}, {what}"
        met = got["median"] >= factor
        rows.append({"bar": text, "at_least": factor, "got": got, "met": met})
    return rows


def table(result: dict[str, Any]) -> str:
    """One row per runtime and format, both thread counts side by side, as Markdown."""
    runs = result["runs"]
    head = ["", "file MB", "RSS MB"]
    for run in runs:
        head += [f"decode/s {run['threads']}T", f"prefill/s {run['threads']}T"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, first in runs[0]["rows"].items():
        cells = [name, *(f"{first.get(k, math.nan):.0f}" for k in ("file_mb", "peak_rss_mb"))]
        for run in runs:
            row = run["rows"].get(name, {})
            for key in ("decode_tokens_per_s", "prefill_tokens_per_s"):
                cells.append(f"{row[key]:.0f}" if key in row else "-")
        lines.append("| " + " | ".join(cells) + " |")
    for bar in (bar for run in runs for bar in run["bars"]):
        got = bar["got"]
        lines.append(
            f"- {'met' if bar['met'] else 'NOT met'}: {bar['bar']}: {got['median']:.2f} "
            f"({got['min']:.2f} to {got['max']:.2f}, undisturbed {got['undisturbed']:.2f}; "
            f"asked {bar['at_least']:g})"
        )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Of the peers, and what llama.cpp says it was compiled for."""
    import llama_cpp

    names = ("onnxruntime", "openvino", "nncf", "llama-cpp-python", "gguf")
    built = llama_cpp.llama_print_system_info().decode().strip(" |")
    return {name: version(name) for name in names} | {"llama.cpp": built}


def main() -> None:
    """Build what is missing, measure, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=Path, default=Path("build/bench/models"))
    parser.add_argument("--peers", type=Path, default=Path("build/bench/peers"))
    parser.add_argument("--bandwidth", type=Path, default=Path("build/runtimes/read_bandwidth"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    os.environ.pop("OMP_WAIT_POLICY", None)  # llama.cpp's threads are to run as they do by default
    peer_models.build(arguments.models, arguments.peers, max(arguments.threads))
    names = [m.name for m in MODELS]
    described = {n: json.loads((arguments.models / f"{n}.json").read_text()) for n in names}
    buffers = (round(described["70-int8"]["step_bytes"] / 1e6), 2000)
    entries = contestants(arguments.models, arguments.peers)
    result = provenance(arguments.rounds) | {
        "shape": "Mamba-130M: d_model 768, 24 layers, vocabulary 50280, tied; tiled_model.py",
        "prompt_tokens": PROMPT,
        "decode_tokens": DECODE,
        "versions": versions(),
        "models": {name: described[name] for name in OURS},
    }
    runs = [
        measure(
            entries,
            threads=threads,
            rounds=arguments.rounds,
            bandwidth=arguments.bandwidth,
            buffers=buffers,
        )
        for threads in arguments.threads
    ]
    result["runs"] = [summary(run, entries, described) for run in runs]
    write_json(arguments.out, result)
    print(table(result))
    limit = [r["over_limit"]["median"] for r in result["runs"]]
    print(f"{arguments.out} (decode over its bytes / bandwidth: {median(limit):.2f})")


if __name__ == "__main__":
    main()
