"""Quality beside speed: one trained model in our formats and in llama.cpp's, on the same text.

    PYTHONPATH=toolchain build/peers/bin/python runtimes/bench/bench_quality.py \\
        --dense ../shared/models/mamba-31m --pruned 70=../shared/models/mamba-31m-70 \\
        --text ../shared/data/wikitext103/test.detok.txt build/bench/quality.json

Perplexity over the first windows of the text, the same tokens for all and evaluate.py's definition;
then decoded tokens in turns. llama.cpp's files are quantised by its own llama_model_quantize.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from bench_models import describe, pack
from bench_peers import PEER
from gguf_models import QUANTISATIONS
from interleaved import Contestant, measure, provenance
from numpy.typing import NDArray
from peer_models import file_bytes, write_gguf

from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.data.tokens import cut_windows, load_tokens
from ssmpress.files import write_json
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.machine import get_library_path
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.recipe.settings.pack import Head
from ssmpress.runtime.loading import open_session
from ssmpress.stages.source import CPU_CALIBRATION_TOKENS
from ssmpress.tasks.perplexity import perplexity

WINDOW = 1024


def make_ours(
    dense: Path, pruned: dict[str, Path], calibration: NDArray[np.int32], out: Path
) -> dict[str, Path]:
    """Name -> model: the dense model and the pruned ones, int8 with an int8 and a 4-bit head."""
    wanted: dict[str, tuple[Path, Values | None, Head]] = {"dense fp32": (dense, None, Head.AUTO)}
    for name, folder in {"dense": dense, **{f"{n} %": p for n, p in pruned.items()}}.items():
        wanted[f"{name} int8"] = (folder, Values.INT8, Head.INT8)
        wanted[f"{name} int8, 4-bit head"] = (folder, Values.INT8, Head.INT4)
    made = {}
    for name, settings in wanted.items():
        path = made[name] = out / f"{re.sub('[^a-z0-9]+', '-', name)}.onnx"
        packed = pack(*settings, calibration)
        export(packed, path)
        path.with_suffix(".json").write_text(json.dumps(describe(packed), indent=1) + "\n")
    return made


def our_perplexity(model: Path, windows: NDArray[np.int32], threads: int) -> float:
    """Through ONNX Runtime with the op library."""
    session = open_session(model, threads=threads, library=get_library_path())
    return perplexity(session.predict, windows).perplexity


def llama_perplexity(load: dict[str, Any], windows: NDArray[np.int32], threads: int) -> float:
    """Through llama.cpp's logits."""
    with WorkerProcess(load["model"], 1800, PEER) as worker:
        worker.ask({"do": "load", "threads": threads, "seed": 0, **load})
        nll = worker.ask({"do": "nll", "tokens": windows.tolist()})["nll"]
    return math.exp(math.fsum(nll) / (windows.shape[0] * (windows.shape[1] - 1)))


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| model | MB | perplexity | decode ms | prefill 512 ms |", "|---|---|---|---|---|"]
    for name, row in result["rows"].items():
        lines.append(
            f"| {name} | {row['file_mb']:.1f} | {row['perplexity']:.3f} | "
            f"{row['decode_ms']['median']:.2f} | {row['prefill_ms']['median']:.0f} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--pruned", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/bench/quality"))
    parser.add_argument("--bandwidth", type=Path, default=Path("build/runtimes/read_bandwidth"))
    return parser.parse_args()


def main() -> None:
    """Measure and write the JSON file."""
    arguments = parse()
    os.environ.pop("OMP_WAIT_POLICY", None)  # llama.cpp's threads are to run as they do by default
    arguments.work.mkdir(parents=True, exist_ok=True)
    dense = read_checkpoint(arguments.dense)
    if dense.tokenizer is None:
        raise SystemExit(f"{arguments.dense}: expected tokenizer.json beside the weights.")
    tokenizer, vocab_size = load_tokenizer(dense.tokenizer), dense.config.vocab_size
    calibration, tokens = (
        load_tokens((path,), tokenizer, vocab_size, limit=limit)
        for path, limit in (
            (arguments.calibration, CPU_CALIBRATION_TOKENS),
            (arguments.text, arguments.windows * WINDOW),
        )
    )
    windows = cut_windows(tokens, WINDOW)
    pruned = {
        name: Path(folder) for name, _, folder in (p.partition("=") for p in arguments.pruned)
    }
    models = make_ours(arguments.dense, pruned, calibration, arguments.work)
    write_gguf(arguments.dense, arguments.work / "dense", arguments.threads)
    library = str(get_library_path())
    entries, quality = [], {}
    for name, path in models.items():
        entries.append(Contestant(f"ssmpress {name}", {"model": str(path), "library": library}))
        quality[entries[-1].name] = our_perplexity(path, windows, arguments.threads)
    for name in ("F32", *QUANTISATIONS):
        path = arguments.work / f"dense-{name}.gguf"
        load = {"engine": "llama.cpp", "model": str(path), "length": 1}
        entries.append(Contestant(f"llama.cpp {name}", load, PEER))
        quality[entries[-1].name] = llama_perplexity(load, windows, arguments.threads)
    run = measure(
        entries,
        threads=arguments.threads,
        rounds=arguments.rounds,
        bandwidth=arguments.bandwidth,
        buffers=(2000,),
    )
    rows = {
        c.name: {
            "file_mb": round(file_bytes(Path(c.load["model"])) / 1e6, 2),
            "perplexity": round(quality[c.name], 4),
            **run.times[c.name].summary(),
        }
        for c in entries
    }
    result = provenance(arguments.rounds) | {
        "model": arguments.dense.name,
        "text": arguments.text.name,
        "windows": len(windows),
        "window": WINDOW,
        "threads": arguments.threads,
        "rows": rows,
    }
    write_json(arguments.out, result)
    print(table(result))


if __name__ == "__main__":
    main()
