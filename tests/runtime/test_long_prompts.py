"""Long prompts run in pieces: the bits of one call, little memory, one sentence without any."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ssmrun_bundle as sb
from ssmpress.cli.entry import run_app
from ssmpress.errors import EXIT_DEVICE, NO_MEMORY, lacks_memory
from ssmpress.formats import Values
from ssmpress.runtime.loading import open_session
from ssmpress.runtime.pieces import PIECE_TOKENS
from ssmpress.runtime.session import Session

FEW_TOKENS, MANY_TOKENS = 300, 20_000
LOGITS = 1e-4
"""Absolute, of logits of about 10: float32 sums of 192 terms in another order."""

MEMORY = 200 << 20
"""Bytes of address space: MANY_TOKENS in one call need 300 MB."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    return sb.make_bundle(tmp_path_factory.mktemp("long") / "demo", sb.packed_model(Values.INT8))


@pytest.fixture(scope="module", params=[Values.INT8, Values.FP32, None], ids=str)
def session(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Session:
    """Sparse integers, sparse floats, and dense matrices, which ONNX Runtime multiplies."""
    from ssmpress.graph.export import export

    path = tmp_path_factory.mktemp("pieces") / "model.onnx"
    export(sb.packed_model(request.param), path)
    return open_session(path, threads=1, library=library)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.integers(1, FEW_TOKENS),
    piece=st.integers(8, 2 * FEW_TOKENS),
    positions=st.lists(st.integers(0, 2**30), max_size=8),
    batch=st.integers(1, 2),
)
def test_pieces_give_the_same_bits(
    session: Session, length: int, piece: int, positions: list[int], batch: int
) -> None:
    """Of every position and of the last one; of some they may differ as one call's own do."""
    tokens = np.random.default_rng(length).integers(1024, size=(batch, length))
    some = np.array([p % length for p in positions], np.int64)
    session.piece_tokens = PIECE_TOKENS
    whole, end = session.predict(tokens)
    last, _ = session.prefill(tokens)
    session.piece_tokens = piece
    cut, state = session.predict(tokens)
    assert np.array_equal(whole, cut)
    for name, array in end.arrays().items():
        assert np.array_equal(array, state.arrays()[name]), name
    assert np.array_equal(last, session.prefill(tokens)[0])
    assert np.allclose(whole[:, some], session.prefill(tokens, positions=some)[0], atol=LOGITS)


def test_ssmrun_gives_the_same_bits(bundle: Path) -> None:
    tokens = np.random.default_rng(0).integers(1024, size=FEW_TOKENS).tolist()
    replies = []
    with sb.Worker(bundle) as worker:
        for piece in (FEW_TOKENS, 100, 64, 33, 8):
            worker.ask("load", threads=1, piece_tokens=piece)
            replies.append(worker.ask("logits", tokens=tokens, states=True))
    assert all(reply == replies[0] for reply in replies)


MEASURE = """
import json, resource, sys
import numpy as np
from ssmpress.errors import SsmpressError
from ssmpress.machine import get_library_path
from ssmpress.runtime.loading import open_session
session = open_session(sys.argv[1], threads=1, library=get_library_path())
session.piece_tokens = int(sys.argv[2])
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + int(sys.argv[3]),) * 2)
try:
    session.prefill(np.zeros((1, int(sys.argv[4])), np.int64))
    print(json.dumps("done"))
except SsmpressError as error:
    print(json.dumps([error.exit_code, str(error)]))
"""


def python_prefill(bundle: Path, piece: int, memory: int, tokens: int) -> object:
    command = [sys.executable, "-c", MEASURE, bundle / "model.onnx", piece, memory, tokens]
    done = subprocess.run(list(map(str, command)), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_memory_does_not_grow_with_the_prompt(bundle: Path) -> None:
    assert python_prefill(bundle, PIECE_TOKENS, MEMORY, MANY_TOKENS) == "done"
    one_call = python_prefill(bundle, MANY_TOKENS, MEMORY, MANY_TOKENS)
    assert one_call == [7, f"{bundle / 'model.onnx'}: {NO_MEMORY}"]


def limited(
    bundle: Path, memory: int, *arguments: str | Path
) -> subprocess.CompletedProcess[bytes]:
    """ssmrun with so many bytes of address space."""
    shell = ["sh", "-c", 'ulimit -v "$0" && exec "$@"', str(memory >> 10)]
    return sb.ssmrun(*arguments, "--threads", "1", prefix=shell)


def test_ssmrun_needs_as_little(bundle: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("the river and the stone " * (MANY_TOKENS // 5))
    command = ("generate", bundle, "--prompt-file", prompt, "--max-tokens", "1", "--json")
    done = sb.reply(limited(bundle, MEMORY, *command))
    assert len(done["prompt_tokens"]) > MANY_TOKENS
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1, piece_tokens=64)
        again = worker.ask("generate", tokens=done["prompt_tokens"], max_tokens=1)
    assert again["tokens"] == done["tokens"]


def test_ssmrun_without_memory_says_so(bundle: Path, tmp_path: Path) -> None:
    """Wherever it runs out: loading a library, the model, or running it."""
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("the river and the stone " * 300)
    command = ("generate", bundle, "--prompt-file", prompt, "--max-tokens", "1", "--json")
    failures = 0
    for megabytes in range(40, 130, 15):
        done = limited(bundle, megabytes << 20, *command)
        if done.returncode == 0:
            continue
        failures += 1
        text = done.stderr.decode()
        assert done.returncode == 7, text
        assert text.endswith(f"{NO_MEMORY}\n") or "cannot be loaded" in text, text
    assert failures


def test_commands_end_with_the_devices_code(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command()(lambda: print(np.ones(1 << 59)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command"])
        assert run_app(app) == EXIT_DEVICE
    assert capsys.readouterr().err == f"error: {NO_MEMORY}\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA out of memory. Tried"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory:"
        ),
    ],
)
def test_errors_about_memory(error: Exception) -> None:
    assert lacks_memory(error)
    assert not lacks_memory(ValueError("the memory of a river"))
