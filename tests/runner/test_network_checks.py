"""What ssmrun says of wrong files, requests, command lines and metadata of networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import network_onnx
import ssmrun_bundle as sb
from network_bundle import bundle, npy, run, sent

GOOD = npy(np.zeros(4, np.float32))
LONG = npy(np.zeros(4, np.float32), version=(2, 0))
HOSTILE = [
    (b"", "expected a .npy file with the header of one array"),
    (GOOD[:11], "the header of one array"),
    (GOOD[:40], "the header of one array"),
    (b"\x93NUMPX" + GOOD[6:], "the header of one array"),
    (GOOD[:6] + b"\x09" + GOOD[7:], "the header of one array"),
    (GOOD[:6] + b"\x00" + GOOD[7:], "the header of one array"),
    (LONG[:8] + b"\xff\xff\xff\xff" + LONG[12:], "the header of one array"),
    (GOOD[:6] + b"\x02\x00\x00\x00\x02\x00" + GOOD[10:].rjust(1 << 17), "header of one array"),
    (GOOD.replace(b"(4,)", b"(-4)"), "the header of one array"),
    (GOOD.replace(b"(4,)", b"4   "), "the header of one array"),
    (GOOD.replace(b"'shape'", b"'shapf'"), "the header of one array"),
    (GOOD.replace(b"'fortran_order'", b"'fortran_oldes'"), "the header of one array"),
    (npy(np.zeros((1,) * 9, np.float32)), "the header of one array"),
    (GOOD[:-1], "expected 16 bytes of numbers for (4,) of float32; got 15"),
    (GOOD + b"x", "expected 16 bytes of numbers for (4,) of float32; got 17"),
    (GOOD.replace(b"(4,), } ", b"(9999,),}"[:8]), "bytes of numbers for (9999,)"),
    (npy(np.zeros((0, 4), np.float32)).replace(b"(0, 4)", b"(9, 9)"), "got 0"),
    (GOOD.replace(b"(4,), }" + b" " * 24, b"(99999999999999, 999999999), }"), "at most 4 GiB"),
    (npy(np.zeros(4, ">f4")), "expected little-endian numbers, of at most 64 bits; got >f4"),
    (npy(np.zeros(4, "complex64")), "little-endian numbers, of at most 64 bits; got <c8"),
    (npy(np.array(["a"])), "little-endian numbers, of at most 64 bits; got <U1"),
    (npy(np.zeros(4, [("a", "<f4")])), "little-endian numbers"),
    (npy(np.asfortranarray(np.zeros((2, 3), np.float32))), "numpy.ascontiguousarray"),
    (npy(np.zeros((2, 2), np.float32)), "input x: expected float32 (n,); got float32 (2, 2)"),
    (npy(np.zeros(0, np.float32)), "got float32 (0,). Sizes with a name may be any from 1 on"),
    (npy(np.zeros(4, np.int64)), "input x: expected float32 (n,); got int64 (4,)"),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_files_are_checked(each_type: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    files = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
    code, text = sb.failure(run("run", each_type, *files))
    assert code == 6
    assert text.startswith(f"{tmp_path / 'x.npy'}: ")
    assert message in text
    assert not (tmp_path / "y.npy").exists()


def test_files_that_are_none(each_type: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(GOOD)
    (tmp_path / "folder").mkdir()
    for name in ("missing.npy", "folder"):
        words = ["--input", tmp_path / name, "--output", tmp_path / "y.npy"]
        assert sb.failure(run("run", each_type, *words))[0] == 6
    words = ["--input", tmp_path / "x.npy", "--output", tmp_path / "no" / "y.npy"]
    code, text = sb.failure(run("run", each_type, *words))
    assert (code, "cannot be written" in text) == (7, True)


SCALE = ["--input", "scale=a"]
COMMANDS = [
    ([], "run: expected --input NAME=FILE and --output NAME=FILE, at least one of each"),
    (["--input", "x=x.npy"], "at least one of each"),
    (["--input=", "--output", "y"], "--input: expected NAME=FILE; got nothing"),
    (["--input", "q.npy", "--output", "y"], "--input q.npy: expected NAME=FILE, NAME one of"),
    (["--input", "x=", "--output", "y"], "--input x=: expected NAME=FILE, NAME one of"),
    (["--input", "x=a", "--output", "y=b", "--output", "y=c"], "each output and each file once"),
    (["--input", "x=a", "--output", "y=b", "--output", "h_next=b"], "each output and each file"),
    (["--input", "x=a", "--output", "y=b"], "run: expected --input scale=FILE; it is missing"),
    (["--input", "scale=a", "--output", "y=b"], "run: expected --input x=FILE; it is missing"),
    (
        [*SCALE, "--input", "x=a", "--input", "h=a", "--input", "h=b", "--output", "y"],
        "--input h: expected at most one file",
    ),
    (
        [*(["--input", "x=a"] * 3), *(["--input", "scale=a"] * 2), "--output", "y"],
        "--input scale: expected one file, or 3, one a call; got 2",
    ),
]


def test_the_command_line_is_checked(folder: Path, each_type: Path) -> None:
    made = bundle(folder, network_onnx.running_sum)
    for words, message in COMMANDS:
        code, text = sb.failure(run("run", made, *words))
        assert (code, message in text) == (2, True), (words, text)
    code, text = sb.failure(
        run("run", each_type, "--input", "x=a", "--input", "x=b", "--output", "y")
    )
    assert (code, "the network carries no states" in text) == (2, True)
    for words in (["--input", "q=x.npy", "--output", "y"], ["--input", "x=a", "--output", "q=y"]):
        code, text = sb.failure(run("run", each_type, *words))
        assert (code, "expected NAME=FILE, NAME one of" in text) == (2, True), text
    help_text = sb.ssmrun("run", "--help").stdout.decode()
    assert "ssmrun run BUNDLE" in help_text
    assert "--input NAME=FILE" in help_text
    assert max(map(len, help_text.splitlines())) <= 100


def test_one_name_is_one_size(folder: Path, tmp_path: Path) -> None:
    made = bundle(folder, network_onnx.every_type)
    words = ["--output", f"y_bool={tmp_path}/y.npy"]
    for dtype in network_onnx.ELEMENTS:
        np.save(tmp_path / f"{dtype}.npy", np.zeros((1, 3 if dtype == "int64" else 2, 2), dtype))
        words += ["--input", f"x_{dtype}={tmp_path / dtype}.npy"]
    code, text = sb.failure(run("run", made, *words))
    assert code == 6
    assert "got int64 (1, 3, 2). length is 2 in input x_float32: one name is one size" in text


X = {"x": sent(np.zeros(2, np.float32))}
REQUESTS = [
    ({}, "inputs: expected an object; got nothing"),
    ({"inputs": [1]}, "inputs: expected an object; got [1]"),
    ({"inputs": {}}, "inputs: expected x; it is missing"),
    ({"inputs": {"q": X["x"]}}, "input q: expected x"),
    ({"inputs": {"x": 3}}, "input x: shape: expected at most 8 sizes; got none"),
    ({"inputs": {"x": X["x"] | {"shape": [-2]}}}, "shape: expected at most 8 sizes; got [-2]"),
    ({"inputs": {"x": X["x"] | {"shape": [1] * 9}}}, "shape: expected at most 8 sizes"),
    ({"inputs": {"x": X["x"] | {"shape": [1.5]}}}, "shape: expected at most 8 sizes"),
    ({"inputs": {"x": X["x"] | {"type": "text"}}}, "type: expected float32, float16, int64, int32"),
    ({"inputs": {"x": X["x"] | {"shape": [3]}}}, "data: expected 12 bytes in base64 for (3,)"),
    ({"inputs": {"x": X["x"] | {"shape": [2**40, 2**40]}}}, "data: expected at most 4 GiB"),
    ({"inputs": {"x": X["x"] | {"data": "???"}}}, "data: expected 8 bytes in base64"),
    ({"inputs": {"x": X["x"] | {"data": 3}}}, "data: expected 8 bytes in base64"),
    ({"inputs": {"x": sent(np.zeros((1, 2), np.float32))}}, "expected float32 (n,); got"),
]


def test_requests_are_checked(worker: sb.Worker, each_type: Path) -> None:
    worker.ask("load", threads=1, model=str(each_type / "float32.onnx"))
    for fields, message in REQUESTS:
        answer = worker.send(json.dumps({"do": "run", **fields}).encode())
        assert message in answer["error"], (fields, answer)
        assert answer["exit_code"] == 6
    assert worker.ask("run", **{"inputs": X})["outputs"]["y"]["shape"] == [2]


def changed(**changes: Any) -> dict[str, Any]:
    return {"inputs": [network_onnx.port("x", "float32", ["n"]) | changes]}


def without(field: str) -> dict[str, Any]:
    port = network_onnx.port("x", "float32", ["n"])
    return {"inputs": [{key: value for key, value in port.items() if key != field}]}


WHOLE = {"type": "int32", "low": 0}
METADATA = [
    ({"inputs": []}, "task.inputs: expected 1 to 1024 of them; got []"),
    ({"inputs": None}, "task.inputs: expected 1 to 1024 of them"),
    ({"inputs": [3]}, "task.inputs 0: name: expected a name; got none"),
    ({"outputs": {}}, "task.outputs: expected 1 to 1024 of them"),
    ({"inputs": [network_onnx.port("x", "float32", [3])] * 2}, "task.inputs: expected each name"),
    (without("name"), "task.inputs 0: name: expected a name"),
    (without("type"), "task.inputs 0: type: expected float32, float16, int64, int32 or bool; got"),
    (changed(type="float64"), 'float16, int64, int32 or bool; got "float64"'),
    (changed(type="uint8"), 'int32 or bool; got "uint8"'),
    (without("shape"), "shape: expected at most 8 sizes, each 0 to 2147483648 or a name; got none"),
    (changed(shape=[1] * 9, example=[1] * 9), "shape: expected at most 8 sizes"),
    (changed(shape=[-1]), "shape: expected at most 8 sizes"),
    (changed(shape=[""]), "shape: expected at most 8 sizes"),
    (changed(shape=[None]), "shape: expected at most 8 sizes"),
    (changed(shape=[2**40]), "shape: expected at most 8 sizes"),
    (without("example"), "example: expected a size for each of the shape's, 4 GiB in all at most"),
    (changed(example=[1, 1]), "example: expected a size for each"),
    (changed(example=[-1]), "example: expected a size for each"),
    (changed(example=[2**31]), "example: expected a size for each"),
    (changed(shape=[2], example=[3]), "example: expected a size for each"),
    ({"inputs": [network_onnx.port(n, "float32", ["n"], [2**30]) for n in "xy"]}, "4 GiB in all"),
    (changed(**WHOLE, high=0), "high: expected an integer above low, both of int32; got 0"),
    (changed(**WHOLE, high=2**40), "high: expected an integer above low, both of int32"),
    (changed(type="int64", low="a"), 'low: expected an integer; got "a"'),
    (changed(name="z"), "expected an input named z; it has none"),
    (changed(type="int32"), "input x: expected int32 (any); got float32 (any)"),
    (changed(shape=[7], example=[7]), "input x: expected float32 (7); got float32 (any)"),
    ({"outputs": [network_onnx.port("y", "bool", ["n"])]}, "output y: expected bool (any); got"),
    ({"outputs": [network_onnx.port("z", "float32", ["n"])]}, "an output named z"),
    ({"states": 3}, "task.states: expected an object of inputs and outputs; got 3"),
    ({"states": {"x": "q"}}, "states: expected names of inputs, each with an output like it"),
    ({"states": {"q": "y"}}, "states: expected names of inputs"),
    ({"states": {"x": 3}}, "states: expected names of inputs"),
    ({"states": {"x": "y"}}, "states: expected at least one input that is no state"),
]


@pytest.mark.parametrize(("change", "message"), METADATA, ids=range(len(METADATA)))
def test_the_metadata_is_checked(
    worker: sb.Worker, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = network_onnx.twice(tmp_path / "model.onnx", **change)
    answer = worker.send(json.dumps({"do": "load", "threads": 1, "model": str(path)}).encode())
    assert message in answer["error"], answer
    assert answer["exit_code"] == 6
