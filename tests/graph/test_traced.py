"""Networks of one's own as ONNX files: with the op library, without it, and in PyTorch the same."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import tolerances
from exported import PLAIN, expected, other_sizes, run, traced, write
from ssmpress.formats import CONFIG_KEY, Format, Structure, Values
from ssmpress.graph import ops
from tolerances import assert_close
from zoo import ZOO

FORMATS = {
    "dense-int8": (Format(Structure.DENSE, Values.INT8), 0.0),
    "bitmask-fp32": (Format(Structure.BITMASK, Values.FP32), 0.7),
    "window-int8": (Format(Structure.WINDOW, Values.INT8), 0.7),
}


@pytest.fixture(scope="module", params=ZOO)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with its matrices in float32; the file's stem is its number."""
    number = list(ZOO).index(request.param)
    return write(request.param, tmp_path_factory.mktemp("plain") / f"{number}.onnx")


def name_of(path: Path) -> str:
    return list(ZOO)[int(path.stem)]


def test_the_file_computes_what_pytorch_computes(plain: Path, library: Path) -> None:
    net, module, _ = traced(name_of(plain))
    inputs = other_sizes(net)
    wanted = expected(net, module, inputs)
    for what, loaded in (("library", library), ("stock", None)):
        outputs = run(plain, inputs, loaded)
        assert list(outputs) == list(wanted)
        for name, output in outputs.items():
            assert_close(output, wanted[name], tolerances.GRAPH_FLOAT32, f"{what}: {name}")


def test_names_sizes_and_metadata(plain: Path) -> None:
    name = name_of(plain)
    net, _, graph = traced(name)
    model = onnx.load(plain)
    for values, ports in zip((model.graph.input, model.graph.output), graph.ports, strict=True):
        for value, port in zip(values, ports, strict=True):
            sizes = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            assert (value.name, tuple(sizes)) == (port.name, port.shape)
    assert [value.name for value in model.graph.input] == list(net.inputs)
    assert {o.domain: o.version for o in model.opset_import}[""] == ops.ONNX_OPSET
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata[CONFIG_KEY]) == {"of": name}
    written = plain.read_bytes()
    for word in (b"torch", str(Path(__file__).parent).encode(), b"traced"):
        assert word not in written
    used = {node.op_type for node in model.graph.node if node.domain == ops.DOMAIN}
    assert used == {function.name for function in model.functions}
    assert used
    onnx.checker.check_model(model)


@pytest.mark.parametrize("packing", FORMATS)
@pytest.mark.parametrize("name", ["two scans summed", "products", "vision"])
def test_packed(name: str, packing: str, library: Path, tmp_path: Path) -> None:
    packed_format, sparsity = FORMATS[packing]
    path = write(name, tmp_path / "model.onnx", packed_format, sparsity)
    net, module, graph = traced(name)
    model = onnx.load(path)
    counts = [node.op_type for node in model.graph.node].count(ops.LINEAR[packed_format].name)
    assert counts >= len(graph.matrices)
    inputs = other_sizes(net)
    wanted, stock = expected(net, module, inputs), run(path, inputs)
    exact = packed_format.values is Values.FP32
    bound = tolerances.GRAPH_FLOAT32 if exact else tolerances.INT8_GRAPH
    for output, array in run(path, inputs, library).items():
        assert_close(array, stock[output], bound, "library and stock")
        assert_close(array, wanted[output], bound, "library and PyTorch")


def test_a_matrix_that_is_not_packed_is_a_product(library: Path, tmp_path: Path) -> None:
    from exported import Packed, packed
    from ssmpress.graph.traced import export_network

    net, module, graph = traced("pooled")
    whole = packed(graph, module, PLAIN)
    tensors = {n: t.detach().numpy() for n, t in [*module.named_parameters()]}
    plain = Packed({**whole.tensors, **tensors}, {})
    export_network(graph, plain, {}, tmp_path / "model.onnx")
    inputs = other_sizes(net)
    outputs = run(tmp_path / "model.onnx", inputs)
    for name, wanted in expected(net, module, inputs).items():
        assert_close(outputs[name], wanted, tolerances.GRAPH_FLOAT32, name)
