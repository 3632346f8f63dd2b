"""ssmrun on networks of any inputs and outputs, against ONNX Runtime in Python."""

from __future__ import annotations

import json
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
from network_bundle import bundle, npy, received, run, sent, work
from ssmpress.runtime.sampling import SplitMix64
from ssmpress.tasks.network import NetworkTask
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


def reference(bundle: Path, inputs: dict[str, Any]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(
        bundle / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def pairs(option: str, folder: Path, names: Any) -> list[str]:
    """`--input a=FOLDER/a.npy` and so on."""
    return [word for name in names for word in (option, f"{name}={folder / name}.npy")]


def test_every_type_and_any_sizes(folder: Path, tmp_path: Path) -> None:
    """Files and the worker give what ONNX Runtime gives in Python, for sizes as they come."""
    made = bundle(folder, network_onnx.every_type)
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


@pytest.mark.parametrize("to", NARROWER)
def test_what_a_type_holds_is_widened(worker: sb.Worker, each_type: Path, to: str) -> None:
    """To the last value of each type; anything else is refused with what to do."""
    worker.ask("load", threads=1, model=str(each_type / f"{to}.onnx"))
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


def test_any_byte_but_zero_is_true(worker: sb.Worker, each_type: Path, tmp_path: Path) -> None:
    """As NumPy has it: `not` of a byte 2 would be true in C++."""
    odd = np.array([0, 1, 2, 255], np.uint8)
    worker.ask("load", threads=1, model=str(each_type / "bool.onnx"))
    answer = worker.ask("run", inputs={"x": sent(odd, type="bool")})
    assert received(answer["outputs"]["y"]).tolist() == [True, False, False, False]
    (tmp_path / "x.npy").write_bytes(npy(odd.astype(bool))[:-4] + odd.tobytes())
    words = ["--model", each_type / "bool.onnx", "--input", tmp_path / "x.npy"]
    sb.reply(run("run", each_type, *words, "--output", tmp_path / "y.npy", "--json"))
    assert np.load(tmp_path / "y.npy").tolist() == [True, False, False, False]


ARRAYS = hnp.arrays(
    st.sampled_from(["<f4", "<f2", "<i8", "<i4", "|b1", "<f8", "<i2", "|i1", "<u4", "<u2", "|u1"]),
    hnp.array_shapes(min_dims=0, max_dims=8, min_side=1, max_side=3),
)


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=ARRAYS, version=st.sampled_from([(1, 0), (2, 0)]), fortran=st.booleans())
def test_numpys_files_are_read_and_numpy_reads_ours(
    each_type: Path, tmp_path: Path, array: NDArray[Any], version: Any, fortran: bool
) -> None:
    """Every array comes back as NumPy would convert it, or its order is refused."""
    kind = array.dtype.kind
    to = {"b": "bool", "f": "float16" if array.dtype == "<f2" else "float32"}.get(kind, "int64")
    sizes = [f"n{i}" for i in range(array.ndim)]
    port = network_onnx.port("x", to, sizes)
    model = network_onnx.save(tmp_path / "m.onnx", [], [port], [port])
    array = np.array(array, order="F" if fortran else "C")
    (tmp_path / "x.npy").write_bytes(npy(array, version=version))
    files = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
    done = run("run", each_type, "--model", model, *files, "--json")
    if not array.flags.c_contiguous:
        code, text = sb.failure(done)
        assert (code, "got one in Fortran order" in text) == (6, True)
        return
    sb.reply(done)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), array.astype(to))


def test_info_bench_and_what_has_no_meaning(folder: Path, each_type: Path, tmp_path: Path) -> None:
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
    bundle(folder, network_onnx.every_type)
    batch = sb.reply(run("bench", made, *words, "--json"))["prefill"]
    assert batch["tokens_per_s"] == pytest.approx(8000 / batch["p50_ms"])
    assert " samples/s" in run("bench", made, *words).stdout.decode()
    np.save(tmp_path / "x.npy", np.zeros(9, np.int64))
    code, text = sb.failure(run("eval", made, tmp_path / "x.npy"))
    assert code == 6
    assert "got a network, whose metric is its own Python code" in text
    code, text = sb.failure(run("generate", made, "--prompt", "x"))
    assert code == 6


def test_python_reads_and_writes_the_same_metadata(folder: Path) -> None:
    made = bundle(folder, network_onnx.running_sum)
    block = sb.reply(run("info", made, "--json"))["config"]["task"]
    assert block.pop("kind") == "network"
    task = NetworkTask(**block)
    assert task.states == {"h": "h_next"}
    bundle(folder, network_onnx.running_sum, **task.to_dict())
    assert sb.reply(run("info", made, "--json"))["config"]["task"] == {"kind": "network"} | block


def test_another_task_has_no_run(tmp_path: Path, each_type: Path) -> None:
    model = toy_onnx.toy_model(tmp_path / "toy.onnx")
    words = ["--model", model, "--input", "x", "--output", "y"]
    code, text = sb.failure(run("run", each_type, *words))
    assert code == 6
    assert "expected a model whose task is network; got language-model" in text


def test_random_inputs_are_those_of_the_page(worker: sb.Worker, tmp_path: Path) -> None:
    """Bit for bit: floats 4 U - 2, integers low + z mod (high - low), bools z mod 2, in the order
    of the inputs and their elements."""
    random = SplitMix64(7)
    ranges = {"i": {"low": -(2**62), "high": 2**62 + 5}, "j": {"low": 100, "high": 103}}
    expected = {
        "a": np.array([4 * random.uniform() - 2 for _ in range(6)]).astype("f4").reshape(2, 3),
        "i": np.array([ranges["i"]["low"] + random.next() % (2**63 + 5) for _ in range(5)]),
        "b": np.array([random.next() % 2 == 1 for _ in range(9)]),
        # so many that some lie in the middle of two
        "h": np.array([4 * random.uniform() - 2 for _ in range(40_000)]).astype("f4").astype("f2"),
        "j": np.array([100 + random.next() % 3 for _ in range(7)], np.int32),
    }
    path = network_onnx.checked_draws(tmp_path / "right.onnx", expected, ranges)
    worker.ask("load", threads=1, seed=7, model=str(path))
    worker.ask("round", prompt_tokens=1, decode_tokens=0)
    line = json.dumps({"do": "round", "prompt_tokens": 1, "decode_tokens": 0}).encode()
    assert "could not run it" in worker.send(line)["error"]  # the next ones are others
    worker.ask("load", threads=1, seed=8, model=str(path))
    assert "could not run it" in worker.send(line)["error"]
