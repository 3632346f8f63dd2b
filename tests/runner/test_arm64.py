"""The aarch64 ssmrun under QEMU: what it computes is what this machine computes."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import network_onnx
import ssmrun_bundle as sb
import tolerances
from ssmpress.bundle.runtime_library import find_runtime_library
from ssmpress.data.default_text import default_text
from ssmpress.data.tokenizer import encode, load_tokenizer
from ssmpress.devices.qemu import Emulator, find_sysroot
from ssmpress.errors import DeviceError
from ssmpress.formats import Values
from ssmpress.machine import get_library_path, get_runner_path, host_machine
from ssmpress.runtime.loading import open_session
from ssmpress.tasks.perplexity import perplexity

PROMPT = "The quick brown fox, 42 euros: café."


@pytest.fixture(scope="module")
def emulator() -> Iterator[list[str]]:
    """The words before a command that run it on a Cortex-A76."""
    try:
        with Emulator("aarch64", "cortex-a76") as running:
            yield running.command([])
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, emulator: list[str]) -> Path:
    """With float32 weights of the same demo model beside it, for the stricter comparison."""
    try:
        library, runner = get_library_path("aarch64"), get_runner_path("aarch64")
        runtime = find_runtime_library("aarch64").path
    except DeviceError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("arm64")
    sparse = sb.export(sb.packed_model(Values.FP32), folder / "fp32.onnx")[0]
    return sb.make_bundle(
        folder / "demo",
        sb.packed_model(Values.INT8),
        library=library,
        runtime_library=runtime,
        extra=[runner, sparse],
    )


def run(bundle: Path, emulator: list[str], *arguments: str | Path) -> object:
    return sb.reply(sb.ssmrun(*arguments, prefix=emulator, program=bundle / "ssmrun"))


def test_verify_and_generate(bundle: Path, emulator: list[str]) -> None:
    found = run(bundle, emulator, "verify", bundle, "--json")
    assert found["machine"] == "aarch64"
    assert found["ops_isa"] in ("neon", "dotprod")
    session = open_session(bundle / "fp32.onnx", threads=1, library=get_library_path())
    tokenizer = load_tokenizer(sb.DEMO / "tokenizer.json")
    prompt = encode(tokenizer, PROMPT, vocab_size=1024)
    options = ["--prompt", PROMPT, "--max-tokens", "12", "--threads", "1", "--json"]
    options += ["--model", str(bundle / "fp32.onnx")]
    for temperature, seed in ((0.0, 0), (1.0, 7)):
        drawn = ["--temperature", str(temperature), "--seed", str(seed)]
        got = run(bundle, emulator, "generate", bundle, *options, *drawn)
        assert got["prompt_tokens"] == prompt.tolist()
        wanted = list(session.generate(prompt, 12, temperature=temperature, seed=seed))
        assert got["tokens"] == wanted
        assert got["text"] == tokenizer.decode(wanted)


def test_numbers(bundle: Path, emulator: list[str]) -> None:
    tokens = encode(
        load_tokenizer(sb.DEMO / "tokenizer.json"),
        default_text()[1][:2000],
        vocab_size=1024,
    )[:120].astype(np.int64)
    library = get_library_path()
    fp32 = open_session(bundle / "fp32.onnx", threads=1, library=library)
    int8 = open_session(bundle / "model.onnx", threads=1, library=library)
    with sb.Worker(bundle, prefix=emulator) as worker:
        loaded = worker.ask("load", threads=2, model=str(bundle / "fp32.onnx"))
        assert loaded["load_ms"] > 0
        got = worker.ask("logits", tokens=tokens[:24].tolist(), prefill=16)
        worker.ask("load", threads=1)
        windows = tokens.reshape(2, 60)
        nll = worker.ask("nll", windows=windows.tolist())
        assert len(worker.ask("round", prompt_tokens=4, decode_tokens=2)["decode_ms"]) == 2
        assert worker.ask("environment")["environment"]["cpu"] == "Cortex-A76"
    logits = np.frombuffer(base64.b64decode(got["logits"]), np.float32).reshape(got["shape"])
    wanted = fp32.predict(tokens[None, :24])[0][0]
    assert np.abs(logits - wanted).max() <= 1e-4 * np.abs(wanted).max()
    expected = perplexity(int8.predict, windows)
    arm = float(np.exp(sum(nll["window_nll"]) / nll["tokens"]))
    assert arm == pytest.approx(expected.perplexity, rel=tolerances.INT8_PERPLEXITY)


def test_a_network(bundle: Path, emulator: list[str], tmp_path: Path) -> None:
    """Every type of element, by files: what comes out here, to the last bit."""
    model = network_onnx.every_type(tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    files, wanted = [], {}
    for dtype in network_onnx.ELEMENTS:
        x = random.integers(0, 2, size=(2, 3, 2)).astype(dtype)
        np.save(tmp_path / f"x_{dtype}.npy", x)
        wanted[dtype] = ~x if dtype == "bool" else x + x
        files += ["--input", f"x_{dtype}={tmp_path}/x_{dtype}.npy"]
        files += ["--output", f"y_{dtype}={tmp_path}/y_{dtype}.npy"]
    run(bundle, emulator, "run", bundle, "--model", model, "--threads", "1", *files, "--json")
    for dtype, expected in wanted.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"y_{dtype}.npy"), expected)


def test_a_bundle_for_the_other_machine_is_refused(
    bundle: Path, emulator: list[str], tmp_path: Path
) -> None:
    """Each way round: the sentence names both machines."""
    code, text = sb.failure(sb.ssmrun("verify", bundle))
    assert code == 7
    assert f"expected a library for {host_machine()}; got one for aarch64" in text
    folder = sb.twin(bundle, tmp_path / "b")
    shutil.copyfile(get_library_path(), folder / "libssmpress_ops.so")
    sb.remake_manifest(folder)
    done = sb.ssmrun("verify", folder, prefix=emulator, program=bundle / "ssmrun")
    code, text = sb.failure(done)
    assert code == 7
    assert f"expected a library for aarch64; got one for {host_machine()}" in text


def test_a_device_without_a_cpp_runtime(bundle: Path, emulator: list[str], tmp_path: Path) -> None:
    """ssmrun itself starts there, and says what ONNX Runtime lacks."""
    real = find_sysroot()
    assert real is not None
    root = tmp_path / "root"
    for folder in ("lib", "usr/lib", "lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu"):
        for file in (real / folder).glob("*"):
            if file.is_file() and not file.name.startswith(("libstdc++", "libgcc_s")):
                (root / folder).mkdir(parents=True, exist_ok=True)
                (root / folder / file.name).symlink_to(file.resolve())
    prefix = [
        str(root) if word == emulator[emulator.index("-L") + 1] else word for word in emulator
    ]
    code, text = sb.failure(sb.ssmrun("info", bundle, prefix=prefix, program=bundle / "ssmrun"))
    assert code == 7
    assert "libonnxruntime.so: cannot be loaded: libstdc++.so.6: " in text
    assert "Install this system's C++ runtime" in text
