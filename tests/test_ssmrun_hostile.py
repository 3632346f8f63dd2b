"""Damaged and hostile bundles, requests and files: one sentence, the documented code, no crash.

The file cases run again under the sanitizers in `test_under_the_sanitizers`.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ssmrun_bundle as sb
import toy_onnx
from ssmpress.errors import BadInputError
from ssmpress.ops import Values
from ssmpress.run import open_session

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    sb.runner()
    return sb.make_bundle(tmp_path_factory.mktemp("hostile") / "demo", Values.INT8)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return sb.twin(bundle, tmp_path / "b")


@pytest.fixture(scope="module")
def worker(bundle: Path) -> Iterator[sb.Worker]:
    with sb.Worker(bundle) as running:
        running.ask("load", threads=1)
        yield running


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit_manifest(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """A change of the manifest's content, its own hash made to fit."""

    def damage(folder: Path) -> None:
        from ssmpress.report import manifest as module

        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        change(content)
        content.pop("manifest_sha256", None)
        content["manifest_sha256"] = module._canonical_sha256(content)
        path.write_text(json.dumps(content, ensure_ascii=False))

    return damage


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.json"
    shutil.move(folder / "tokenizer.json", outside)
    (folder / "tokenizer.json").symlink_to(outside)


def unlisted(name: str) -> Damage:
    return edit_manifest(lambda m: m["files"].pop(name))


def unlisted_data(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"x")


def listing(name: str) -> Damage:
    return edit_manifest(lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))


def fifo(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


BROKEN: list[tuple[str, Damage, str]] = [
    ("no folder", shutil.rmtree, "expected the folder of a bundle; there is none"),
    ("no manifest", lambda f: (f / "manifest.json").unlink(), "expected the bundle's manifest"),
    ("manifest is a pipe", fifo, "expected the bundle's manifest"),
    ("empty manifest", lambda f: (f / "manifest.json").write_bytes(b""), "at byte 0, where the"),
    ("cut manifest", lambda f: (f / "manifest.json").write_bytes(
        (f / "manifest.json").read_bytes()[:-30]), "expected JSON with"),
    ("manifest is a list", lambda f: (f / "manifest.json").write_text("[]"), "a JSON object; got"),
    ("one digit", lambda f: (f / "manifest.json").write_text(
        (f / "manifest.json").read_text().replace('"seed": 0', '"seed": 1')),
     "manifest_sha256 does not fit"),
    ("no own hash", lambda f: (f / "manifest.json").write_text('{"manifest_version": 1}'),
     "manifest_sha256 does not fit"),
    ("key twice", lambda f: (f / "manifest.json").write_text('{"a": 1, "a": 1}'), "every key once"),
    ("another version", edit_manifest(lambda m: m.update(manifest_version=2)),
     "expected manifest_version 1; got 2. Another version of ssmpress wrote it"),
    ("no files", edit_manifest(lambda m: m.update(files={})), "there are none"),
    ("files is a list", edit_manifest(lambda m: m.update(files=["x"])), "there are none"),
    ("odd entry", edit_manifest(lambda m: m["files"].update({"tokenizer.json": 3})),
     "tokenizer.json: expected bytes and sha256; got 3"),
    ("climbing name", listing("../x"), '"../x" is not a name of a file inside'),
    ("absolute name", listing("/etc/passwd"), "is not a name of a file inside"),
    ("dot", listing("."), "is not a name"), ("empty name", listing(""), "is not a name"),
    ("double slash", listing("a//b"), "is not a name"),
    ("backslash", listing("a\\b"), "is not a name"), ("zero byte", listing("a\0b"), "is not a"),
    ("itself", listing("manifest.json"), "is not a name of a file inside"),
    ("missing file", listing("gone.txt"), "gone.txt: the manifest names it, but there is no"),
    ("link out", link_out, "expected a file inside the bundle; it is a link out of it"),
    ("changed model", lambda f: flip(f / "model.onnx", 1000), "The file was changed after"),
    ("changed library", lambda f: flip(f / "libonnxruntime.so", 100), "libonnxruntime.so: exp"),
    ("longer file", lambda f: (f / "tokenizer.json").open("a").write(" ") and None,
     "tokenizer.json: expected 54591 bytes"),
]  # fmt: skip
"""Whatever is asked for fails: the manifest does not hold."""

UNFIT: list[tuple[str, Damage, int, str]] = [
    ("model not listed", unlisted("model.onnx"), 6, "expected model.onnx among the files"),
    ("data not listed", unlisted_data, 6, "expected model.onnx.data among the files"),
    ("library not listed", unlisted("libssmpress_ops.so"), 6, "expected libssmpress_ops.so among"),
    ("runtime not listed", unlisted("libonnxruntime.so"), 6, "expected libonnxruntime.so among"),
    ("tokenizer not listed", unlisted("tokenizer.json"), 6, "expected tokenizer.json among"),
]


@pytest.mark.parametrize(("name", "damage", "message"), BROKEN, ids=[n for n, *_ in BROKEN])
def test_a_broken_manifest_stops_everything(
    copy: Path, name: str, damage: Damage, message: str
) -> None:
    damage(copy)
    for command in (["verify"], ["generate", "--prompt", "x"], ["worker"]):
        code, text = sb.failure(sb.ssmrun(command[0], copy, *command[1:]))
        assert code == 6, command
        assert message in text


@pytest.mark.parametrize(("name", "damage", "code", "message"), UNFIT, ids=[n for n, *_ in UNFIT])
def test_a_bundle_that_lacks_something(
    copy: Path, name: str, damage: Damage, code: int, message: str
) -> None:
    damage(copy)
    found = sb.failure(sb.ssmrun("generate", copy, "--prompt", "x"))
    assert found[0] == code
    assert message in found[1]


def test_nothing_is_loaded_before_the_manifest_holds(copy: Path) -> None:
    """A library that would end the process on loading, beside a file that was changed."""
    source = copy.parent / "evil.c"
    source.write_text("__attribute__((constructor)) static void f(void) { __builtin_trap(); }\n")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a library with")
    evil = copy / "libonnxruntime.so"
    subprocess.run([compiler, "-shared", "-o", evil, source], check=True)
    code, text = sb.failure(sb.ssmrun("info", copy))
    assert (code, "libonnxruntime.so: expected" in text) == (6, True)
    sb.remake_manifest(copy)
    assert sb.ssmrun("info", copy).returncode < 0  # it is that library


def elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(100)


OTHER_MACHINE = 183 if os.uname().machine == "x86_64" else 62


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "(not a shared library)"), (b"\x7fELF", "(not a shared library)"),
     (elf(OTHER_MACHINE), "expected a library for"), (elf(8), "got one for (ELF machine 8)"),
     (elf(62 if OTHER_MACHINE == 183 else 183), "cannot be loaded: ")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["libonnxruntime.so", "libssmpress_ops.so"])
def test_libraries_that_do_not_fit(copy: Path, name: str, content: bytes, message: str) -> None:
    (copy / name).write_bytes(content)
    sb.remake_manifest(copy)
    for command in (["verify"], ["info"]):
        code, text = sb.failure(sb.ssmrun(command[0], copy))
        assert code == 7
        assert f"{copy / name}: " in text
        assert message in text


def test_a_library_without_its_entry_points(copy: Path) -> None:
    shutil.copyfile(copy / "libonnxruntime.so", copy / "libssmpress_ops.so")
    sb.remake_manifest(copy)
    code, text = sb.failure(sb.ssmrun("info", copy))
    assert (code, "expected a library with RegisterCustomOps" in text) == (7, True)


def test_another_runtime_than_the_bundle_was_proved_with(copy: Path) -> None:
    edit_manifest(lambda m: m["versions"].update(onnxruntime="1.2.3"))(copy)
    code, text = sb.failure(sb.ssmrun("verify", copy))
    assert (code, "expected ONNX Runtime 1.2.3, which the bundle was proved with" in text) == (
        6, True)  # fmt: skip
    given_one = sb.reply(sb.ssmrun("verify", copy, "--runtime", sb.runtime(), "--json"))
    assert "expected ONNX Runtime 1.2.3" in given_one["notes"][0]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 1000, b"\x08\x0a" * 400])
def test_models_that_are_none(copy: Path, content: bytes) -> None:
    (copy / "model.onnx").write_bytes(content)
    sb.remake_manifest(copy)
    code, text = sb.failure(sb.ssmrun("info", copy))
    assert code == 6
    assert "cannot load it" in text or "expected the metadata entry" in text


@pytest.mark.parametrize(
    ("metadata", "message"),
    [(None, "Only models that ssmpress exported"), ("{", "expected JSON"), ("[]", "n_layer"),
     ("[" * 100_000, "expected JSON with at most 100 levels"),
     ({"n_layer": 3}, "expected an input named past_conv_state.2"),
     ({"n_layer": 1}, "unexpected input past_conv_state.1"),
     ({"n_layer": True}, "n_layer: expected an integer"),
     ({"n_layer": 10**9}, "n_layer: expected an integer"),
     ({"n_layer": 2**24}, "expected two states of every layer"),
     ({"d_inner": 9}, "past_conv_state.0: expected float32 (any, 3, 9)"),
     ({"d_state": 5}, "past_scan_state.0: expected"), ({"d_conv": 3}, "past_conv_state.0: expect"),
     ({"vocab_size": 51}, "output logits: expected float32 (any, any, 51)"),
     ({"vocab_size": 1e3}, "vocab_size: expected an integer")],
)  # fmt: skip
def test_metadata_must_fit_the_graph(copy: Path, metadata: Any, message: str) -> None:
    if isinstance(metadata, dict):
        metadata = json.dumps(toy_onnx.config(**metadata))
    toy_onnx.toy_model(copy / "model.onnx", metadata=metadata)
    sb.remake_manifest(copy)
    code, text = sb.failure(sb.ssmrun("info", copy))
    assert code == 6
    assert message in text


def test_a_model_that_is_not_mambas_runs_too(copy: Path) -> None:
    """The toy with the interface of a bundle: its definition is ten lines of NumPy."""
    toy_onnx.toy_model(copy / "model.onnx")
    sb.remake_manifest(copy)
    tokens = np.random.default_rng(0).integers(toy_onnx.VOCAB, size=30)
    with sb.Worker(copy) as worker:
        worker.ask("load", threads=1)
        got = worker.ask("generate", tokens=tokens.tolist(), max_tokens=5)["tokens"]
    text = list(tokens)
    for token in got:
        assert token == toy_onnx.reference(np.array(text))[-1].argmax()
        text.append(token)


def test_logits_that_are_not_finite(copy: Path) -> None:
    import onnx

    model = onnx.load(toy_onnx.toy_model(copy / "model.onnx"))
    weight = next(t for t in model.graph.initializer if t.name == "ET")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, 7] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "ET"))
    onnx.save(model, copy / "model.onnx")
    sb.remake_manifest(copy)
    with sb.Worker(copy) as worker:
        worker.ask("load", threads=1)
        line = json.dumps({"do": "generate", "tokens": [1], "max_tokens": 1}).encode()
        sentence = worker.send(line)["error"]
    assert "expected finite numbers; token 7's is not" in sentence
    session = open_session(copy / "model.onnx", threads=1, library=None)
    with pytest.raises(BadInputError) as caught:
        next(session.generate(np.array([1]), 1))
    assert str(caught.value) == sentence


TOKEN_FILES: list[tuple[bytes, list[str], str]] = [
    (b"", [], "expected at least one window of 2 tokens; got 0 tokens"),
    (b"\x01\x00\x00", [], "raw int32, a multiple of 4 bytes; got 3"),
    (b"\x01\x00\x00", ["--dtype", "uint16"], "raw uint16, a multiple of 2 bytes"),
    (struct.pack("<2i", 1, -1), [], "expected tokens from 0 to 1023; got -1"),
    (struct.pack("<2i", 1, 1024), [], "got 1024. The text was made with another tokenizer"),
    (b"\x93NUMPY", [], "a file cut short"),
    (b"\x93NUMPY\x01\x00\xff\xff{}", [], "a file cut short"),
]


def npy(array: Any) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


TOKEN_FILES += [
    (npy(np.arange(9.0)), [], "another type or shape"),
    (npy(np.arange(8).reshape(2, 2, 2)), [], "another type or shape"),
    (npy(np.arange(8, dtype=">i4")), [], "another type or shape"),
    (npy(np.asfortranarray(np.arange(8).reshape(2, 4))), [], "another type or shape"),
    (npy(np.zeros((4, 1), int)), [], "rows of fewer than 2 tokens"),
    (npy(np.zeros((0,), int)), [], "got 0 tokens"),
    (npy(np.int64(3)), [], "another type or shape"),
    (npy(np.arange(100))[:-8], [], "a file cut short"),
    (npy(np.arange(8)).replace(b"(8,)", b"(99999999999999,)")[:-14], [], "a file cut short"),
    (npy(np.arange(8).reshape(2, 4)).replace(b"(2, 4), ", b"(2, 99999999999999), "), [], "cut"),
]


@pytest.mark.parametrize(("content", "options", "message"), TOKEN_FILES)
def test_token_files(
    bundle: Path, tmp_path: Path, content: bytes, options: list[str], message: str
) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    code, text = sb.failure(sb.ssmrun("eval", bundle, path, *options))
    assert code == 6
    assert f"{path}: " in text
    assert message in text


REQUESTS: list[tuple[bytes, str]] = [
    (b"", "expected JSON with a value at byte 0, where the text ends"),
    (b"{", "expected JSON with a key"), (b"[1, 2", "a comma or ]"), (b'{"a" 1}', "a colon"),
    (b'{"a": 1,}', "a key"), (b"[1,]", "a value"), (b"01", "without leading zeros"),
    (b"-", "a value"), (b"1.", "digits after the point"), (b"1e", "digits in the exponent"),
    (b"+1", "a value"), (b"nan", "a value"), (b"Infinity", "a value"), (b"nul", "a value"),
    (b"truex", "nothing after the value"), (b'"a', "the end of a string"),
    (b'"\x01"', "no control character"), (b'"\\x"', "a known escape"),
    (b'"\\u12"', "four hexadecimal digits"), (b'"\\ud800"', "the second half of a surrogate"),
    (b'"\\ud800\\u0041"', "the second half"), (b'"\\udc00"', "a surrogate pair"),
    (b'"\xff"', "UTF-8 text"), (b'"\xed\xa0\x80"', "UTF-8 text"), (b'"\xc0\xaf"', "UTF-8 text"),
    (b'{"a":1,"a":2}', "every key once"), (b"{} {}", "nothing after the value"),
    (b"[" * 200, "at most 100 levels"), (b'{"a":' * 200, "at most 100 levels"),
    (b"[" * 1_000_000, "at most 100 levels"), (b"[]", "expected an object; got []"),
    (b"1" * 1000, "expected an object"), (b"{}", "do: expected a string; got nothing"),
    (b'{"do": 3}', "do: expected a string; got 3"), (b'{"do": "fly"}', "or forecast; got fly"),
    (b'{"do": "load"}', "load: threads: expected an integer from 1 to 1024; got nothing"),
    (b'{"do": "load", "threads": 1e0}', "threads: expected an integer"),
    (b'{"do": "load", "threads": 99999999999999999999999}', "threads: expected an integer"),
    (b'{"do": "load", "threads": 1, "cold": 1}', "cold: expected true or false; got 1"),
    (b'{"do": "load", "threads": 1, "model": "/no"}', "/no: expected an ONNX model"),
    (b'{"do": "load", "threads": 1, "library": "/no"}', "/no: the op library is missing"),
    (b'{"do": "load", "threads": 1, "pin": [0, 1]}', "one processor per thread"),
    (b'{"do": "load", "threads": 1, "pin": [-1]}', "pin: expected 0 to 4095"),
    (b'{"do": "load", "threads": 1, "seed": -1}', "seed: expected an integer from 0"),
    (b'{"do": "round", "prompt_tokens": 0, "decode_tokens": 1}', "prompt_tokens: expected"),
    (b'{"do": "logits", "tokens": []}', "expected at least one token"),
    (b'{"do": "logits", "tokens": [1024]}', "expected tokens from 0 to 1023; got 1024"),
    (b'{"do": "logits", "tokens": [1.5]}', "tokens: expected a list of integers"),
    (b'{"do": "logits", "tokens": [1], "prefill": 2}', "prefill: expected an integer from 0 to 1"),
    (b'{"do": "nll", "windows": [[1]]}', "expected at least 2 tokens"),
    (b'{"do": "nll", "windows": [3]}', "windows: expected a list of integers"),
    (b'{"do": "generate", "tokens": [1], "max_tokens": 1, "temperature": 1e999}', "a number"),
    (b'{"do": "generate", "tokens": [1], "max_tokens": 1, "temperature": 1e-9}', "expected 0, or"),
    (b'{"do": "encode", "text": 3}', "text: expected a string"),
    (b'{"do": "decode", "tokens": [-9223372036854775808999]}', "a list of integers"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), REQUESTS, ids=[str(r[:40]) for r, _ in REQUESTS])
def test_requests(worker: sb.Worker, line: bytes, message: str) -> None:
    answer = worker.send(line)
    assert set(answer) == {"error", "exit_code"}
    assert message in answer["error"], answer
    assert answer["exit_code"] in (2, 6, 7)
    assert worker.ask("memory")["peak_rss_bytes"] > 0  # the worker itself goes on
    if b'"load"' in line:  # and a load that fails leaves no model
        worker.ask("load", threads=1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["tokens", "text", "windows", "prefill", "max_tokens", "seed", "temperature", "top_k",
     "prompt_tokens", "decode_tokens", "states"]
)  # fmt: skip
COMMANDS = ["encode", "decode", "nll", "logits", "memory", "generate"]


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(COMMANDS), st.dictionaries(FIELDS, VALUES, max_size=3), st.data())
def test_any_request_is_answered(
    worker: sb.Worker, do: str, fields: dict[str, Any], draw: st.DataObject
) -> None:
    """Well-formed ones with odd fields, and the same with bytes removed or changed."""
    fields.pop("max_tokens", None)
    line = bytearray(json.dumps({"do": do, **fields}).encode())
    for _ in range(draw.draw(st.integers(0, 3))):
        at = draw.draw(st.integers(0, len(line) - 1))
        line[at : at + 1] = draw.draw(st.binary(max_size=2)).replace(b"\n", b" ")
        if not line:
            break
    assert isinstance(worker.send(bytes(line)), dict)


JSON_TEXTS = st.one_of(
    VALUES.map(lambda v: json.dumps(v).encode()),
    VALUES.map(lambda v: json.dumps(v, ensure_ascii=False).encode("utf-8", "replace")),
    st.lists(
        st.sampled_from(['{', '}', '[', ']', '"', ':', ',', '1', '-', '.', 'e', '\\', 'u', 'd8',
                         'true', 'null', ' ', '\t', 'a', '0', 'é']), max_size=12)
    .map(lambda parts: "".join(parts).encode()),
)  # fmt: skip


@settings(max_examples=800, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON_TEXTS)
def test_json_is_accepted_where_python_accepts_it(worker: sb.Worker, text: bytes) -> None:
    """As the value of an entry that no request uses. What Python takes beyond RFC 8259 is not."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError
        return dict(pairs)

    def refuse(_: str) -> Any:
        raise ValueError

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
        valid = True
    except (ValueError, UnicodeError):
        valid = False
    answer = worker.send(b'{"do": "memory", "x": ' + text.replace(b"\n", b" ") + b"}")
    assert ("peak_rss_bytes" in answer) == valid, (text, answer)


def test_requests_are_read_however_they_arrive(bundle: Path) -> None:
    """In pieces, several at once, and without the last newline."""
    line = b'{"do": "memory"}\n'
    process = subprocess.Popen(
        [sb.runner(), "worker", bundle], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    for i in range(len(line)):
        process.stdin.write(line[i : i + 1])
        process.stdin.flush()
    out, _ = process.communicate(line * 3 + line[:-1], timeout=60)
    assert out.count(b"\n") == 4
    assert process.returncode == 0


@pytest.mark.slow
def test_under_the_sanitizers(tmp_path: Path) -> None:
    """This file and the tokenizer's again, with ASan and UBSan in the runner."""
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    source, build = sb.ROOT / "runtimes" / "runner", sb.ROOT / "build" / "runner-asan"
    subprocess.run(
        ["cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
         f"-DCMAKE_CXX_FLAGS={flags}"], check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(["cmake", "--build", build, "-j2"], check=True, capture_output=True)
    tests = [str(Path(__file__)), str(Path(__file__).with_name("test_ssmrun_tokenizer.py")),
             str(Path(__file__).with_name("test_ssmrun.py"))]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider",
         "-k", "not needs_nothing_but and not nothing_is_loaded", *tests],
        env={**os.environ, "SSMRUN": str(build / "ssmrun"), "ASAN_OPTIONS": "exitcode=99"},
        cwd=sb.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
