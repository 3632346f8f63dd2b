"""The models that the whole-model benchmarks run, made by the package's own packing and export.

    PYTHONPATH=toolchain python runtimes/bench/bench_models.py --out build/bench/models

Needs a dense checkpoint and one that was really pruned from it (see tiled_model.py); one that is
missing ends with exit code 6. Files that are there already are kept: delete the folder, or call
with --again, after a change to the formats.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tiled_model
from numpy.typing import NDArray

from ssmpress.blocks.tensors import matrix_specs, state_tensors
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.errors import BadInputError
from ssmpress.formats import Format, Structure, Values
from ssmpress.graph.export import export
from ssmpress.graph.ops import CAUSAL_CONV1D, DOMAIN, ONNX_OPSET, SELECTIVE_SCAN
from ssmpress.pack.head_error import FREQUENT_SHARE
from ssmpress.pack.matrix import pack as pack_matrix
from ssmpress.pack.model import PackedModel
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.pack import Head, PackSettings
from ssmpress.results.run import TextUse
from ssmpress.stages.packed import correct_rows, pack_weights
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import Source

SHARED = Path("../shared/models")

_ONE_TOKEN_CONV = """
CausalConv1d <channels> (x, weight, bias, state) => (y, state_out) {
    padded = Concat <axis = 1> (state, x)
    weighted = Mul(padded, weight)
    one = Constant <value_ints = [1]> ()
    summed = ReduceSum(weighted, one)
    biased = Add(summed, bias)
    sigmoid = Sigmoid(biased)
    y = Mul(biased, sigmoid)
    end = Constant <value_ints = [65536]> ()
    state_out = Slice(padded, one, end, one)
}
"""

_ONE_TOKEN_SCAN = """
SelectiveScan (u, delta, delta_bias, A, B, C, D, z, state) => (y, state_out) {
    swap = Transpose <perm = [0, 2, 1]> (B)
    biased = Add(delta, delta_bias)
    dt = Softplus(biased)
    x = Mul(dt, u)
    dt_A = Mul(dt, A)
    decay = Exp(dt_A)
    decayed = Mul(decay, state)
    added = Mul(x, swap)
    state_out = Add(decayed, added)
    h_y = MatMul(C, state_out)
    skip = Mul(D, u)
    ungated = Add(h_y, skip)
    sigmoid_z = Sigmoid(z)
    gate = Mul(z, sigmoid_z)
    y = Mul(ungated, gate)
}
"""


@dataclass(frozen=True)
class Model:
    """A row of the table: a sparsity of the tiled model, stored one way; values None is float32."""

    name: str
    sparsity: float
    values: Values | None
    head: Head = Head.AUTO


# The head is 4-bit beside an int8 body, as `compress` does by default; head8 and dense-int8, which
# llama.cpp's Q8_0 is compared with, have it in int8.
MODELS = (
    Model("dense-fp32", 0.0, None),
    Model("dense-int8", 0.0, Values.INT8, Head.INT8),
    Model("dense-int8-head4", 0.0, Values.INT8),
    Model("50-int8", 0.5, Values.INT8),
    Model("70-int8", 0.7, Values.INT8),
    Model("70-int8-head8", 0.7, Values.INT8, Head.INT8),
    Model("70-fp16", 0.7, Values.FP16),
    Model("90-int8", 0.9, Values.INT8),
)


def pack(
    checkpoint_folder: Path,
    values: Values | None,
    head: Head = Head.AUTO,
    calibration: NDArray[np.int32] | None = None,
) -> PackedModel:
    """What `compress --pruned` would pack; values None is the float32 baseline.

    calibration: tokens (n,). Without them a 4-bit head is rounded to the nearest, and the errors of
    its first rows are kept: the bytes and the speed are the same.
    """
    checkpoint = read_checkpoint(checkpoint_folder)
    if values is None:
        return _dense(checkpoint)
    settings = PackSettings(values=values, head=head)
    recipe = Recipe(model=checkpoint_folder, out=checkpoint_folder, pack=settings)
    text = np.zeros(0, np.int32) if calibration is None else calibration
    nothing = TextUse((), default_text=False, tokens=0)
    source = Source(checkpoint, checkpoint_folder, text, text[:0].reshape(0, 0), nothing, nothing)
    result = PruneResult((), 0.0, 0, 0, "tiled")
    packed = pack_weights(recipe, source, Pruned(checkpoint.tensors, result))
    name = packed.head_name
    if calibration is None and packed.matrices[name].format.values is Values.INT4:
        rows = np.arange(int(FREQUENT_SHARE * checkpoint.config.vocab_size))
        return correct_rows(packed, checkpoint.tensors[name].numpy(), rows)
    return packed


def _dense(checkpoint: Checkpoint) -> PackedModel:
    arrays = {name: tensor.numpy() for name, tensor in checkpoint.tensors.items()}
    specs = matrix_specs(checkpoint.config)
    float32 = Format(Structure.DENSE, Values.FP32)
    matrices = {
        name: pack_matrix(array, np.ones(array.shape, bool), float32)
        for name, array in arrays.items()
        if name in specs
    }
    rest = {name: array for name, array in arrays.items() if name not in matrices}
    return PackedModel(rest, matrices, checkpoint.config)


def describe(packed: PackedModel) -> dict[str, Any]:
    """Bytes of all weights, and by format: matrices, weights, bytes."""
    formats: dict[str, dict[str, int]] = {}
    for matrix in packed.matrices.values():
        row = formats.setdefault(matrix.format.name, {"matrices": 0, "weights": 0, "bytes": 0})
        row["matrices"] += 1
        row["weights"] += matrix.rows * matrix.columns
        row["bytes"] += matrix.nbytes
    state = sum(4 * prod(tensor.shape_at(1)) for tensor in state_tensors(packed.config))
    return {
        "weight_bytes": packed.nbytes,
        "state_bytes": state,
        "step_bytes": packed.nbytes + state,
        "formats": formats,
    }


def one_token_graph(model: Path, out: Path) -> None:
    """A copy that only decodes: fallbacks of one step, without ONNX's Scan and Conv.

    What somebody would decode with who wants stock ONNX Runtime to be fast: without the loop and
    the grouped convolution of the general graph.
    """
    proto = onnx.load(model)
    header = f'<domain: "{DOMAIN}", opset_import: ["": {ONNX_OPSET}]>'
    texts = {SELECTIVE_SCAN.name: _ONE_TOKEN_SCAN, CAUSAL_CONV1D.name: _ONE_TOKEN_CONV}
    for function in proto.functions:
        if function.name in texts:
            function.CopyFrom(onnx.parser.parse_function(header + texts[function.name]))
    onnx.save(proto, out)


def build_all(out: Path, dense: Path, pruned: dict[float, Path], *, again: bool) -> None:
    """Every checkpoint and every model, with a description of each as JSON."""
    for model in MODELS:
        folder, path = out / f"tiled-{model.sparsity:g}", out / f"{model.name}.onnx"
        if not folder.is_dir():
            print(f"tiling {folder}", flush=True)
            nearest = max((s for s in pruned if s <= max(model.sparsity, 0.7)), default=0.7)
            tiled_model.build(dense, pruned[nearest], model.sparsity, folder)
        if path.is_file() and not again:
            continue
        print(f"packing {path}", flush=True)
        packed = pack(folder, model.values, model.head)
        export(packed, path)
        path.with_suffix(".json").write_text(json.dumps(describe(packed), indent=1) + "\n")
    if again or not (out / "stock-decode.onnx").is_file():
        one_token_graph(out / "dense-fp32.onnx", out / "stock-decode.onnx")


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dense", type=Path, default=SHARED / "mamba-31m")
    parser.add_argument("--pruned", type=Path, default=SHARED / "mamba-31m-70")
    parser.add_argument("--pruned-90", type=Path, help="without it the 70 %% model is thinned")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--again", action="store_true", help="build everything anew")
    return parser.parse_args()


def main() -> None:
    """Build what is missing."""
    arguments = parse()
    pruned = {0.7: arguments.pruned}
    if arguments.pruned_90 is not None:
        pruned[0.9] = arguments.pruned_90
    for path in (arguments.dense, *pruned.values()):
        if not path.is_dir():
            error = BadInputError(
                f"{path}: expected a trained checkpoint; there is none. Give a dense model with "
                "--dense and one pruned from it with --pruned."
            )
            print(f"error: {error}")
            raise SystemExit(error.exit_code)
    if arguments.again:
        shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    build_all(arguments.out, arguments.dense, pruned, again=arguments.again)


if __name__ == "__main__":
    main()
