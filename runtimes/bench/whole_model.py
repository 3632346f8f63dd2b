"""The whole model through ONNX Runtime: every sparsity and format beside the dense baselines.

    PYTHONPATH=toolchain python runtimes/bench/whole_model.py build/bench/whole_model.json

`make bench` builds what it needs: the models of bench_models.py and the program of
read_bandwidth.cc. One process per model, in turns, at 1 and 2 threads; bars are those of the
project's aims, with what was measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from bench_models import MODELS
from interleaved import Contestant, Run, measure, provenance, spread
from profile_ops import profile

from ssmpress.files import write_json
from ssmpress.machine import get_library_path
from ssmpress.printable import amount

FAR_BEYOND_THE_CACHE_MB = 2000


def contestants(models: Path) -> list[Contestant]:
    """Our models with our ops; stock ONNX Runtime on the dense model's fallbacks."""
    library = str(get_library_path())
    dense = str(models / "dense-fp32.onnx")
    ours = [
        Contestant(m.name, {"model": str(models / f"{m.name}.onnx"), "library": library})
        for m in MODELS
    ]
    return [
        *ours,
        Contestant("stock-fp32", {"model": dense}, decode_tokens=8),
        Contestant(
            "stock-fp32-decode", {"model": str(models / "stock-decode.onnx")}, prompt_tokens=1
        ),
    ]


def bars(run: Run, step_bytes: dict[str, int], buffer: int) -> list[dict[str, Any]]:
    """What was asked for and what came out: ratios by round, or a bound on them."""
    small = run.over_limit("70-int8", step_bytes["70-int8"], buffer)
    limit = _bar(f"70-int8 decode, bytes/bandwidth, {run.threads} threads", small, at_most=1.5)
    if run.threads > 1:
        return [limit]
    decode = (
        ("70-int8 over stock fp32", "stock-fp32-decode", "70-int8", 5.5),
        ("70-int8 over our dense fp32", "dense-fp32", "70-int8", 4.0),
        ("70-fp16 over our dense fp32", "dense-fp32", "70-fp16", 2.5),
        ("50-int8 over our dense int8, same head", "dense-int8-head4", "50-int8", 1.0),
        ("90-int8 over our dense fp32", "dense-fp32", "90-int8", 9.0),
    )
    rows = [_bar(text + ", decode", run.ratio(a, b), at_least=n) for text, a, b, n in decode]
    prefill = run.ratio("stock-fp32", "70-int8", "prefill")
    rows.append(_bar("70-int8 over stock fp32, prefill 512", prefill, at_least=2.0))
    return [*rows, limit]


def _bar(
    text: str, got: dict[str, float], at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    high_enough = at_least is None or got["median"] >= at_least
    met = high_enough and (at_most is None or got["median"] <= at_most)
    bound = {"at_least": at_least} if at_least is not None else {"at_most": at_most}
    return {"bar": text, **bound, "got": got, "met": met}


def summary(run: Run, described: dict[str, Any], buffer: int) -> dict[str, Any]:
    """One run as JSON types."""
    step_bytes = {name: d["step_bytes"] for name, d in described.items()}
    rows = {}
    for name, times in run.times.items():
        rows[name] = times.summary()
        rows[name]["decode_over_stock_fp32"] = run.ratio("stock-fp32-decode", name)
        rows[name]["decode_over_dense_fp32"] = run.ratio("dense-fp32", name)
        if name in step_bytes:
            rows[name]["decode_over_limit"] = run.over_limit(name, step_bytes[name], buffer)
        if times.prompt_tokens > 1:
            rows[name]["prefill_over_stock_fp32"] = run.ratio("stock-fp32", name, "prefill")
    return {
        "threads": run.threads,
        "read_gb_per_s": {str(size): spread(rates) for size, rates in run.bandwidth.items()},
        "models": rows,
        "bars": bars(run, step_bytes, buffer),
    }


def table(result: dict[str, Any]) -> str:
    """The runs as Markdown."""
    lines = []
    for run in result["runs"]:
        rates = ", ".join(f"{k} MB {v['median']:.1f}" for k, v in run["read_gb_per_s"].items())
        threads = amount(run["threads"], "thread")
        lines += [f"{threads}; read bandwidth in GB/s: {rates}", ""]
        lines += [
            "| model | MB | decode ms | tokens/s | x stock | x dense | x limit | prefill ms |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for name, row in run["models"].items():
            size = result["models"].get(name, {}).get("weight_bytes", 0) / 1e6
            limit = row.get("decode_over_limit", {}).get("median", float("nan"))
            lines.append(
                f"| {name} | {size:.1f} | {row['decode_ms']['median']:.2f} | "
                f"{row['decode_tokens_per_s']:.1f} | {row['decode_over_stock_fp32']['median']:.2f} "
                f"| {row['decode_over_dense_fp32']['median']:.2f} | {limit:.2f} | "
                f"{row.get('prefill_ms', {}).get('median', float('nan')):.0f} |"
            )
        lines.append("")
        lines += [
            f"- {'met' if b['met'] else 'NOT met'}: {b['bar']}: {b['got']['median']:.2f} "
            f"({b['got']['min']:.2f} to {b['got']['max']:.2f}, undisturbed "
            f"{b['got'].get('undisturbed', 0):.2f}; asked "
            f"{b.get('at_least', b.get('at_most')):g})"
            for b in run["bars"]
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=Path, default=Path("build/bench/models"))
    parser.add_argument("--bandwidth", type=Path, default=Path("build/runtimes/read_bandwidth"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    models = arguments.models
    described = {m.name: json.loads((models / f"{m.name}.json").read_text()) for m in MODELS}
    buffer = round(described["70-int8"]["step_bytes"] / 1e6)
    result = provenance(arguments.rounds) | {
        "shape": "Mamba-130M: d_model 768, 24 layers, vocabulary 50280, tied; tiled_model.py",
        "models": described,
    }
    runs = [
        measure(
            contestants(models),
            threads=threads,
            rounds=arguments.rounds,
            bandwidth=arguments.bandwidth,
            buffers=(buffer, FAR_BEYOND_THE_CACHE_MB),
        )
        for threads in arguments.threads
    ]
    result["runs"] = [summary(run, described, buffer) for run in runs]
    result["model_mb"] = _bar(
        "70-int8, MB of weights",
        spread([described["70-int8"]["weight_bytes"] / 1e6]),
        at_most=85.0,
    )
    result["profile"] = {
        name: profile(models / f"{name}.onnx", get_library_path(), threads=1)
        for name in ("70-int8", "dense-fp32")
    }
    write_json(arguments.out, result)
    print(table(result))
    rate = median([run.times["70-int8"].decode[0] for run in runs])
    print(f"{arguments.out} (first round of 70-int8: {rate:.2f} ms)")


if __name__ == "__main__":
    main()
