"""No model has ONNX Runtime open a file that the manifest does not vouch for."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toy_onnx
from outside_tensors import PLACES, outside, put_outside
from paths import OLD_BUNDLE
from ssmpress.errors import BadInputError
from ssmpress.runtime.external_data import check_external_data
from ssmpress.runtime.loading import open_session

OTHERS = [
    "/etc/passwd",
    "../model.onnx.data",
    "./model.onnx.data",
    "sub/model.onnx.data",
    "other.data",
    "",
    "MODEL.ONNX.DATA",
    "model.onnx.data\0",
    "\x1b[2J",
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return toy_onnx.toy_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("place", PLACES)
def test_the_only_other_file_is_the_models_own(model: Path, place: str) -> None:
    check_external_data(model)
    put_outside(model, place, "model.onnx.data")
    check_external_data(model)
    put_outside(model, place, "../secret")
    with pytest.raises(BadInputError, match=r"model\.onnx: expected its tensors in it or in") as e:
        open_session(model, threads=1, library=None)
    assert "one is in '../secret'" in str(e.value)


@pytest.mark.parametrize("location", OTHERS)
def test_every_other_name_is_refused(model: Path, location: str) -> None:
    put_outside(model, "initializer", location)
    with pytest.raises(BadInputError, match="expected its tensors in it or in"):
        check_external_data(model)


def test_a_model_of_another_name_has_its_own_data(model: Path) -> None:
    put_outside(model, "initializer", "dense.onnx.data")
    with pytest.raises(BadInputError):
        check_external_data(model)
    check_external_data(model.rename(model.with_name("dense.onnx")))


def test_a_message_that_comes_twice_is_one(model: Path) -> None:
    """protobuf merges what is repeated: the second graph adds to the first."""
    more = onnx.ModelProto()
    more.graph.initializer.append(outside("../secret"))
    model.write_bytes(model.read_bytes() + more.SerializeToString())
    assert onnx.load(model, load_external_data=False).graph.initializer[-1].name == "outside"
    with pytest.raises(BadInputError, match="expected its tensors"):
        check_external_data(model)


def test_of_a_key_that_comes_twice_the_last_counts(model: Path) -> None:
    tensor = outside("model.onnx.data")
    tensor.external_data.add(key="location", value="../secret")
    graph = onnx.ModelProto()
    graph.graph.initializer.append(tensor)
    model.write_bytes(graph.SerializeToString())
    with pytest.raises(BadInputError, match="expected its tensors"):
        check_external_data(model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00" * 9, "no field at byte 0"),
        (b"\x3b", "no field at byte 0"),
        (b"\x3a\x05ab", "a field at byte 0 that ends behind what holds it"),
        (b"\x08" + b"\xff" * 11, "no number at byte 1"),
        (b"\x3a", "no number at byte 1"),
        (b"\x3a\x02\x0a\x05", "a field at byte 2 that ends behind what holds it"),
    ],
)
def test_what_is_no_model_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BadInputError, match=rf"model\.onnx: cannot load it: .*got {message}"):
        check_external_data(tmp_path / "model.onnx")


def test_nesting_has_a_limit(tmp_path: Path) -> None:
    """A graph in an attribute of a node of a graph ..., three messages each."""
    content = b""
    for _ in range(40):
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            content = tag + onnx_length(len(content)) + content
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + onnx_length(len(content)) + content)
    with pytest.raises(BadInputError, match="nested more than 100 deep"):
        check_external_data(tmp_path / "model.onnx")


def onnx_length(size: int) -> bytes:
    content = b""
    while size >= 0x80:
        content, size = content + bytes([size & 0x7F | 0x80]), size >> 7
    return content + bytes([size])


@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from(list(PLACES)))
def test_what_protobuf_reads_is_never_missed(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, place: str
) -> None:
    """One byte of a hostile model is another: if onnx still finds the tensor, so does the check."""
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    model = onnx.ModelProto(ir_version=8)
    PLACES[place](model, outside("../secret"))
    content = bytearray(model.SerializeToString())
    content[at % len(content)] = byte
    path.write_bytes(content)
    try:
        read = onnx.ModelProto.FromString(bytes(content))
    except Exception:
        return
    if '"../secret"' in str(read) and 'key: "location"' in str(read):
        with pytest.raises(BadInputError):
            check_external_data(path)


def test_what_was_made_before_still_opens() -> None:
    check_external_data(OLD_BUNDLE / "model.onnx")
