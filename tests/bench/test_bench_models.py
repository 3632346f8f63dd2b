"""The models of the whole-model benchmarks: tiling, the one-token graph, GGUF; the read rate."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import bench_models
import interleaved
import numpy as np
import pytest
import tiled_model
import torch

from conftest import draw_tokens, mixer_of, random_checkpoint, small_config
from paths import ROOT
from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import tensor_shapes, weights_of
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import BadInputError, UsageError
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.prune.mask import keep_masks, prunable_names
from ssmpress.recipe.settings.prune import PROJECTIONS
from ssmpress.runtime.loading import open_session

SOURCE = small_config(d_state=4)
TARGET = small_config(d_model=30, d_inner=60, dt_rank=5, n_layer=3, vocab_size=97, d_state=4)
BANDWIDTH = ROOT / "build" / "runtimes" / "read_bandwidth"


def pruned(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """60 % of the projections zero, rows of very different density."""
    scores = {
        name: tensors[name].abs() * torch.linspace(0.2, 2, len(tensors[name]))[:, None]
        for name in prunable_names(weights_of(config), PROJECTIONS)
    }
    keep = keep_masks(scores, 0.6)
    return {name: t * keep[name] if name in keep else t for name, t in tensors.items()}


def test_tiling_copies_masks_and_values_in_whole_rows_and_repeats_no_row() -> None:
    tensors = pruned(SOURCE, random_checkpoint(SOURCE).tensors)
    tiled = tiled_model.tile(SOURCE, tensors, TARGET)
    assert {name: tuple(t.shape) for name, t in tiled.items()} == tensor_shapes(TARGET)
    first = tensors["backbone.layers.0.mixer.in_proj.weight"]
    second = tensors["backbone.layers.1.mixer.in_proj.weight"]
    got = tiled["backbone.layers.0.mixer.in_proj.weight"] * (30 / 20)
    columns = torch.arange(30) % 20
    for half in (0, 1):  # x and z are extended each by itself
        block = got[60 * half : 60 * half + 60]
        torch.testing.assert_close(block[:40], first[40 * half : 40 * half + 40, columns])
        torch.testing.assert_close(block[40:], second[40 * half : 40 * half + 20, columns])
    rows = got[(got != 0).any(1)]
    assert len(torch.unique(rows, dim=0)) == len(rows)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.6, 0.7, 0.9])
def test_tiled_sparsity_is_exact_and_changes_as_few_weights_as_it_must(sparsity: float) -> None:
    dense = random_checkpoint(SOURCE).tensors
    tiled = tiled_model.tile(SOURCE, pruned(SOURCE, dense), TARGET)
    result = tiled_model.with_sparsity(
        TARGET, tiled, tiled_model.tile(SOURCE, dense, TARGET), sparsity
    )
    names = prunable_names(weights_of(TARGET), PROJECTIONS)
    before = torch.cat([tiled[name].flatten() for name in names])
    after = torch.cat([result[name].flatten() for name in names])
    wanted = round(sparsity * before.numel())
    assert int((after == 0).sum()) == wanted
    changed = int((before != after).sum())
    assert changed == abs(int((before == 0).sum()) - wanted)
    kept = (before != 0) & (after != 0)
    gone = (before != 0) & (after == 0)
    assert gone.sum() == 0 or before[gone].abs().max() <= before[kept].abs().min()


def test_a_source_of_another_state_size_is_refused() -> None:
    with pytest.raises(UsageError, match=r"expected d_state 4; the source has 5\. Give a source"):
        tiled_model.tile(small_config(), random_checkpoint(small_config()).tensors, TARGET)


def test_the_one_token_graph_decodes_like_the_general_one(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(SOURCE)
    write_checkpoint(SOURCE, checkpoint.tensors, tmp_path / "model")
    general, decoder = tmp_path / "general.onnx", tmp_path / "decoder.onnx"
    export(bench_models.pack(tmp_path / "model", None), general)
    bench_models.one_token_graph(general, decoder)
    expected = open_session(general, threads=1, library=None)
    actual = open_session(decoder, threads=1, library=None)
    states = expected.initial_state(1), actual.initial_state(1)
    for token in (3, 60, 0):
        want, _ = expected.step(np.array([token]), states[0])
        got, _ = actual.step(np.array([token]), states[1])
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert b"Scan" in general.read_bytes().replace(b"SelectiveScan", b"")
    assert b"Scan" not in decoder.read_bytes().replace(b"SelectiveScan", b"")


def test_a_description_counts_every_byte_a_step_reads(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(SOURCE)
    write_checkpoint(SOURCE, pruned(SOURCE, checkpoint.tensors), tmp_path / "model")
    described = bench_models.describe(bench_models.pack(tmp_path / "model", Values.INT8))
    formats = described["formats"].values()
    matrices = 1 + len(prunable_names(weights_of(SOURCE), PROJECTIONS))
    assert sum(row["matrices"] for row in formats) == matrices
    mixer = mixer_of(SOURCE)
    state = 4 * SOURCE.n_layer * mixer.d_inner * (mixer.d_state + mixer.d_conv - 1)
    assert described["state_bytes"] == state
    assert described["step_bytes"] == described["weight_bytes"] + state
    assert described["weight_bytes"] > sum(row["bytes"] for row in formats)  # norms, A, D


def test_ratios_are_taken_within_a_round() -> None:
    slow = interleaved.Times(512, [90.0, 10.0, 40.0], [9.0, 1.0, 4.0], [2.0] * 9 + [99.0])
    fast = interleaved.Times(512, [30.0, 5.0, 10.0], [3.0, 0.5, 1.0], [0.5] * 20 + [50.0])
    run = interleaved.Run(1, {"slow": slow, "fast": fast}, {100: [10.0, 20.0, 10.0]})
    by_round = {"median": 3.0, "min": 2.0, "max": 4.0}
    assert run.ratio("slow", "fast") == by_round | {"undisturbed": 4.0}
    prefill = run.ratio("slow", "fast", "prefill")
    assert prefill == {"median": 3.0, "min": 2.0, "max": 4.0, "undisturbed": 2.0}
    # 1 ms at 10e9 bytes/s are 10e6 bytes: the limit of 10e6 bytes is 1 ms there.
    limit = run.over_limit("fast", 10_000_000, 100)
    assert limit == {"median": 1.0, "min": 1.0, "max": 3.0, "undisturbed": 1.0}


def test_the_read_rate_is_answered_for_every_buffer() -> None:
    if not BANDWIDTH.is_file():
        pytest.skip(f"{BANDWIDTH} was not built: cmake -DSSMPRESS_BUILD_BENCH=ON builds it")
    with WorkerProcess("read_bandwidth", 60, (str(BANDWIDTH), "2", "1", "8")) as worker:
        for _ in range(2):
            rates = worker.ask({"do": "read"})["gb_per_s"]
            assert len(rates) == 2
            assert min(rates) > 0
    for wrong in ([], ["0", "8"], ["1", "x"], ["1", "8", "0"]):
        done = subprocess.run([BANDWIDTH, *wrong], capture_output=True, text=True, input="\n")
        assert done.returncode == 2, wrong
        assert "usage: read_bandwidth" in done.stderr


def test_a_peer_that_fails_is_named_and_left_out_but_ours_ends_the_run(tmp_path: Path) -> None:
    write_checkpoint(SOURCE, random_checkpoint(SOURCE).tensors, tmp_path / "model")
    model = tmp_path / "model.onnx"
    export(bench_models.pack(tmp_path / "model", None), model)
    reader = tmp_path / "reader"
    reader.write_text("#!/bin/sh\nwhile read line; do echo '{\"gb_per_s\": [2.5]}'; done\n")
    reader.chmod(0o755)
    good = interleaved.Contestant("good", {"model": str(model)}, prompt_tokens=8, decode_tokens=3)
    bad = interleaved.Contestant("bad", {"model": str(tmp_path / "none")}, optional=True)
    entries = [good, bad]
    run = interleaved.measure(entries, threads=1, rounds=2, bandwidth=reader, buffers=[7])
    assert list(run.times) == ["good"]
    assert len(run.times["good"].prefill) == len(run.times["good"].decode) == 2
    assert run.times["good"].peak_rss_bytes > 1 << 20
    assert run.bandwidth == {7: [2.5, 2.5]}
    assert "expected an ONNX model; there is no such file" in run.left_out["bad"]
    entries = [interleaved.Contestant("bad", bad.load)]
    with pytest.raises(BadInputError, match="there is no such file"):
        interleaved.measure(entries, threads=1, rounds=1, bandwidth=reader, buffers=[7])


def test_gguf_names_every_tensor_once_and_refuses_what_llama_cpp_lacks(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is absent: `make bench-peers` installs it")
    import gguf
    import gguf_models

    checkpoint = random_checkpoint(SOURCE)
    path = tmp_path / "model.gguf"
    gguf_models.write(SOURCE, checkpoint.tensors, path)
    found = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    assert len(found) == len(checkpoint.tensors)
    A_log = checkpoint.tensors["backbone.layers.1.mixer.A_log"].numpy()
    np.testing.assert_array_equal(found["blk.1.ssm_a"], -np.exp(A_log))
    biased = small_config(proj_bias=True)
    with pytest.raises(BadInputError, match=r"in_proj\.bias: llama\.cpp's Mamba"):
        gguf_models.write(biased, random_checkpoint(biased).tensors, tmp_path / "other.gguf")


def test_llama_cpp_gives_our_logits_from_the_gguf_file(tmp_path: Path) -> None:
    reason = "llama-cpp-python is absent: `make bench-peers` builds it"
    pytest.importorskip("llama_cpp", reason=reason)
    import gguf_models
    import peer_worker

    config = small_config(d_model=32, d_inner=64, dt_rank=32, d_state=16, vocab_size=64)
    checkpoint = random_checkpoint(config)
    path = tmp_path / "model.gguf"
    gguf_models.write(config, checkpoint.tensors, path)
    tokens = draw_tokens(config, 1, 12)
    with torch.no_grad():
        expected = Mamba.from_checkpoint(checkpoint)(tokens)[0].reshape(12, -1).numpy()
    engine = peer_worker.LlamaCpp(path, 1)
    ids = tokens[0].numpy()
    prompt = engine.run(ids, every=True)
    scale = float(np.abs(expected).max())
    assert np.abs(prompt - expected).max() <= 1e-4 * scale  # both are float32
    engine.reset()
    steps = np.concatenate([engine.run(ids[i : i + 1], every=False) for i in range(12)])
    assert np.abs(steps - expected).max() <= 1e-4 * scale
    gguf_models.quantise(path, tmp_path / "small.gguf", "Q8_0", 1)
    eight_bits = peer_worker.LlamaCpp(tmp_path / "small.gguf", 1).run(ids, every=True)
    assert 1e-4 * scale < np.abs(eight_bits - expected).max() < 0.1 * scale


def test_a_peer_counts_likelihood_as_evaluate_does(tmp_path: Path) -> None:
    from ssmpress.tasks.perplexity import perplexity

    pytest.importorskip("llama_cpp", reason="llama-cpp-python is absent")
    import gguf_models
    import peer_worker

    config = small_config(d_model=32, d_inner=64, dt_rank=32, d_state=16, vocab_size=64)
    checkpoint = random_checkpoint(config)
    write_checkpoint(config, checkpoint.tensors, tmp_path / "model")
    gguf_models.write(config, checkpoint.tensors, tmp_path / "model.gguf")
    export(bench_models.pack(tmp_path / "model", None), tmp_path / "model.onnx")
    windows = draw_tokens(config, 2, 300).numpy()  # longer than one chunk
    session = open_session(tmp_path / "model.onnx", threads=1, library=None)
    worker = peer_worker.Worker()
    load = {"engine": "llama.cpp", "model": str(tmp_path / "model.gguf"), "threads": 1, "seed": 0}
    worker.answer({"do": "load", "length": 1, **load})
    got = worker.answer({"do": "nll", "tokens": json.loads(json.dumps(windows.tolist()))})["nll"]
    expected = perplexity(session.predict, windows)
    np.testing.assert_allclose(got, expected.window_nll, rtol=1e-5)
