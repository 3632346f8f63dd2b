"""`compress model.pt --sparsity 0.7` on a bare state dict, and everything a user finds after it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import transformers

from paths import DEMO
from report_schema import SCHEMA
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.data.default_text import default_text
from ssmpress.data.tokenizer import encode, load_tokenizer
from ssmpress.data.tokens import cut_windows
from ssmpress.machine import LIBRARY_NAME
from ssmpress.runtime.loading import open_session
from ssmpress.tasks.perplexity import perplexity


def run_compress(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, in `folder`."""
    command = [sys.executable, "-c", "from ssmpress.cli.compress import main; main()", *arguments]
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)} | environment,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A bare state dict with its tokenizer, compressed, with a number of steps: no clock decides
    what it becomes, however busy the machine."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copy(DEMO / "pytorch_model.bin", folder / "model.pt")
    shutil.copy(DEMO / "tokenizer.json", folder)
    return folder, run_compress(
        folder, "model.pt", "--sparsity", "0.7", "--json", "--recover", "64"
    )


@pytest.fixture(scope="module")
def report(demo) -> dict:
    return json.loads(demo[1].stdout)


def test_command_passes_its_gate(demo, report):
    done = demo[1]
    assert done.returncode == 0, done.stderr
    assert report["verdict"]["status"] == "pass"
    assert report["quality"]["retention"] >= 0.95
    assert report["recovery"]["steps"] == 64
    for text in (
        "configuration inferred from the shapes",
        "the default text",
        "recovery: ",
        "perplexity",
        "decode p50 ms",
        "Pass: ",
        "Bundle: model-s70",
    ):
        assert text in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80


def test_report_follows_its_schema(demo, report):
    jsonschema.validate(report, SCHEMA)
    assert json.loads((demo[0] / "model-s70" / "report.json").read_text()) == report


def test_report_adds_up(report):
    sparsity, size = report["sparsity"], report["size"]
    zeros, weights = sparsity["prunable_zeros"], sparsity["prunable_weights"]
    assert zeros == round(0.7 * weights)
    assert sparsity["model"] < sparsity["prunable"] == pytest.approx(zeros / weights)
    assert size["dense_fp32_bytes"] == 4 * sparsity["model_weights"]
    assert size["ratio"] == pytest.approx(size["dense_fp32_bytes"] / size["model_bytes"])
    assert size["ratio"] > 4
    assert report["data"]["evaluation"]["default_text"]
    quality = report["quality"]
    assert quality["retention"] == pytest.approx(quality["dense"] / quality["compressed"])
    for phase in ("prefill", "decode"):
        rows = report["latency"][phase]
        assert rows["speedup"] == pytest.approx(
            rows["dense"]["p50_ms"] / rows["compressed"]["p50_ms"]
        )
    assert 0 < report["parity"]["max_rel"] < report["parity"]["tolerance"]
    assert report["memory"]["compressed_peak_rss_bytes"] > 0


def test_bundle_holds_what_it_lists(demo):
    bundle = demo[0] / "model-s70"
    names = {path.name for path in bundle.iterdir()}
    assert names == {
        "model.onnx",
        LIBRARY_NAME,
        "tokenizer.json",
        "manifest.json",
        "libonnxruntime.so",
        "ssmrun",
        "report.json",
        "report.md",
        "report.html",
        "junit.xml",
        "README.md",
    }
    assert set(verify_manifest(bundle)["files"]) == names - {"manifest.json"}
    assert not list(demo[0].glob(".model*"))
    onnx.checker.check_model(str(bundle / "model.onnx"), full_check=True)


def test_bundle_repeats_the_reported_perplexity(demo, report):
    bundle = demo[0] / "model-s70"
    tokens = encode(load_tokenizer(bundle / "tokenizer.json"), default_text()[1], vocab_size=1024)
    windows = cut_windows(tokens, 1024)
    session = open_session(bundle / "model.onnx", threads=2, library=bundle / LIBRARY_NAME)
    found = perplexity(session.predict, windows)
    assert found.perplexity == pytest.approx(report["quality"]["compressed"], rel=1e-6)
    stock = open_session(bundle / "model.onnx", threads=2, library=None)
    # Rounding decides which of two int8 steps an activation falls to: docs/ops.md.
    assert perplexity(stock.predict, windows).perplexity == pytest.approx(
        found.perplexity, rel=1e-3
    )


def test_bundle_runs_in_plain_onnxruntime(demo):
    """As a user without this package would do it."""
    bundle = demo[0] / "model-s70"
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(bundle / LIBRARY_NAME))
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), options)
    feed = {"input_ids": np.array([[1, 2, 3]]), "logits_positions": np.array([2])}
    for item in session.get_inputs()[2:]:
        feed[item.name] = np.zeros((1, *item.shape[1:]), np.float32)
    logits = session.run(["logits"], feed)[0]
    assert logits.shape == (1, 1, 1024)
    assert np.isfinite(logits).all()


def test_failed_gate_exits_3_and_leaves_the_bundle(tmp_path, small_demo):
    done = run_compress(
        tmp_path,
        str(small_demo),
        "--sparsity",
        "0.9",
        "--recover",
        "none",
        "--out",
        "bundle",
        "--evaluation-tokens",
        "10000",
        "--values",
        "fp32",
    )
    assert done.returncode == 3, done.stderr
    assert "Fail: The quality kept is" in done.stderr
    assert "What helps:" in done.stderr
    saved = json.loads((tmp_path / "bundle" / "report.json").read_text())
    assert saved["verdict"]["exit_code"] == 3
    verify_manifest(tmp_path / "bundle")


@pytest.mark.slow
def test_same_seed_gives_the_same_model_in_place_of_the_earlier_one(tmp_path, small_demo):
    options = "--recipe wikitext --recover 2 --evaluation-tokens 2000 --min-retention 0 --threads 1"
    models = []
    for _ in range(2):
        done = run_compress(tmp_path, str(small_demo), *options.split(), "--out", "bundle")
        assert done.returncode == 0, done.stderr
        model = tmp_path / "bundle" / "model.onnx"
        models.append((model.read_bytes(), model.stat().st_mtime_ns))
    (first, then), (second, later) = models
    assert first == second
    assert later > then, "an earlier bundle may be replaced"


def test_saved_checkpoint_loads_where_it_came_from(tmp_path, small_demo):
    done = run_compress(
        tmp_path,
        str(small_demo),
        "--recover",
        "none",
        "--out",
        "bundle",
        "--min-retention",
        "0",
        "--evaluation-tokens",
        "2000",
        "--save-checkpoint",
        "saved",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    model = transformers.MambaForCausalLM.from_pretrained(tmp_path / "saved" / "huggingface")
    ours = read_checkpoint(tmp_path / "saved" / "mamba-ssm")
    zeros = sum(int((tensor == 0).sum()) for tensor in ours.tensors.values())
    assert zeros == report["sparsity"]["model_zeros"]
    packed = run_compress(
        tmp_path,
        str(small_demo),
        "--pruned",
        "saved/mamba-ssm",
        "--out",
        "packed",
        "--min-retention",
        "0",
        "--evaluation-tokens",
        "2000",
    )
    assert packed.returncode == 0, packed.stderr
    models = [(tmp_path / name / "model.onnx").read_bytes() for name in ("bundle", "packed")]
    assert models[0] == models[1]
    theirs = model.backbone.layers[0].mixer.in_proj.weight
    assert (theirs == ours.tensors["backbone.layers.0.mixer.in_proj.weight"]).all()
