"""The networks of docs/examples/networks: short, and the same as ONNX files as in PyTorch."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import tolerances
from exported import expected, packed, run
from paths import ROOT
from ssmpress.formats import Format, Structure, Values
from ssmpress.graph.traced import export_network
from ssmpress.nets.trace import trace
from ssmpress.nets.user_file import load_network
from tolerances import assert_close
from zoo import drawn

FOLDER = ROOT / "docs" / "examples" / "networks"
needs_typeseg = pytest.mark.skipif(
    find_spec("typeseg") is None, reason="typeseg, whose weights are needed, is not installed"
)


@pytest.mark.parametrize("name", ["typeseg_net", "vision_mamba", "speech_enhancement"])
def test_a_network_is_a_short_file(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 80
    network = load_network(FOLDER / f"{name}.py", always=True)
    assert network.build().state_dict()


@needs_typeseg
def test_typeseg_is_its_own_onnx_file(library: Path, tmp_path: Path) -> None:
    network = load_network(FOLDER / "typeseg_net.py", always=True)
    module = network.samples.__globals__["trained"]()  # type: ignore[attr-defined]
    graph = trace(network, module)
    assert len(graph.matrices) == 25
    path = tmp_path / "model.onnx"
    tokens = torch.tensor([[min(byte, 128) for byte in Path(__file__).read_bytes()[:600]]])
    theirs = onnxruntime.InferenceSession(str(files("typeseg") / "data" / "mamba_al.onnx"))
    (wanted,) = theirs.run(None, {theirs.get_inputs()[0].name: tokens[0].numpy()})
    export_network(graph, packed(graph, module), {}, path)
    for loaded in (library, None):
        output = run(path, {"bytes": tokens}, loaded)["output"]
        assert_close(output[0], wanted, tolerances.GRAPH_FLOAT32, str(loaded))
    export_network(graph, packed(graph, module, Format(Structure.DENSE, Values.INT8)), {}, path)
    types = run(path, {"bytes": tokens}, library)["output"][0].argmax(-1)
    assert np.mean(types == wanted.argmax(-1)) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vision_mamba", "speech_enhancement"])
def test_the_file_computes_what_pytorch_computes(name: str, library: Path, tmp_path: Path) -> None:
    network = load_network(FOLDER / f"{name}.py", always=True)
    torch.manual_seed(0)
    module = network.build().eval()
    graph = trace(network, module)
    export_network(graph, packed(graph, module), {}, tmp_path / "model.onnx")
    inputs = drawn(network, batch=2, frames=13)
    wanted = expected(network, module, inputs)
    for loaded in (library, None):
        for output, array in run(tmp_path / "model.onnx", inputs, loaded).items():
            assert_close(array, wanted[output], tolerances.GRAPH_FLOAT32, f"{output} {loaded}")
