"""ssmrun on networks of any inputs and outputs, against ONNX Runtime in Python."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import network_onnx
import ssmrun_bundle as sb
import toy_onnx
from ssmpress.runtime.sampling import SplitMix64
from thoroughness import examples

RANDOM = np.random.default_rng(0)


def drawn(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Numbers of a type that exist, none of them in the way of an equality."""
    if dtype.startswith("float"):
        return RANDOM.normal(size=shape).astype(dtype)
    if dtype == "bool":
        return RANDOM.random(shape) < 0.5
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min // 2, limits.max // 2, size=shape, dtype=dtype)


@pytest.fixture
def folder(tmp_path: Path, library: Path) -> Path:
    """What a bundle has beside its model."""
    sb.runner()
    folder = tmp_path / "bundle"
    folder.mkdir()
    shutil.copyfile(library, folder / "libssmpress_ops.so")
    return folder


def bundle(folder: Path, make: Any = network_onnx.every_type, *arguments: Any, **task: Any) -> Path:
    make(folder / "model.onnx", *arguments, **task)
    sb.remake_manifest(folder)
    return folder


def run(command: str, bundle: Path, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """With the installed ONNX Runtime, whose copy and hash would take most of the time."""
    runtime = ["--runtime", str(sb.runtime()), "--threads", "1"]
    return sb.ssmrun(command, bundle, *runtime, *arguments)


def work(bundle: Path) -> sb.Worker:
    return sb.Worker(bundle, "--runtime", str(sb.runtime()))


def reference(bundle: Path, inputs: dict[str, Any]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(
        bundle / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def pairs(option: str, folder: Path, names: Any) -> list[str]:
    """`--input a=FOLDER/a.npy` and so on."""
    return [word for name in names for word in (option, f"{name}={folder / name}.npy")]


def sent(array: NDArray[Any], **changes: Any) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"shape": list(array.shape), "type": str(array.dtype), "data": data, **changes}


def received(value: dict[str, Any]) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(value["data"]), value["type"]).reshape(value["shape"])


def test_every_type_and_any_sizes(folder: Path, tmp_path: Path) -> None:
    """Files and the worker give what ONNX Runtime gives in Python, for sizes as they come."""
    made = bundle(folder)
    for shape in ((1, 1, 2), (2, 5, 2)):
        inputs = {f"x_{dtype}": drawn(dtype, shape) for dtype in network_onnx.ELEMENTS}
        wanted = reference(made, inputs)
        for name, array in inputs.items():
            np.save(tmp_path / f"{name}.npy", array)
        words = [*pairs("--input", tmp_path, inputs), *pairs("--output", tmp_path, wanted)]
        found = sb.reply(run("run", made, *words, "--json"))
        assert [one["name"] for one in found["outputs"]] == list(wanted)
        assert len(found["run_ms"]) == 1
        for one in found["outputs"]:
            array = np.load(one["file"])
            expected = wanted[one["name"]]
            assert (one["type"], one["shape"]) == (str(array.dtype), list(array.shape))
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)
        with work(made) as worker:
            worker.ask("load", threads=1)
            answer = worker.ask("run", inputs={name: sent(a) for name, a in inputs.items()})
        assert list(answer["outputs"]) == list(wanted)
        assert answer["run_ms"] > 0
        for name, value in answer["outputs"].items():
            assert value["type"] == str(wanted[name].dtype)
            np.testing.assert_array_equal(received(value), wanted[name])
    text = run("run", made, *words).stdout.decode()
    assert f"{tmp_path / 'y_bool.npy'}: y_bool, bool (2, 5, 2)\n" in text
    assert "1 call, " in text
    assert not list(tmp_path.glob("*.npy.*"))  # no temporary files


def test_one_input_and_output_need_no_names(folder: Path, tmp_path: Path) -> None:
    """An output that is the input itself too, and a number without axes."""
    scalar = np.array(2.5, np.float32)
    np.save(tmp_path / "in.npy", scalar)
    port = network_onnx.port("x", "float32", [])
    bundle(folder, network_onnx.save, [], [port], [port])
    sb.reply(
        run(
            "run",
            folder,
            "--input",
            tmp_path / "in.npy",
            "--output",
            tmp_path / "out.npy",
            "--json",
        )
    )
    assert np.load(tmp_path / "out.npy") == scalar
    assert np.load(tmp_path / "out.npy").shape == ()


CHUNKS = [
    np.float32([[[1, 2], [3, 4]]]),
    np.float32([[[5, 6]]]),
    np.float32([[[7, 8], [9, 10], [11, 12]]]),
]


def test_states_are_carried(folder: Path, tmp_path: Path) -> None:
    """Chunks in three calls give what one call gives; a run goes on where another ended."""
    made = bundle(folder, network_onnx.running_sum)
    whole = np.concatenate(CHUNKS, axis=1)
    zero = np.zeros((1, 2), np.float32)
    wanted = reference(made, {"x": whole, "h": zero, "scale": np.array(0.5, np.float32)})
    np.save(tmp_path / "scale.npy", np.float32(0.5))
    for number, chunk in enumerate(CHUNKS):
        np.save(tmp_path / f"{number}.npy", chunk)
    scale = ["--input", f"scale={tmp_path / 'scale.npy'}"]
    chunks = [word for i in range(3) for word in ("--input", f"x={tmp_path / str(i)}.npy")]
    outputs = ["--output", tmp_path / "y.npy", "--output", f"h_next={tmp_path / 'h.npy'}", "--json"]
    found = sb.reply(run("run", made, *scale, *chunks, *outputs))
    names = [Path(one["file"]).name for one in found["outputs"]]
    assert names == ["y.0.npy", "y.1.npy", "y.2.npy", "h.npy"]
    assert len(found["run_ms"]) == 3
    parts = [np.load(tmp_path / name) for name in names[:3]]
    assert [part.shape[1] for part in parts] == [2, 1, 3]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), wanted["y"])
    np.testing.assert_array_equal(np.load(tmp_path / "h.npy"), wanted["h_next"])
    again = [*scale, "--input", f"h={tmp_path / 'h.npy'}", *chunks[:2]]
    sb.reply(run("run", made, *again, *outputs))
    np.testing.assert_array_equal(
        np.load(tmp_path / "y.npy"), np.cumsum(CHUNKS[0], 1) / 2 + wanted["h_next"][:, None]
    )


def test_a_worker_gives_and_takes_states(folder: Path) -> None:
    """A state that is left out is zero, of the batch that the others have."""
    made = bundle(folder, network_onnx.running_sum)
    x = drawn("float32", (3, 4, 2))
    scale = sent(np.array(2, np.float32))
    with work(made) as worker:
        worker.ask("load", threads=1)
        first = worker.ask("run", inputs={"x": sent(x), "scale": scale})["outputs"]
        then = worker.ask("run", inputs={"x": sent(x), "scale": scale, "h": first["h_next"]})[
            "outputs"
        ]
        round = worker.ask("round", prompt_tokens=1, decode_tokens=3)
        assert worker.ask("memory")["peak_rss_bytes"] > 0
    wanted = reference(
        made, {"x": x, "h": np.zeros((3, 2), np.float32), "scale": np.array(2, np.float32)}
    )
    np.testing.assert_array_equal(received(first["y"]), wanted["y"])
    wanted = reference(made, {"x": x, "h": wanted["h_next"], "scale": np.array(2, np.float32)})
    np.testing.assert_array_equal(received(then["y"]), wanted["y"])
    assert len(round["decode_ms"]) == 3


NARROWER = {
    "float32": ("float16", "float64"),
    "float16": (),
    "int64": ("int8", "uint8", "int16", "uint16", "int32", "uint32"),
    "int32": ("int8", "uint8", "int16", "uint16"),
    "bool": (),
}
ALL_TYPES = sorted({*NARROWER, *(name for names in NARROWER.values() for name in names), "uint64"})


@pytest.fixture(scope="module")
def loaded(
    tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[tuple[sb.Worker, Path]]:
    """A worker, and a folder with a model of each type that it can load."""
    sb.runner()
    folder = tmp_path_factory.mktemp("types")
    shutil.copyfile(library, folder / "libssmpress_ops.so")
    for dtype in network_onnx.ELEMENTS:
        network_onnx.twice(folder / f"{dtype}.onnx", dtype)
    network_onnx.twice(folder / "model.onnx")
    sb.remake_manifest(folder)
    with work(folder) as worker:
        yield worker, folder


@pytest.mark.parametrize("to", NARROWER)
def test_what_a_type_holds_is_widened(loaded: tuple[sb.Worker, Path], to: str) -> None:
    """To the last value of each type; anything else is refused with what to do."""
    worker, folder = loaded
    worker.ask("load", threads=1, model=str(folder / f"{to}.onnx"))
    for given_type in ALL_TYPES:
        limits = np.iinfo(given_type) if np.dtype(given_type).kind in "iu" else None
        ends = [limits.min, limits.max] if limits else [0.1, -30000, 6e-8, np.inf]
        array = np.array(ends, given_type)
        answer = worker.send(json.dumps({"do": "run", "inputs": {"x": sent(array)}}).encode())
        if given_type == to or given_type in NARROWER[to]:
            wide = array.astype(to)
            wanted = ~wide if to == "bool" else wide + wide  # integers wrap on both sides
            np.testing.assert_array_equal(received(answer["outputs"]["y"]), wanted)
        else:
            assert f"input x: expected {to} (n,); got {given_type} (" in answer["error"]
            assert f'Convert it with .astype("{to}")' in answer["error"]
            assert answer["exit_code"] == 6


def npy(array: Any, **changes: bytes) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **changes)
    return file.getvalue()


@pytest.fixture(scope="module")
def npy_bundle(loaded: tuple[sb.Worker, Path]) -> Path:
    return loaded[1]


ARRAYS = hnp.arrays(
    st.sampled_from(["<f4", "<f2", "<i8", "<i4", "|b1", "<f8", "<i2", "|i1", "<u4", "<u2", "|u1"]),
    hnp.array_shapes(min_dims=0, max_dims=8, min_side=1, max_side=3),
)


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=ARRAYS, version=st.sampled_from([(1, 0), (2, 0)]), fortran=st.booleans())
def test_numpys_files_are_read_and_numpy_reads_ours(
    folder: Path, tmp_path: Path, array: NDArray[Any], version: Any, fortran: bool
) -> None:
    """Every array comes back as NumPy would convert it, or its order is refused."""
    kind = array.dtype.kind
    to = {"b": "bool", "f": "float16" if array.dtype == "<f2" else "float32"}.get(kind, "int64")
    sizes = [f"n{i}" for i in range(array.ndim)]
    port = network_onnx.port("x", to, sizes)
    model = network_onnx.save(tmp_path / "m.onnx", [], [port], [port])
    array = np.array(array, order="F" if fortran else "C")
    (tmp_path / "x.npy").write_bytes(npy(array, version=version))
    if not (folder / "manifest.json").exists():
        bundle(folder)
    files = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
    done = run("run", folder, "--model", model, *files, "--json")
    if not array.flags.c_contiguous:
        code, text = sb.failure(done)
        assert (code, "got one in Fortran order" in text) == (6, True)
        return
    sb.reply(done)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), array.astype(to))


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
def test_files_are_checked(npy_bundle: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    files = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
    code, text = sb.failure(run("run", npy_bundle, *files))
    assert code == 6
    assert text.startswith(f"{tmp_path / 'x.npy'}: ")
    assert message in text
    assert not (tmp_path / "y.npy").exists()


def test_files_that_are_none(npy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(GOOD)
    (tmp_path / "folder").mkdir()
    for name in ("missing.npy", "folder"):
        words = ["--input", tmp_path / name, "--output", tmp_path / "y.npy"]
        assert sb.failure(run("run", npy_bundle, *words))[0] == 6
    words = ["--input", tmp_path / "x.npy", "--output", tmp_path / "no" / "y.npy"]
    code, text = sb.failure(run("run", npy_bundle, *words))
    assert (code, "cannot be written" in text) == (7, True)


SCALE = ["--input", "scale=a"]
COMMANDS = [
    ([], "run: expected --input NAME=FILE and --output NAME=FILE, at least one of each"),
    (["--input", "x=x.npy"], "at least one of each"),
    (["--input=", "--output", "y"], "--input: expected NAME=FILE; got nothing"),
    (["--input", "q.npy", "--output", "y"], "--input q.npy: expected NAME=FILE, NAME one of"),
    (["--input", "x=", "--output", "y"], "--input x=: expected NAME=FILE, NAME one of"),
    (["--input", "x=a", "--output", "z=b", "--output", "z=c"], "each output and each file once"),
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


def test_the_command_line_is_checked(folder: Path, npy_bundle: Path) -> None:
    made = bundle(folder, network_onnx.running_sum)
    for words, message in COMMANDS:
        code, text = sb.failure(run("run", made, *words))
        assert (code, message in text) == (2, True), (words, text)
    code, text = sb.failure(
        run("run", npy_bundle, "--input", "x=a", "--input", "x=b", "--output", "y")
    )
    assert (code, "the network carries no states" in text) == (2, True)
    help_text = sb.ssmrun("run", "--help").stdout.decode()
    assert "ssmrun run BUNDLE" in help_text
    assert "--input NAME=FILE" in help_text
    assert max(map(len, help_text.splitlines())) <= 100


def test_one_name_is_one_size(folder: Path, tmp_path: Path) -> None:
    made = bundle(folder)
    inputs = {f"x_{dtype}": drawn(dtype, (1, 2, 2)) for dtype in network_onnx.ELEMENTS}
    inputs["x_int64"] = drawn("int64", (1, 3, 2))
    for name, array in inputs.items():
        np.save(tmp_path / f"{name}.npy", array)
    code, text = sb.failure(
        run(
            "run", made, *pairs("--input", tmp_path, inputs), "--output", f"y_bool={tmp_path}/y.npy"
        )
    )
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


def test_requests_are_checked(loaded: tuple[sb.Worker, Path]) -> None:
    worker, folder = loaded
    worker.ask("load", threads=1, model=str(folder / "float32.onnx"))
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
    loaded: tuple[sb.Worker, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    worker, _ = loaded
    path = network_onnx.twice(tmp_path / "model.onnx", **change)
    answer = worker.send(json.dumps({"do": "load", "threads": 1, "model": str(path)}).encode())
    assert message in answer["error"], answer
    assert answer["exit_code"] == 6


def test_info_bench_and_what_has_no_meaning(folder: Path, npy_bundle: Path, tmp_path: Path) -> None:
    """A batch of 8 where every input has one; else single calls."""
    made = bundle(folder, network_onnx.running_sum)
    found = sb.reply(run("info", made, "--json"))
    assert (found["task"], found["state_bytes"]) == ("network", 0)
    text = run("info", made).stdout.decode()
    assert "input h: float32 (batch, 2), carried from output h_next\n" in text
    assert "output y: float32 (batch, length, 2)\n" in text
    assert "input scale: float32 ()\n" in text
    words = ["--rounds", "2", "--tokens", "3", "--no-cold"]
    found = sb.reply(run("bench", made, *words, "--json"))
    assert [len(one["decode_ms"]) for one in found["rounds"]] == [3, 3, 3]
    alone = found["prefill"]
    assert alone["tokens_per_s"] == pytest.approx(1000 / alone["p50_ms"])  # scale has no batch
    bundle(folder)
    batch = sb.reply(run("bench", made, *words, "--json"))["prefill"]
    assert batch["tokens_per_s"] == pytest.approx(8000 / batch["p50_ms"])
    assert " samples/s" in run("bench", made, *words).stdout.decode()
    np.save(tmp_path / "x.npy", np.zeros(9, np.int64))
    code, text = sb.failure(run("eval", made, tmp_path / "x.npy"))
    assert code == 6
    assert "got a network, whose metric is its own Python code" in text
    code, text = sb.failure(run("generate", made, "--prompt", "x"))
    assert code == 6


def test_another_task_has_no_run(tmp_path: Path, npy_bundle: Path) -> None:
    model = toy_onnx.toy_model(tmp_path / "toy.onnx")
    words = ["--model", model, "--input", "x", "--output", "y"]
    code, text = sb.failure(run("run", npy_bundle, *words))
    assert code == 6
    assert "expected a model whose task is network; got language-model" in text


def test_random_inputs_are_those_of_the_page(
    loaded: tuple[sb.Worker, Path], tmp_path: Path
) -> None:
    """Bit for bit: floats 4 U - 2, integers low + z mod (high - low), bools z mod 2, in the order
    of the inputs and their elements."""
    worker, _ = loaded
    random = SplitMix64(7)
    ranges = {"i": {"low": -(2**62), "high": 2**62 + 5}, "j": {"low": 100, "high": 103}}
    expected = {
        "a": np.array([4 * random.uniform() - 2 for _ in range(6)]).astype("f4").reshape(2, 3),
        "i": np.array([ranges["i"]["low"] + random.next() % (2**63 + 5) for _ in range(5)]),
        "b": np.array([random.next() % 2 == 1 for _ in range(9)]),
        "h": np.array([4 * random.uniform() - 2 for _ in range(64)]).astype("f4").astype("f2"),
        "j": np.array([100 + random.next() % 3 for _ in range(7)], np.int32),
    }
    path = network_onnx.checked_draws(tmp_path / "right.onnx", expected, ranges)
    worker.ask("load", threads=1, seed=7, model=str(path))
    worker.ask("round", prompt_tokens=1, decode_tokens=0)
    line = json.dumps({"do": "round", "prompt_tokens": 1, "decode_tokens": 0}).encode()
    assert "could not run it" in worker.send(line)["error"]  # the next ones are others
    worker.ask("load", threads=1, seed=8, model=str(path))
    assert "could not run it" in worker.send(line)["error"]
