"""ssmrun on this machine: the same numbers and texts as the Python side, from the same bundle."""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import ssmrun_bundle as sb
import tolerances
from paths import OLD_BUNDLE, ROOT
from processes import accept_interrupts, wait_for
from ssmpress import __version__
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.data.default_text import default_text
from ssmpress.data.tokenizer import encode, load_tokenizer
from ssmpress.data.tokens import cut_windows
from ssmpress.formats import Values
from ssmpress.graph import ops
from ssmpress.measure.metrics import percentiles
from ssmpress.runtime.loading import open_session
from ssmpress.runtime.session import Session
from ssmpress.tasks.perplexity import perplexity

TEXT = "The quick brown fox, don't you know, costs 42 euros.\n\n    for x in range(10): pass\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    sb.runner()
    return sb.make_bundle(tmp_path_factory.mktemp("ssmrun") / "demo", sb.packed_model(Values.INT8))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "dense.onnx"
    return sb.export(sb.packed_model(None), path)[0]


@pytest.fixture(scope="module")
def session(bundle: Path) -> Session:
    return open_session(bundle / "model.onnx", threads=1, library=bundle / "libssmpress_ops.so")


@pytest.fixture(scope="module")
def tokens() -> NDArray[np.int32]:
    """600 tokens of text."""
    tokenizer = load_tokenizer(sb.DEMO / "tokenizer.json")
    return encode(tokenizer, default_text()[1][:6000], vocab_size=1024)[:600]


def close(actual: NDArray[np.float32], wanted: NDArray[np.float32], bound: float) -> bool:
    return float(np.abs(actual - wanted).max()) <= bound * max(1.0, float(np.abs(wanted).max()))


def test_info(bundle: Path, session: Session) -> None:
    info = sb.reply(sb.ssmrun("info", bundle, "--json"))
    assert info["config"] == session.interface.config
    assert info["model_bytes"] == (bundle / "model.onnx").stat().st_size
    assert info["bundle_bytes"] == sum(
        entry["bytes"] for entry in verify_manifest(bundle)["files"].values()
    )
    shapes = session.interface.state_shapes(1).values()
    assert info["state_bytes"] == sum(-(-4 * math.prod(s) // 64) * 64 for s in shapes)
    assert info["environment"]["machine"] == os.uname().machine
    assert info["peak_rss_bytes"] > info["model_bytes"]
    text = sb.ssmrun("info", bundle)
    assert b": language-model, vocabulary 1024, 8 states\n" in text.stdout
    assert text.returncode == 0


def test_a_bundle_from_before_it_listed_its_states(bundle: Path, tmp_path: Path) -> None:
    """The old file's sizes tell the states; its logits are those of its day."""
    shutil.copytree(bundle, tmp_path / "old")
    shutil.copyfile(OLD_BUNDLE / "model.onnx", tmp_path / "old" / "model.onnx")
    sb.remake_manifest(tmp_path / "old")
    known = json.loads((OLD_BUNDLE / "logits.json").read_text())
    with sb.Worker(tmp_path / "old") as worker:
        worker.ask("load", threads=1)
        got = worker.ask("logits", tokens=known["tokens"], prefill=5, states=True)
    assert np.abs(sb.array(got, "logits")[-1] - known["logits"]).max() < 0.02
    assert got["states"]["scan_state.1"]["shape"] == [1, 5, 15]


def test_verify(bundle: Path) -> None:
    manifest = verify_manifest(bundle)
    found = sb.reply(sb.ssmrun("verify", bundle, "--json"))
    assert {f["name"]: {"bytes": f["bytes"], "sha256": f["sha256"]} for f in found["files"]} == (
        manifest["files"]
    )
    assert found["manifest_sha256"] == manifest["manifest_sha256"]
    assert found["runtime"] == manifest["versions"]["onnxruntime"]
    assert found["notes"] == []
    assert found["ops_isa"] in ("scalar", "avx2", "avx512", "neon", "dotprod")


def test_a_manifest_of_every_json_type_is_read_as_python_hashes_it(
    bundle: Path, tmp_path: Path
) -> None:
    """Python hashes the canonical form: key order, escapes and numbers must agree."""
    folder = sb.twin(bundle, tmp_path / "b")
    (folder / "ä b\t.txt").write_text("x")
    odd = {
        "é": [1.5, -0.0, 1e-7, 1e22, 12345678901234567890],
        "\U0001f600": None,
        "\uffff": True,
        'quote"\\\n\x01\x7f\u2028': {"b": {}, "a": []},
        "": "",
    }
    sb.remake_manifest(folder, odd=odd)
    assert verify_manifest(folder)["odd"] == odd
    assert sb.reply(sb.ssmrun("verify", folder, "--json"))["ok"]


def test_worker_logits_and_states_equal_pythons(
    bundle: Path, session: Session, tokens: NDArray[np.int32]
) -> None:
    ids = tokens[:40].astype(np.int64)
    state = session.initial_state(1)
    wanted, _ = session.predict(ids[None, :30], state)
    steps = [session.step(ids[i : i + 1], state)[0] for i in range(30, 40)]
    expected = np.concatenate([wanted[0], *steps])
    with sb.Worker(bundle) as worker:
        loaded = worker.ask("load", threads=1)
        assert loaded["config"] == session.interface.config
        got = worker.ask("logits", tokens=ids.tolist(), prefill=30, states=True)
    assert close(sb.array(got, "logits"), expected, tolerances.FLOAT32)
    assert list(got["states"]) == list(state.arrays())
    for name, values in state.arrays().items():
        assert close(sb.array(got["states"][name]), values, tolerances.FLOAT32), name


def test_prefill_then_decode_equals_one_prefill(
    dense: Path, bundle: Path, tokens: NDArray[np.int32]
) -> None:
    ids = tokens[:50].tolist()
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1, model=str(dense))
        whole = worker.ask("logits", tokens=ids, states=True)
        for split in (0, 1, 49):
            parts = worker.ask("logits", tokens=ids, prefill=split, states=True)
            bound = tolerances.CARRIED_STATE
            assert close(sb.array(parts, "logits"), sb.array(whole, "logits"), bound), split
            for name, state in whole["states"].items():
                assert close(sb.array(parts["states"][name]), sb.array(state), bound), (split, name)


def test_logits_go_to_a_file_whole_or_not_at_all(bundle: Path, tmp_path: Path) -> None:
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1)
        target = tmp_path / "logits.f32"
        said = worker.ask("logits", tokens=[1, 2, 3], file=str(target))
        inline = worker.ask("logits", tokens=[1, 2, 3])
        assert target.read_bytes() == base64.b64decode(inline["logits"])
        assert said["shape"] == [3, 1024]
        bad = worker.send(
            json.dumps({"do": "logits", "tokens": [1], "file": str(tmp_path / "no/x")}).encode()
        )
    assert bad["exit_code"] == 7
    assert "cannot be written" in bad["error"]
    assert [p.name for p in tmp_path.iterdir()] == ["logits.f32"]


def test_stock_runs_without_the_library(bundle: Path, dense: Path) -> None:
    """The same model through the ops' fallbacks: the same numbers, and no instruction set."""
    ids = [5, 900, 17, 3]
    with sb.Worker(bundle) as worker:
        assert worker.ask("load", threads=1, model=str(dense), library=None)["ops_isa"] is None
        stock = sb.array(worker.ask("logits", tokens=ids), "logits")
        assert worker.ask("load", threads=1, model=str(dense))["ops_isa"] is not None
        ops = sb.array(worker.ask("logits", tokens=ids), "logits")
    assert not np.array_equal(stock, ops)
    assert close(stock, ops, tolerances.GRAPH_FLOAT32)


@pytest.mark.parametrize("raw", ["npy", "uint16", "int32", "rows"])
def test_perplexity_equals_pythons(
    bundle: Path, session: Session, tokens: NDArray[np.int32], tmp_path: Path, raw: str
) -> None:
    path, options = tmp_path / "tokens", []
    windows = cut_windows(tokens, 290)
    if raw == "npy":
        np.save(path.with_suffix(".npy"), tokens.astype(np.int64))
        path, options = path.with_suffix(".npy"), ["--window", "290"]
    elif raw == "rows":
        np.save(path.with_suffix(".npy"), windows)
        path = path.with_suffix(".npy")
    else:
        path.write_bytes(tokens.astype(f"<{raw[0]}{'2' if raw == 'uint16' else '4'}").tobytes())
        options = ["--window", "290", "--dtype", raw]
    wanted = perplexity(session.predict, windows)
    found = sb.reply(sb.ssmrun("eval", bundle, path, "--threads", "1", "--json", *options))
    assert found["perplexity"] == pytest.approx(wanted.perplexity, rel=1e-6)
    assert found["nll"] == pytest.approx(wanted.nll, rel=1e-6)
    assert found["window_nll"] == pytest.approx(list(wanted.window_nll), rel=1e-6)
    assert (found["tokens"], found["window"]) == (wanted.tokens, wanted.window) == (578, 290)


def test_eval_window_and_limit(bundle: Path, tokens: NDArray[np.int32], tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", tokens)
    run = ["eval", bundle, tmp_path / "t.npy", "--threads", "1", "--json"]
    limited = sb.reply(sb.ssmrun(*run, "--limit", "100"))
    assert (limited["window"], limited["tokens"]) == (100, 99)
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1)
        nll = worker.ask("nll", windows=[tokens[:100].tolist(), tokens[:7].tolist()])
    assert nll["window_nll"][0] == pytest.approx(limited["nll"], rel=1e-12)
    assert nll["tokens"] == 99 + 6


@pytest.mark.parametrize(
    ("temperature", "top_k", "seed"),
    [(0, 0, 0), (1.0, 0, 1), (1.0, 0, 2**64 - 1), (0.7, 5, 3), (2.5, 40, 4), (50.0, 1000, 5)],
)
def test_generate_equals_python(
    bundle: Path, session: Session, temperature: float, top_k: int, seed: int
) -> None:
    tokenizer = load_tokenizer(sb.DEMO / "tokenizer.json")
    prompt = encode(tokenizer, TEXT, vocab_size=1024)
    wanted = list(session.generate(prompt, 60, temperature=temperature, top_k=top_k, seed=seed))
    options = [
        "--max-tokens",
        "60",
        "--temperature",
        str(temperature),
        "--top-k",
        str(top_k),
        "--seed",
        str(seed),
        "--threads",
        "1",
    ]
    found = sb.reply(sb.ssmrun("generate", bundle, "--prompt", TEXT, *options, "--json"))
    assert found["prompt_tokens"] == prompt.tolist()
    assert found["tokens"] == wanted
    assert found["text"] == tokenizer.decode(wanted)
    assert len(found["decode_ms"]) == 59
    streamed = sb.ssmrun("generate", bundle, "--prompt-file=-", *options, stdin=TEXT.encode())
    assert streamed.stdout.decode() == tokenizer.decode(wanted) + "\n"
    assert streamed.stderr == b""


def test_seeds_draw_different_texts(bundle: Path) -> None:
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1)
        drawn = [
            worker.ask("generate", tokens=[5], max_tokens=20, temperature=2.0, seed=s)["tokens"]
            for s in (1, 1, 2)
        ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_generate_nothing(bundle: Path) -> None:
    done = sb.ssmrun("generate", bundle, "--prompt", "x", "--max-tokens", "0")
    assert (done.returncode, done.stdout) == (0, b"\n")


def test_bench(bundle: Path) -> None:
    found = sb.reply(
        sb.ssmrun(
            "bench",
            bundle,
            "--prompt",
            "24",
            "--tokens",
            "6",
            "--rounds",
            "3",
            "--threads",
            "1",
            "--json",
        )
    )
    assert [turn["warmup"] for turn in found["rounds"]] == [True, False, False, False]
    assert all(len(turn["decode_ms"]) == 6 for turn in found["rounds"])
    counted = found["rounds"][1:]
    for name, samples, each in (
        ("prefill", [t["prefill_ms"] for t in counted], 24),
        ("decode", [ms for t in counted for ms in t["decode_ms"]], 1),
    ):
        wanted = percentiles(samples, tokens=each)
        assert found[name] == pytest.approx(vars(wanted), rel=1e-9)
    assert found["load_cold_ms"] > 0
    assert 0 < found["runtime_rss_bytes"] < found["peak_rss_bytes"]
    assert set(found["before"]) == set(found["after"]) >= {"temperature_c", "khz", "governor"}
    assert found["pinned"] is None
    assert found["threads"] == found["environment"]["threads"] == 1


def test_bench_of_another_model_pinned_in_stock_onnx_runtime(bundle: Path, dense: Path) -> None:
    processor = min(os.sched_getaffinity(0))
    found = sb.reply(
        sb.ssmrun(
            "bench",
            bundle,
            "--model",
            dense,
            "--stock",
            "--pin",
            str(processor),
            "--prompt=8",
            "--tokens=2",
            "--rounds=1",
            "--no-cold",
            "--json",
        )
    )
    assert found["stock"] is True
    assert found["model"] == str(dense)
    assert found["load_cold_ms"] is None
    assert found["environment"]["ops_isa"] is None
    assert (found["pinned"], found["threads"]) == ([processor], 1)


def test_pins_bind_the_threads(bundle: Path) -> None:
    processors = sorted(os.sched_getaffinity(0))[:2]
    if len(processors) < 2:
        pytest.skip("one processor: nothing to choose from")
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=2, pin=processors)
        worker.ask("round", prompt_tokens=64, decode_tokens=2)
        tasks = Path(f"/proc/{worker.process.pid}/task").iterdir()
        bound = {frozenset(os.sched_getaffinity(int(task.name))) for task in tasks}
    assert {frozenset([p]) for p in processors} <= bound


def test_the_worker_answers_like_device_worker(bundle: Path) -> None:
    from ssmpress.machine import get_library_path

    model = str(bundle / "model.onnx")
    with sb.Worker(bundle) as worker:
        load = {"model": model, "library": str(get_library_path()), "threads": 1, "cold": True}
        assert worker.ask("load", **load, seed=3)["load_ms"] > 0
        turn = worker.ask("round", prompt_tokens=5, decode_tokens=3)
        assert turn["prefill_ms"] > 0
        assert len(turn["decode_ms"]) == 3
        assert worker.ask("memory")["peak_rss_bytes"] > 1 << 20
        assert worker.ask("environment")["environment"]["threads"] == 1


def test_the_same_library_forced_to_an_instruction_set(bundle: Path) -> None:
    forced = sb.ssmrun("verify", bundle, "--json", environment={"SSMPRESS_ISA": "scalar"})
    assert sb.reply(forced)["ops_isa"] == "scalar"
    code, text = sb.failure(sb.ssmrun("info", bundle, environment={"SSMPRESS_ISA": "mmx"}))
    assert code == 7
    assert "SSMPRESS_ISA=mmx: expected" in text


def test_ctrl_c_ends_it_with_one_sentence(bundle: Path) -> None:
    process = subprocess.Popen(
        [sb.runner(), "generate", bundle, "--prompt", "x", "--max-tokens", "10000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=accept_interrupts,
    )
    assert process.stdout is not None
    assert process.stdout.read(20)  # it is generating
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, b"ssmrun: interrupted.\n")


def test_the_worker_ends_with_its_parent(bundle: Path) -> None:
    script = (
        "import subprocess, sys\n"
        "p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        'p.stdin.write(b\'{"do":"memory"}\\n\'); p.stdin.flush(); p.stdout.readline()\n'
        "print(p.pid, flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        ["python3", "-c", script, str(sb.runner()), "worker", str(bundle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_for(lambda: not Path(f"/proc/{child}").exists()), "it outlived its parent"


def test_output_that_cannot_be_written(bundle: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sb.runner(), "verify", bundle], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 7
    assert done.stderr == b"ssmrun: stdout: cannot be written: No space left on device.\n"


def test_a_bundle_without_a_runtime_takes_the_one_given(bundle: Path, tmp_path: Path) -> None:
    folder = sb.twin(bundle, tmp_path / "b")
    (folder / "libonnxruntime.so").unlink()
    sb.remake_manifest(folder)
    code, text = sb.failure(sb.ssmrun("info", folder))
    assert code == 6
    assert "Give --runtime FILE" in text
    assert sb.reply(sb.ssmrun("info", folder, "--runtime", sb.runtime(), "--json"))["runtime"]
    assert "--runtime FILE is needed" in sb.reply(sb.ssmrun("verify", folder, "--json"))["notes"][0]


def test_the_bundle_may_be_named_in_any_way(bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle)
    for name in (link, f"{bundle}/", f"{bundle}/../{bundle.name}"):
        assert sb.ssmrun("verify", name).returncode == 0
    done = subprocess.run([sb.runner(), "verify", "."], cwd=bundle, capture_output=True, timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a subcommand; see ssmrun --help"),
        (
            ["runn"],
            "expected a subcommand: info, verify, generate, run, bench, eval, worker; got runn",
        ),
        (["info"], "info: expected BUNDLE; got 0 arguments"),
        (["eval", "x"], "eval: expected BUNDLE FILE; got 1 argument"),
        (["info", "x", "y"], "got 2 arguments"),
        (["info", "x", "--thread", "1"], "info: unknown option --thread; see ssmrun --help"),
        (["verify", "x", "--threads", "1"], "verify: unknown option --threads"),
        (["info", "x", "--threads"], "--threads: expected a value after it"),
        (["info", "x", "--threads", "0"], "--threads: expected an integer from 1 to 1024; got 0"),
        (["info", "x", "--threads=1e3"], "got 1e3"),
        (["info", "x", "--json=yes"], "--json: expected no value"),
        (["info", "x", "--pin", "1-"], "--pin: expected an integer"),
        (["info", "x", "--pin", "3-1"], "--pin: expected a list like 0,2-3; got 3-1"),
        (["info", "x", "--pin", "0,1", "--threads", "1"], "one processor per thread, 1; got 2"),
        (["generate", "x"], "expected --prompt TEXT or --prompt-file FILE, one of them"),
        (["generate", "x", "--prompt", "a", "--prompt-file", "b"], "one of them"),
        (["generate", "x", "--prompt", "a", "--temperature", "-1"], "temperature: expected 0, or"),
        (["generate", "x", "--prompt", "a", "--temperature", "nan"], "expected a number; got nan"),
        (["generate", "x", "--prompt", "a", "--seed", str(2**64)], "--seed: expected an integer"),
        (["bench", "x", "--prompt", "text"], "--prompt: expected an integer from 1"),
        (["eval", "x", "y", "--window", "1"], "--window: expected an integer from 2"),
        (["eval", "x", "y", "--dtype", "int8"], "--dtype: expected uint16 or int32; got int8"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    code, text = sb.failure(sb.ssmrun(*arguments))
    assert code == 2
    assert message in text


COMMANDS = ("info", "verify", "generate", "bench", "eval", "worker")


def options_of(command: str) -> dict[str, str]:
    """Each option that the command's help lists, with its line."""
    text = sb.ssmrun(command, "--help").stdout.decode()
    assert text.startswith(f"ssmrun {command} BUNDLE")
    assert "Exit codes" in text
    return {line.split()[0]: line for line in text.splitlines() if line.startswith("  --")}


def test_help() -> None:
    done = sb.ssmrun("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"\n  ssmrun {command} BUNDLE" in done.stdout.decode()
    assert b"Exit codes" in done.stdout


def test_the_help_of_a_command_has_the_options_that_it_takes() -> None:
    """All of them, each with words of its own, no other; and the manual has them too."""
    manual = (ROOT / "docs" / "ssmrun.md").read_text()
    helps = {command: options_of(command) for command in COMMANDS}
    for command in COMMANDS:
        for option in {name for options in helps.values() for name in options} - {"--help"}:
            answer = sb.failure(sb.ssmrun(command, "x", "y", "z", option))
            listed = option in helps[command]
            assert answer[0] == 2
            assert ("unknown option" in answer[1]) != listed, (command, option)
            assert not listed or len(helps[command][option].split()) > 3
            assert option in manual
    assert "--max-tokens N" in helps["generate"]["--max-tokens"]
    assert helps["generate"]["--max-tokens"].endswith("(default 100)")


def test_version() -> None:
    """The package's, and that of the ops' domain in the graphs that it writes."""
    done = sb.ssmrun("--version")
    assert done.returncode == 0
    assert done.stdout.decode() == f"ssmrun {__version__}, ops version {ops.DOMAIN_VERSION}\n"


def test_it_needs_nothing_but_the_c_library() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    text = subprocess.run(
        ["readelf", "-d", sb.runner()], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split("[")[1].rstrip("]") for line in text.splitlines() if "(NEEDED)" in line}
    assert needed <= {
        "libc.so.6",
        "libm.so.6",
        "libdl.so.2",
        "libpthread.so.0",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }
