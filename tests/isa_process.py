"""Models in ONNX Runtime under one forced instruction set, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from ssmpress.machine import ISA_VARIABLE

_SCRIPT = """
import sys, numpy as np, onnxruntime
from pathlib import Path
from ssmpress.runtime.loading import library_isa
folder, library = Path(sys.argv[1]), sys.argv[2]
print(library_isa(library))
for path in sorted(folder.glob("*.npz")):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(library)
    model = str(path.with_suffix(".onnx"))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    np.savez(path.with_suffix(".out"), *session.run(None, dict(np.load(path))))
"""


def run_cases(
    isa: str, library: Path, folder: Path, cases: Sequence[tuple[bytes, Mapping[str, np.ndarray]]]
) -> list[list[np.ndarray]]:
    """The outputs of every model for its inputs; skips where this CPU lacks the instruction set.

    Args:
        folder: empty, for the files. cases: ONNX files with their inputs by name.
    """
    for number, (model, arrays) in enumerate(cases):
        np.savez(folder / f"{number}.npz", **arrays)
        (folder / f"{number}.onnx").write_bytes(model)
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(folder), str(library)],
        env={**os.environ, "PYTHONPATH": paths, ISA_VARIABLE: isa},
        capture_output=True,
        text=True,
        check=False,
    )
    if "this CPU cannot run it" in done.stderr:
        pytest.skip(f"{ISA_VARIABLE}={isa}: this CPU cannot run it")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]
    results = []
    for number in range(len(cases)):
        with np.load(folder / f"{number}.out.npz") as outputs:
            results.append([outputs[key] for key in outputs.files])
    return results
