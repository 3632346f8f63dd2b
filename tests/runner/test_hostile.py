"""Damaged and hostile bundles and files: one sentence, the documented code, nothing loaded."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssmrun_bundle as sb
import toy_onnx
from conftest import random_checkpoint, small_config
from outside_tensors import PLACES, put_outside
from ssmpress.blocks.tensors import EMBEDDING
from ssmpress.bundle.text_model import open_bundle
from ssmpress.errors import BadInputError
from ssmpress.formats import Format, Structure, Values
from ssmpress.graph.export import export
from ssmpress.pack.matrix import pack
from ssmpress.pack.model import PackedModel
from ssmpress.runtime.loading import open_session

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    sb.runner()
    return sb.make_bundle(tmp_path_factory.mktemp("hostile") / "demo", sb.packed_model(Values.INT8))


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return sb.twin(bundle, tmp_path / "b")


@pytest.fixture
def unloadable(bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose libraries are a few bytes: for what must fail before they matter."""
    shutil.copytree(bundle, tmp_path / "b", ignore=shutil.ignore_patterns("*.so"))
    for name in ("libonnxruntime.so", "libssmpress_ops.so"):
        (tmp_path / "b" / name).write_bytes(bytes(200))
    sb.remake_manifest(tmp_path / "b")
    return tmp_path / "b"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit_manifest(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """A change of the manifest's content, its own hash made to fit."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        sb.rewrite_manifest(folder, content)

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
    (
        "cut manifest",
        lambda f: (f / "manifest.json").write_bytes((f / "manifest.json").read_bytes()[:-30]),
        "expected JSON with",
    ),
    ("manifest is a list", lambda f: (f / "manifest.json").write_text("[]"), "a JSON object; got"),
    (
        "one digit",
        lambda f: (f / "manifest.json").write_text(
            (f / "manifest.json").read_text().replace('"seed": 0', '"seed": 1')
        ),
        "manifest_sha256 does not fit",
    ),
    (
        "no own hash",
        lambda f: (f / "manifest.json").write_text('{"manifest_version": 1}'),
        "manifest_sha256 does not fit",
    ),
    ("key twice", lambda f: (f / "manifest.json").write_text('{"a": 1, "a": 1}'), "every key once"),
    (
        "another version",
        edit_manifest(lambda m: m.update(manifest_version=2)),
        "expected manifest_version 1; got 2. Another version of ssmpress wrote it",
    ),
    ("no files", edit_manifest(lambda m: m.update(files={})), "there are none"),
    ("files is a list", edit_manifest(lambda m: m.update(files=["x"])), "there are none"),
    (
        "odd entry",
        edit_manifest(lambda m: m["files"].update({"tokenizer.json": 3})),
        "tokenizer.json: expected bytes and sha256; got 3",
    ),
    ("climbing name", listing("../x"), '"../x" is not a name of a file inside'),
    ("absolute name", listing("/etc/passwd"), "is not a name of a file inside"),
    ("dot", listing("."), "is not a name"),
    ("empty name", listing(""), "is not a name"),
    ("double slash", listing("a//b"), "is not a name"),
    ("backslash", listing("a\\b"), "is not a name"),
    ("zero byte", listing("a\0b"), "is not a"),
    ("itself", listing("manifest.json"), "is not a name of a file inside"),
    ("missing file", listing("gone.txt"), "gone.txt: the manifest names it, but there is no"),
    ("link out", link_out, "expected a file inside the bundle; it is a link out of it"),
    ("changed model", lambda f: flip(f / "model.onnx", 1000), "The file was changed after"),
    ("changed library", lambda f: flip(f / "libonnxruntime.so", 100), "libonnxruntime.so: exp"),
    (
        "longer file",
        lambda f: (f / "tokenizer.json").open("a").write(" ") and None,
        "tokenizer.json: expected 54591 bytes",
    ),
]
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
    unloadable: Path, name: str, damage: Damage, message: str
) -> None:
    damage(unloadable)
    for command in (["verify"], ["generate", "--prompt", "x"], ["worker"]):
        code, text = sb.failure(sb.ssmrun(command[0], unloadable, *command[1:]))
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


PLANTED = [
    "libfoo.so",
    "libstdc++.so.6",
    "glibc-hwcaps/x86-64-v3/libm.so.6",
    "tls/haswell/avx512_1/x86_64/libdl.so.2",
    "libonnxruntime.so.1",
]


@pytest.mark.parametrize("name", PLANTED)
def test_a_library_that_the_manifest_does_not_list_stops_everything(
    unloadable: Path, name: str
) -> None:
    """ONNX Runtime's has RUNPATH $ORIGIN: the loader would take it from there."""
    planted = unloadable / name
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_bytes(b"a library")
    message = f"{planted}: expected no library in a bundle that its manifest does not list"
    for command in (["verify"], ["generate", "--prompt", "x"], ["worker"]):
        code, text = sb.failure(sb.ssmrun(command[0], unloadable, *command[1:]))
        assert (code, text.startswith(message)) == (6, True)
    with pytest.raises(BadInputError) as caught:
        open_bundle(unloadable, threads=1)
    assert str(caught.value).startswith(message)


def test_what_is_no_library_may_stand_beside(copy: Path) -> None:
    for name in ("notes.txt", "libfoo.sofa", "so", "sub/notes.so.txt/x"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"text")
    assert sb.reply(sb.ssmrun("verify", copy, "--json"))["ok"]
    open_bundle(copy, threads=1)


@pytest.mark.parametrize("place", PLACES)
def test_tensors_in_other_files_are_refused(copy: Path, place: str) -> None:
    put_outside(copy / "model.onnx", place, "../secret")
    sb.remake_manifest(copy)
    code, text = sb.failure(sb.ssmrun("info", copy))
    assert code == 6
    assert "model.onnx: expected its tensors in it or in model.onnx.data beside it" in text
    assert 'one is in "../secret"' in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00" * 9, "no field at byte 0"),
        (b"\x3a\x05ab", "a field at byte 0 that ends behind"),
        (b"\x08" + b"\xff" * 11, "no number at byte 1"),
    ],
)
def test_models_that_are_no_messages(copy: Path, content: bytes, message: str) -> None:
    (copy / "model.onnx").write_bytes(content)
    sb.remake_manifest(copy)
    code, text = sb.failure(sb.ssmrun("info", copy))
    assert (code, message in text) == (6, True)


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
    [
        (b"", "(not a shared library)"),
        (b"\x7fELF", "(not a shared library)"),
        (elf(OTHER_MACHINE), "expected a library for"),
        (elf(8), "got one for (ELF machine 8)"),
        (elf(62 if OTHER_MACHINE == 183 else 183), "cannot be loaded: "),
    ],
)
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
        6,
        True,
    )
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
    [
        (None, "Only models that ssmpress exported"),
        ("{", "expected JSON"),
        ("[]", "expected an object; got []"),
        ("[" * 100_000, "expected JSON with at most 100 levels"),
        ({"vocab_size": 51}, "output logits: expected float32 (any, any, 51)"),
        ({"vocab_size": 1e3}, "vocab_size: expected an integer"),
    ],
)
def test_the_configuration_must_fit_the_graph(copy: Path, metadata: Any, message: str) -> None:
    if isinstance(metadata, dict):
        metadata = json.dumps(toy_onnx.config(**metadata))
    assert message in refusal(copy, metadata=metadata)


def refusal(copy: Path, **entries: str | None) -> str:
    """What ssmrun says of a bundle with this metadata."""
    toy_onnx.toy_model(copy / "model.onnx", **entries)
    sb.remake_manifest(copy)
    code, text = sb.failure(sb.ssmrun("info", copy))
    assert code == 6
    return text


@pytest.mark.parametrize(("listed", "message"), toy_onnx.SPOILED_STATES)
def test_the_states_must_fit_the_graph(copy: Path, listed: Any, message: str) -> None:
    text = listed if isinstance(listed, str) else json.dumps(listed)
    assert message in refusal(copy, listed=text)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"n_layer": 3}, "expected an input named past_conv_state.2"),
        ({"n_layer": 1}, "unexpected input past_conv_state.1"),
        ({"n_layer": True}, "n_layer: expected an integer"),
        ({"n_layer": 10**9}, "n_layer: expected an integer"),
        ({"n_layer": 2**24}, "expected two states of every layer"),
        ({"d_inner": 9}, "past_conv_state.0: expected float32 (any, 3, 9)"),
        ({"d_state": 5}, "past_scan_state.0: expected"),
        ({"d_conv": 3}, "past_conv_state.0: expect"),
        ({"channels": [8]}, "channels: expected 2 integers from 1 to 8"),
        ({"channels": [8, 9]}, "channels: expected"),
        ({"channels": [0, 8]}, "channels: expected"),
        ({"channels": [8, 7.5]}, "channels: expected"),
        ({"channels": {}}, "channels: expected"),
        ({"channels": [8, 7]}, "past_conv_state.1: expected float32 (any, 3, 7)"),
    ],
)
def test_the_sizes_of_an_old_bundle_must_fit_the_graph(
    copy: Path, metadata: Any, message: str
) -> None:
    text = json.dumps(toy_onnx.config(**metadata))
    assert message in refusal(copy, metadata=text, listed=None)


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


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_state_that_grows(copy: Path, dtype: str) -> None:
    """The toy's state has an entry per token; texts follow one another in one worker."""
    toy_onnx.growing_model(copy / "model.onnx", dtype)
    sb.remake_manifest(copy)
    session = open_session(copy / "model.onnx", threads=1, library=None)
    with sb.Worker(copy) as worker:
        worker.ask("load", threads=1)
        for length, split in ((30, 3), (7, 7), (40, 0)):
            ids = np.random.default_rng(length).integers(toy_onnx.VOCAB, size=length)
            got = worker.ask("logits", tokens=ids.tolist(), prefill=split, states=True)
            logits = sb.array(got, "logits")
            expected, state = session.predict(ids[None])
            assert np.abs(logits - expected[0]).max() < 1e-4
            (seen,) = state.arrays().values()
            assert got["states"]["seen_state.0"]["shape"] == [1, 2, length, 4] == list(seen.shape)
            assert np.array_equal(sb.array(got["states"]["seen_state.0"]), seen.astype(np.float32))


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
    (npy(np.zeros((0, 4), int)), [], "expected at least one window of 4 tokens; got 0 tokens"),
    (npy(np.zeros((2, 4), int)), ["--limit", "3"], "one window of 4 tokens; got 3 tokens"),
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


LARGE_VOCABULARY = 100_003


def test_tokens_that_16_bits_cannot_hold(copy: Path, tmp_path: Path) -> None:
    """Ids beyond 65535 were cut when the file was written: a perplexity of it would be nonsense."""
    config = small_config(vocab_size=LARGE_VOCABULARY)
    checkpoint, dense = random_checkpoint(config), Format(Structure.DENSE, Values.FP32)
    arrays = {name: tensor.numpy() for name, tensor in checkpoint.tensors.items()}
    matrices = {
        name: pack(array, array != 0, dense, "test")
        for name, array in arrays.items()
        if name.endswith("_proj.weight") or name == EMBEDDING
    }
    rest = {name: array for name, array in arrays.items() if name not in matrices}
    (copy / "model.onnx").unlink()
    export(PackedModel(rest, matrices, config), copy / "model.onnx")
    sb.remake_manifest(copy)
    tokens = np.arange(40)
    for name, content, options, kind in (
        ("raw", tokens.astype("<u2").tobytes(), ["--dtype", "uint16"], "uint16"),
        ("unsigned.npy", npy(tokens.astype(np.uint16)), [], "uint16"),
        ("signed.npy", npy(tokens.astype(np.int16)), [], "int16"),
    ):
        (tmp_path / name).write_bytes(content)
        code, text = sb.failure(sb.ssmrun("eval", copy, tmp_path / name, *options))
        assert code == 6
        assert f"{tmp_path / name}: expected integers that hold the model's tokens" in text
        assert f"0 to {LARGE_VOCABULARY - 1}; got {kind}, which ends at" in text
    (tmp_path / "good").write_bytes(tokens.astype("<i4").tobytes())
    assert sb.reply(sb.ssmrun("eval", copy, tmp_path / "good", "--json"))["tokens"] == 39
