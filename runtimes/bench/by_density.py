"""Decode speed of every format by density: the measurement behind `format_costs.NS_PER_WEIGHT`.

python runtimes/bench/by_density.py build/runtimes/bench_kernels docs/benchmarks/formats.json \
    --raw 0.1=thinned.raw --raw 0.3=pruned.raw --raw 0.5=thickened.raw

Random masks fill windows worse than those of trained models; --raw (see bench_kernels.cc) gives the
weights to use at a density.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

DENSITIES = (0.1, 0.3, 0.5, 0.8, 1.0)


def ns_per_weight(run: dict[str, Any], name: str) -> float:
    """Nanoseconds per weight of a format."""
    row = next(r for r in run["results"] if r.get("format") == name)
    return 1 / float(row["gweights_per_s"])


def same_machine(dense_fp32: list[float]) -> list[float]:
    """Factors that give dense fp32, which no density changes, its median time in every run.

    Formats alternate within a run, so what slows a run down slows all of them; between runs a
    shared machine can differ by a factor of two.
    """
    return [median(dense_fp32) / ns for ns in dense_fp32]


def main() -> None:
    """Run the benchmark once per density and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--raw", action="append", default=[], metavar="DENSITY=FILE")
    arguments = parser.parse_args()
    real = {float(density): path for density, path in (r.split("=", 1) for r in arguments.raw)}
    runs = {}
    for density in DENSITIES:
        command = [arguments.bench, "--density", str(density), "--rounds", str(arguments.rounds)]
        if density in real:
            command += ["--raw", real[density], "--copies", "3"]
        run = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        runs[density] = run
    first = runs[DENSITIES[0]]
    scales = same_machine([ns_per_weight(run, "dense-fp32") for run in runs.values()])
    git = ["git", "rev-parse", "--short", "HEAD"]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": subprocess.run(git, capture_output=True, check=True, text=True).stdout.strip(),
        "cpu": first["cpu"],
        "isa": first["isa"],
        "threads": first["threads"],
        "rounds": first["rounds"],
        "shapes": "24 x (3072 x 768, 768 x 1536), clustered random masks; real weights three times",
        "real_weights": sorted(real),
        "densities": DENSITIES,
        "ns_per_weight": {
            row["format"]: [
                round(ns_per_weight(run, row["format"]) * scale, 4)
                for run, scale in zip(runs.values(), scales, strict=True)
            ]
            for row in first["results"]
            if "format" in row
        },
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
