"""The exported graph: names, sizes, the same numbers in ONNX Runtime with and without the library
and in PyTorch, on random models of every kind and on a trained one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import tolerances
from conftest import draw_tokens, mixer_of, random_checkpoint, small_config
from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.tensors import matrix_specs
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.data.tokens import cut_windows, load_tokens
from ssmpress.errors import BadInputError
from ssmpress.formats import (
    SECTION_ALIGNMENT,
    Format,
    Structure,
    Values,
)
from ssmpress.graph import export, fallback, ops
from ssmpress.measure import metrics
from ssmpress.pack.layouts import FORMATS, sections_of
from ssmpress.pack.matrix import pack
from ssmpress.pack.model import PackedModel
from ssmpress.parity import reference_model
from ssmpress.runtime.loading import open_session
from ssmpress.runtime.session import Session
from ssmpress.runtime.state import State
from ssmpress.tasks.perplexity import perplexity

Arrays = dict[str, np.ndarray]

EMBEDDING = "backbone.embedding.weight"
CONFIGS = {
    "tied": small_config(),
    "untied, proj bias": small_config(tie_embeddings=False, proj_bias=True),
    "no conv bias, d_conv 2": small_config(conv_bias=False, d_conv=2, n_layer=1, norm_eps=0.1),
    "FalconMamba": small_config(dbc_norm_eps=0.25),
}
CUSTOM_OPS = {"SelectiveScan", "CausalConv1d"} | {f.op_type for f in FORMATS}
CUSTOM_OPS |= {op.name for op in ops.EMBEDDING.values()}
FUSED_OPS = {"RMSNorm": "SimplifiedLayerNormalization"}
"""Ops whose function ONNX Runtime itself replaces by one kernel, and that kernel's name."""


def pack_model(
    checkpoint: Checkpoint, values: Values, structure: Structure = Structure.BITMASK
) -> PackedModel:
    """Six of ten projection weights pruned at random; the embedding dense, as its rows are read."""
    random = np.random.default_rng(0)
    matrices, rest = {}, {}
    for name, tensor in checkpoint.tensors.items():
        array = tensor.numpy()
        if name not in matrix_specs(checkpoint.config):
            rest[name] = array
        elif name == EMBEDDING:
            dense = Format(Structure.DENSE, values)
            matrices[name] = pack(array, np.ones(array.shape, bool), dense)
        else:
            keep_mask = random.random(array.shape) < 0.4
            chosen = Structure.DENSE if values is Values.INT4 else structure
            matrices[name] = pack(array, keep_mask, Format(chosen, values))
    return PackedModel(rest, matrices, checkpoint.config)


@dataclass
class Exported:
    """One exported model and how far its runtimes may be apart, relative to the largest value."""

    path: Path
    packed: PackedModel
    bound: float

    @property
    def config(self) -> ModelConfig:
        return self.packed.config


MODELS = [(name, values) for name in CONFIGS for values in Values]
_cache: dict[tuple[str, Values], Exported] = {}


@pytest.fixture(params=MODELS, ids=lambda p: f"{p[0]}, {p[1]}")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Every values type with every kind of model."""
    name, values = request.param
    if request.param not in _cache:
        path = tmp_path_factory.mktemp("model") / "model.onnx"
        _cache[request.param] = export_model(random_checkpoint(CONFIGS[name]), values, path)
    return _cache[request.param]


@pytest.fixture(params=["library", "stock"])
def runtime(request: pytest.FixtureRequest) -> Path | None:
    """The library's path, or None for stock ONNX Runtime."""
    return request.getfixturevalue("library") if request.param == "library" else None


def export_model(checkpoint: Checkpoint, values: Values, path: Path) -> Exported:
    packed = pack_model(checkpoint, values)
    assert export.export(packed, path) == (path,)
    bound = tolerances.INT8_GRAPH if values.quantizes_activations else tolerances.GRAPH_FLOAT32
    return Exported(path, packed, bound)


def outputs(logits: np.ndarray, state: State) -> Arrays:
    return {**state.arrays(), "logits": logits}


def torch_outputs(packed: PackedModel, tokens: np.ndarray) -> Arrays:
    with torch.no_grad():
        logits, state = reference_model(packed)(torch.from_numpy(tokens))
    arrays = {"logits": logits.numpy()}
    for i, (conv, scan) in enumerate(state.layers):
        arrays |= {f"conv_state.{i}": conv.numpy(), f"scan_state.{i}": scan.numpy()}
    return arrays


def assert_parity(actual: Arrays, expected: Arrays, bound: float) -> None:
    assert actual.keys() == expected.keys()
    parity = metrics.parity(expected, actual, tolerance=bound)
    assert parity.ok, parity.reason


def tokens_of(config: ModelConfig, batch: int, length: int) -> np.ndarray:
    return draw_tokens(config, batch, length).numpy()


# ---- what is in the file ----


def test_checker_accepts_it(model: Exported) -> None:
    onnx.checker.check_model(str(model.path), full_check=True)


def test_documented_names_types_and_shapes(model: Exported, runtime: Path | None) -> None:
    """The table in export.py."""
    options = onnxruntime.SessionOptions()
    if runtime:
        options.register_custom_ops_library(str(runtime))
    session = onnxruntime.InferenceSession(
        str(model.path), options, providers=["CPUExecutionProvider"]
    )
    c = model.config
    inputs = {
        "input_ids": ("tensor(int64)", ["batch", "length"]),
        "logits_positions": ("tensor(int64)", ["positions"]),
    }
    results = {"logits": ("tensor(float)", ["batch", "positions", c.vocab_size])}
    for i in range(c.n_layer):
        mixer = mixer_of(c, i)
        for kind, rows in (("conv", mixer.d_conv - 1), ("scan", mixer.d_state)):
            state = ("tensor(float)", ["batch", rows, mixer.d_inner])
            inputs[f"past_{kind}_state.{i}"] = state
            results[f"present_{kind}_state.{i}"] = state
    assert {v.name: (v.type, v.shape) for v in session.get_inputs()} == inputs
    assert {v.name: (v.type, v.shape) for v in session.get_outputs()} == results


def test_metadata_is_the_configuration(model: Exported) -> None:
    entries = {entry.key: entry.value for entry in onnx.load(model.path).metadata_props}
    assert ModelConfig.from_dict(json.loads(entries.pop("ssmpress.config"))) == model.config
    assert list(entries) == ["ssmpress.states"]


def test_metadata_lists_the_states(model: Exported) -> None:
    graph = onnx.load(model.path)
    (text,) = [e.value for e in graph.metadata_props if e.key == "ssmpress.states"]
    listed = json.loads(text)
    for side, values in (("past", graph.graph.input), ("present", graph.graph.output)):
        shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
            for value in values
            if value.name.startswith(side)
        }
        assert shapes == {f"{side}_{state['name']}": state["shape"] for state in listed}
    assert {(s["dtype"], s["grows"]) for s in listed} == {("float32", None)}


def test_initializers_are_the_packed_bytes_once(model: Exported) -> None:
    """Every section under its documented name, nothing twice, and next to nothing besides."""
    graph = onnx.load(model.path).graph
    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    assert len(arrays) == len(graph.initializer)
    for name, matrix in model.packed.matrices.items():
        for section, expected in matrix.sections.items():
            got = arrays[f"{name}.{section}"]
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)
    for name in model.packed.tensors:
        assert name in arrays
    read = {name for node in graph.node for name in node.input}
    assert not arrays.keys() - read, "stored, but not used"
    added = sum(a.nbytes for a in arrays.values()) - model.packed.nbytes
    biases = 4 * mixer_of(model.config).d_inner * model.config.n_layer
    assert 0 <= added <= 64 + biases  # sizes, no biases
    vocab = model.config.vocab_size
    if model.packed.matrices[EMBEDDING].format.values is Values.INT4:  # weight and ratio, in tiles
        rows = [a for a in arrays.values() if a.ndim == 3 and len(a) == -(-vocab // 16)]
        rows = [a for a in rows if a.dtype == np.uint8]
    else:
        rows = [a for a in arrays.values() if a.ndim == 2 and len(a) == vocab]
    assert len(rows) == (1 if model.config.tie_embeddings else 2)


def test_functions_are_those_of_the_ops_used(model: Exported) -> None:
    proto = onnx.load(model.path)
    used = {node.op_type for node in proto.graph.node if node.domain == ops.DOMAIN}
    assert {f.name for f in proto.functions} == used
    assert {"SelectiveScan", "CausalConv1d", *FUSED_OPS} <= used <= CUSTOM_OPS | {*FUSED_OPS}


def test_an_old_onnxruntime_reads_the_file(model: Exported) -> None:
    """1.17 knows opset 20 and IR version 9; tests/packaging/test_lowest_versions.py runs it."""
    proto = onnx.load(model.path)
    assert proto.ir_version <= 9
    for part in (proto, *proto.functions):
        assert {o.domain: o.version for o in part.opset_import}[""] <= 20


def test_a_bitmask_embedding_is_refused() -> None:
    packed = pack_model(random_checkpoint(small_config()), Values.FP32)
    matrix = packed.matrices["backbone.layers.0.mixer.in_proj.weight"]
    wrong = PackedModel(packed.tensors, {**packed.matrices, EMBEDDING: matrix}, packed.config)
    with pytest.raises(BadInputError, match="expected a dense format, since rows are read; got"):
        export.build(wrong)


# ---- the same numbers everywhere ----


def test_equals_pytorch(model: Exported, runtime: Path | None) -> None:
    session = open_session(model.path, threads=1, library=runtime)
    tokens = tokens_of(model.config, 2, 13)
    actual = outputs(*session.predict(tokens))
    assert_parity(actual, torch_outputs(model.packed, tokens), model.bound)


def test_library_equals_stock(model: Exported, library: Path) -> None:
    tokens = tokens_of(model.config, 2, 13)
    ours, stock = (
        outputs(*open_session(model.path, threads=1, library=path).predict(tokens))
        for path in (library, None)
    )
    assert_parity(ours, stock, model.bound)


@pytest.mark.parametrize("batch", [1, 3])
def test_prefill_equals_decode(model: Exported, runtime: Path | None, batch: int) -> None:
    session = open_session(model.path, threads=1, library=runtime)
    tokens = tokens_of(model.config, batch, 9)
    whole = outputs(*session.predict(tokens))
    first, state = session.predict(tokens[:, :4])
    rows = [first]
    for t in range(4, 9):
        logits, state = session.step(tokens[:, t], state)
        rows.append(logits[:, None])
    assert_parity(outputs(np.concatenate(rows, axis=1), state), whole, model.bound)
    from_zero = session.initial_state(batch)
    for t in range(9):
        logits, from_zero = session.step(tokens[:, t], from_zero)
    assert_parity(from_zero.arrays(), dict(list(whole.items())[:-1]), model.bound)


def test_rows_of_a_batch_do_not_mix(model: Exported, runtime: Path | None) -> None:
    session = open_session(model.path, threads=1, library=runtime)
    tokens = tokens_of(model.config, 3, 9)
    together = outputs(*session.predict(tokens))
    for i in range(3):
        alone = outputs(*session.predict(tokens[i : i + 1]))
        row = {name: a[i : i + 1] for name, a in together.items()}
        assert_parity(row, alone, model.bound)


def test_positions(model: Exported, runtime: Path | None) -> None:
    session = open_session(model.path, threads=1, library=runtime)
    tokens = tokens_of(model.config, 2, 9)
    whole, end = session.predict(tokens)
    for positions in ([0], [8], [6, 2, 6], []):
        logits, state = session.prefill(tokens, positions=np.array(positions, np.int64))
        assert logits.shape == (2, len(positions), model.config.vocab_size)
        expected = {**end.arrays(), "logits": whole[:, positions]}
        assert_parity(outputs(logits, state), expected, model.bound)


@pytest.mark.parametrize("values", list(Values))
def test_dense_matrices(values: Values, runtime: Path | None, tmp_path: Path) -> None:
    packed = pack_model(random_checkpoint(small_config()), values, Structure.DENSE)
    export.export(packed, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", threads=1, library=runtime)
    tokens = tokens_of(packed.config, 2, 13)
    bound = tolerances.INT8_GRAPH if values.quantizes_activations else tolerances.GRAPH_FLOAT32
    assert_parity(outputs(*session.predict(tokens)), torch_outputs(packed, tokens), bound)


# ---- which code runs ----


def ops_that_ran(model: Exported, library: Path | None) -> Counter[str]:
    session = open_session(model.path, threads=1, library=library, profile=True)
    session.predict(tokens_of(model.config, 1, 3))
    trace = session.end_profiling()
    events = json.loads(trace.read_text())
    trace.unlink()
    return Counter(
        e["args"]["op_name"] for e in events if "op_name" in e["args"] and e["cat"] == "Node"
    )


def test_kernels_of_the_library_run(model: Exported, library: Path) -> None:
    ran = ops_that_ran(model, library)
    nodes = onnx.load(model.path).graph.node
    written = Counter(n.op_type for n in nodes if n.domain == ops.DOMAIN)
    run = {name: ran[FUSED_OPS.get(name, name)] for name in written}
    assert run == written
    assert not {"Scan", "Conv", "MatMul", "MatMulInteger", "Pow", "ReduceMean"} & ran.keys()


def test_fallbacks_run_without_it(model: Exported) -> None:
    ran = ops_that_ran(model, None)
    assert not (CUSTOM_OPS | {*FUSED_OPS}) & ran.keys()
    assert ran["Scan"] == model.config.n_layer


# ---- what no token is, straight into ONNX Runtime: `Session` would refuse it ----


def run_raw(session: Session, ids: list[list[int]], positions: list[int]) -> list[np.ndarray]:
    feed = {"input_ids": np.array(ids, np.int64).reshape(1, -1), "logits_positions": positions}
    feed["logits_positions"] = np.array(positions, np.int64)
    for item in session._onnx.get_inputs()[2:]:
        feed[item.name] = np.zeros((1, *item.shape[1:]), np.float32)
    return list(session._onnx.run(None, feed))


@pytest.mark.parametrize("values", list(Values))
def test_an_id_that_is_no_token_is_refused(
    values: Values, runtime: Path | None, tmp_path: Path
) -> None:
    """ONNX's Gather would count -1 from the end."""
    packed = pack_model(random_checkpoint(small_config()), values)
    export.export(packed, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", threads=1, library=runtime)
    vocab = packed.config.vocab_size
    run_raw(session, [[0, vocab - 1]], [1])
    for bad in (-1, -vocab, -(1 << 63), -(1 << 63) + 1, vocab, 1 << 62):
        with pytest.raises(Exception, match=r"ids: expected rows|out of (data )?bounds"):
            run_raw(session, [[0, bad]], [1])


def test_stock_onnxruntime_refuses_an_empty_sequence(model: Exported) -> None:
    session = open_session(model.path, threads=1, library=None)
    for positions in ([], [0]):
        with pytest.raises(Exception, match=r"Conv|Scan"):
            run_raw(session, [[]], positions)


# ---- weights in a file of their own ----


def test_external_data(
    runtime: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_model(random_checkpoint(small_config(vocab_size=300)), Values.INT8)
    tokens = tokens_of(packed.config, 2, 13)
    export.export(packed, tmp_path / "inside.onnx")
    inside = open_session(tmp_path / "inside.onnx", threads=1, library=runtime)
    expected = outputs(*inside.predict(tokens))

    monkeypatch.setattr(export, "EXTERNAL_DATA_BYTES", 0)
    written = tmp_path / "written"
    written.mkdir()
    files = export.export(packed, written / "model.onnx")
    assert [f.name for f in files] == ["model.onnx", "model.onnx.data"]
    assert sorted(written.iterdir()) == sorted(files)
    assert files[1].stat().st_size > files[0].stat().st_size / 10
    moved = written.rename(tmp_path / "moved")
    onnx.checker.check_model(str(moved / "model.onnx"), full_check=True)
    session = open_session(moved / "model.onnx", threads=1, library=runtime)
    actual = outputs(*session.predict(tokens))
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)
    for tensor in onnx.load(moved / "model.onnx", load_external_data=False).graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                assert int(entry.value) % SECTION_ALIGNMENT == 0, tensor.name


# ---- one linear op: exact integers ----


def run_linear(x: np.ndarray, packed: Any, library: Path | None) -> np.ndarray:
    """One node with its fallback; the sections are constants."""
    f = packed.format
    attributes = {ops.COLUMNS_ATTRIBUTE: packed.columns, ops.VERSION_ATTRIBUTE: f.version}
    node = helper.make_node(
        f.op_type, ["x", *sections_of(f)], ["y"], domain=ops.DOMAIN, **attributes
    )
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * x.ndim)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, name) for name, a in packed.sections.items()],
    )
    opsets = [("", ops.ONNX_OPSET), (ops.DOMAIN, ops.DOMAIN_VERSION)]
    proto = helper.make_model(
        graph,
        functions=[fallback.function(f.op_type)],
        opset_imports=[helper.make_opsetid(*o) for o in opsets],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if library:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x})
    return y


def draw_matrix(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([rows, columns])
    weight = random.standard_normal((rows, columns)).astype(np.float32)
    keep_mask = random.random(weight.shape) < 0.4
    keep_mask[rows // 2] = False
    return weight, keep_mask


def quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """docs/sparse_format.md."""
    scale = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-30)) / np.float32(127)
    return np.rint(x / scale).astype(np.int64), scale


@pytest.mark.parametrize("structure", list(Structure))
@pytest.mark.parametrize("shape", [(1, 1, 70), (2, 5, 70), (1, 3, 600)])
def test_int8_products_are_exact(
    structure: Structure, shape: tuple[int, ...], runtime: Path | None
) -> None:
    """Both scales are 1 here, so y is the integer itself."""
    random = np.random.default_rng(0)
    columns = shape[-1]
    q = random.integers(-127, 128, (33, columns))
    q[:, 0] = 127
    x = random.integers(-127, 128, shape)
    x[..., 1] = -127
    keep_mask = random.random(q.shape) < 0.5
    keep_mask[:, 0] = True
    packed = pack(q.astype(np.float32), keep_mask, Format(structure, Values.INT8))
    assert (packed.sections["scale"] == 1).all()
    y = run_linear(x.astype(np.float32), packed, runtime)
    np.testing.assert_array_equal(y, x @ np.where(keep_mask, q, 0).T)


@pytest.mark.parametrize("structure", list(Structure))
@pytest.mark.parametrize("magnitude", [1.0, 1e-20, 1e-34, 1e20])
def test_int8_layer_differs_by_two_roundings(
    structure: Structure, magnitude: float, runtime: Path | None
) -> None:
    weight, keep_mask = draw_matrix(45, 130)
    packed = pack(weight, keep_mask, Format(structure, Values.INT8))
    random = np.random.default_rng(1)
    x = random.standard_normal((2, 7, 130)).astype(np.float32) * np.float32(magnitude)
    x[0, 3] = 0
    q, _ = quantize(np.where(keep_mask, weight, 0).astype(np.float32))
    x_q, x_scale = quantize(x)
    row_scale = packed.sections["scale"]
    acc = (x_q @ q.T).astype(np.float64)
    expected = acc * x_scale.astype(np.float64) * row_scale.astype(np.float64)
    y = run_linear(x, packed, runtime)
    ulp = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    assert (np.abs(y - expected) <= tolerances.INT8_ONE_LAYER_ULPS * ulp).all()
    assert not y[0, 3].any()


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_token_that_is_not_finite(fmt: Format, bad: float, runtime: Path | None) -> None:
    """int8: NaN in every row of that token. Every format: the other tokens are untouched."""
    weight, keep_mask = draw_matrix(20, 70)
    packed = pack(weight, keep_mask, fmt)
    x = np.random.default_rng(2).standard_normal((1, 3, 70)).astype(np.float32)
    expected = run_linear(x, packed, runtime)
    x[0, 1, 9] = bad
    y = run_linear(x, packed, runtime)
    np.testing.assert_array_equal(y[:, [0, 2]], expected[:, [0, 2]])
    assert not np.isfinite(y[0, 1]).all()
    if fmt.values is Values.INT8:
        assert np.isnan(y[0, 1]).all()


# ---- a trained model ----


@pytest.fixture(scope="module")
def mamba_5m(shared: Callable[[str], Path]) -> Checkpoint:
    return read_checkpoint(shared("models/mamba-5m"))


@pytest.fixture(scope="module")
def windows(mamba_5m: Checkpoint, shared: Callable[[str], Path]) -> np.ndarray:
    """int32 (4, 512), from the validation text."""
    assert mamba_5m.tokenizer is not None
    text = shared("data/wikitext103/valid.detok.txt")
    tokenizer = load_tokenizer(mamba_5m.tokenizer)
    tokens = load_tokens([text], tokenizer, mamba_5m.config.vocab_size, limit=2048)
    return cut_windows(tokens, 512)


def dense_pack(checkpoint: Checkpoint, values: Values) -> PackedModel:
    """Unpruned, so that perplexities mean something, but stored as bitmasks."""
    matrices = {}
    for name, tensor in checkpoint.tensors.items():
        if name in matrix_specs(checkpoint.config):
            dense = name == EMBEDDING or values is Values.INT4
            structure = Structure.DENSE if dense else Structure.BITMASK
            keep_mask = np.ones(tensor.shape, bool)
            matrices[name] = pack(tensor.numpy(), keep_mask, Format(structure, values))
    rest = {k: t.numpy() for k, t in checkpoint.tensors.items() if k not in matrices}
    return PackedModel(rest, matrices, checkpoint.config)


def perplexity_of(session: Session, windows: np.ndarray) -> float:
    return perplexity(session.predict, windows, batch=4).perplexity


@pytest.mark.parametrize("values", list(Values))
def test_trained_model(
    values: Values, mamba_5m: Checkpoint, windows: np.ndarray, library: Path, tmp_path: Path
) -> None:
    packed = dense_pack(mamba_5m, values)
    export.export(packed, tmp_path / "model.onnx")
    path = tmp_path / "model.onnx"
    sessions = [open_session(path, threads=1, library=p) for p in (library, None)]
    tokens = windows[:1, :130].astype(np.int64)
    expected = torch_outputs(packed, tokens)
    bound = tolerances.INT8_GRAPH if values.quantizes_activations else tolerances.GRAPH_FLOAT32
    for session in sessions:
        assert_parity(outputs(*session.predict(tokens)), expected, bound)
    ours, stock = (perplexity_of(session, windows) for session in sessions)
    limit = tolerances.INT8_PERPLEXITY if values.quantizes_activations else tolerances.GRAPH_FLOAT32
    assert ours == pytest.approx(stock, rel=limit)


def all_nodes(nodes: Any) -> list[Any]:
    """With those of the graphs inside them."""
    inner = [n for node in nodes for a in node.attribute for n in all_nodes(a.g.node)]
    return [*nodes, *inner]


def test_a_viewer_shows_names_and_explanations(model: Exported) -> None:
    """What Netron shows: every node, value and initializer named, functions explained."""
    proto = onnx.load(model.path)
    graph, readable = proto.graph, re.compile(r"[a-zA-Z_][\w./]*")
    for nodes in (graph.node, *(f.node for f in proto.functions)):
        for node in all_nodes(nodes):
            for name in (node.name, *filter(None, (*node.input, *node.output))):
                assert readable.fullmatch(name), (node.op_type, name)
        names = [node.name for node in nodes]
        assert len(set(names)) == len(names)
    for tensor in graph.initializer:
        assert re.match(r"(backbone\.|lm_head\.|axis_|split_|ones_)\w", tensor.name), tensor.name
    for value in (*graph.input, *graph.output):
        assert value.doc_string, value.name
    layer = graph.input[-1]
    assert layer.doc_string.endswith(f"(layer {model.config.n_layer - 1})")
    for function in proto.functions:
        assert "docs/" in function.doc_string, function.name
    for node in graph.node:
        if node.op_type in {f.op_type for f in FORMATS}:
            assert re.search(r"weight, \d+ x \d+, \w+-\w+: ", node.doc_string), node.name
