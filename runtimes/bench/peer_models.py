"""The models that bench_peers.py compares with, from the same tiled dense checkpoint.

GGUF files as in gguf_models.py. For ONNX Runtime and OpenVINO the dense graph of bench_models.py
with its ops replaced by their fallbacks, constants folded: one graph for prompts, one for single
tokens. The quantised ones are made by the runtimes' own tools with their defaults: ONNX Runtime's
dynamic int8 and 4-bit MatMulNBits (groups of 32, symmetric), NNCF's int8 and int4 weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import gguf_models
import onnx

from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.runtime.onnx_runtime import import_onnxruntime

GRAPHS = {"prompt": "dense-fp32.onnx", "token": "stock-decode.onnx"}
GROUP = 32  # weights that share a scale in 4-bit formats: llama.cpp's Q4_0 has the same
onnxruntime = import_onnxruntime()


def stock_graph(source: Path, out: Path) -> None:
    """Only standard operators: functions inlined, transposed weights stored as they are used."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def onnx_int8(source: Path, out: Path) -> None:
    """ONNX Runtime's dynamic quantisation of every MatMul with a constant."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: TID251

    settings = {"MatMulConstBOnly": True}
    quantize_dynamic(
        source,
        out,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        extra_options=settings,
    )


def onnx_int4(source: Path, out: Path) -> None:
    """ONNX Runtime's 4-bit weights with int8 activations (accuracy level 4, its fastest)."""
    from onnxruntime.quantization import matmul_nbits_quantizer  # noqa: TID251

    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        onnx.load(source), block_size=GROUP, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    onnx.save(quantizer.model.model, out)


def openvino_int8(source: Path, out: Path) -> None:
    """NNCF's int8 weights."""
    _nncf(source, out, "INT8_SYM")


def openvino_int4(source: Path, out: Path) -> None:
    """NNCF's int4 weights in groups of 32 in all matrices that can, int8 in the others."""
    _nncf(source, out, "INT4_SYM", group_size=GROUP, all_layers=True)


def _nncf(source: Path, out: Path, mode: str, **settings: object) -> None:
    import nncf
    import openvino

    if "group_size" in settings:
        fallback = nncf.GroupSizeFallbackMode.IGNORE
        settings["advanced_parameters"] = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=fallback
        )
    graph = openvino.Core().read_model(str(source))
    graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode[mode], **settings)
    openvino.save_model(graph, str(out), compress_to_fp16=False)


_MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "ort-int8-{}.onnx": onnx_int8,
    "ort-int4-{}.onnx": onnx_int4,
    "openvino-int8-{}.xml": openvino_int8,
    "openvino-int4-{}.xml": openvino_int4,
}


def write_gguf(checkpoint: Path, prefix: Path, threads: int) -> None:
    """PREFIX-F32.gguf and every quantisation of it that is not there yet."""
    base = prefix.with_name(prefix.name + "-F32.gguf")
    if not base.is_file():
        read = read_checkpoint(checkpoint)
        gguf_models.write(read.config, read.tensors, base)
    for name in gguf_models.QUANTISATIONS:
        path = prefix.with_name(f"{prefix.name}-{name}.gguf")
        if not path.is_file():
            gguf_models.quantise(base, path, name, threads)


def build(models: Path, out: Path, threads: int) -> None:
    """Make what is missing in `out`; models: the folder of bench_models.py."""
    logging.disable(logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    for kind, graph in GRAPHS.items():
        stock = out / f"stock-{kind}.onnx"
        if not stock.is_file():
            stock_graph(models / graph, stock)
        for name, make in _MAKERS.items():
            path = out / name.format(kind)
            if not path.is_file():
                print(f"making {path}", flush=True)
                make(stock, path)
    write_gguf(models / "tiled-0", out / "130m", threads)


def file_bytes(path: Path) -> int:
    """A model's file, and the file of weights that OpenVINO puts beside it."""
    beside = path.with_suffix(".bin")
    return path.stat().st_size + (beside.stat().st_size if path.suffix == ".xml" else 0)
