"""The process that bench_peers.py starts for a peer: llama.cpp or OpenVINO, one model, one run.

It answers the requests of `ssmpress.measure.worker` (load, round, memory), with the same tokens for
the same seed. `load` takes two fields more, engine ("llama.cpp" or "openvino") and length (tokens
of its first call; OpenVINO compiles for that length), and there is one request more:

    {"do": "nll", "tokens": [[...], ...]} -> {"nll": [...]}   sums over each window's predictions
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssmpress.errors import BadInputError
from ssmpress.measure.worker import die_with_parent, memory_bytes, wait_until_quiet
from ssmpress.tasks.perplexity import token_nll

Logits = NDArray[np.float32]
CHUNK = 256


_SILENT: list[Any] = []  # C holds a pointer to it


def silence(llama_cpp: Any) -> None:
    """Turn off llama.cpp's log: hundreds of lines a model."""
    if not _SILENT:
        _SILENT.append(llama_cpp.llama_log_callback(lambda *_: None))
    llama_cpp.llama_log_set(_SILENT[0], ctypes.c_void_p(0))


class Engine(Protocol):
    """A loaded model with one state."""

    vocab_size: int

    def reset(self) -> None:
        """Back to the zero state."""

    def run(self, tokens: NDArray[np.int64], *, every: bool) -> Logits:
        """Advance by tokens (l,); logits (l or 1, vocab): of every token or the last one."""


class LlamaCpp:
    """llama.cpp through the C functions of llama-cpp-python."""

    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self._api = api = llama_cpp
        silence(api)
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(
            str(model).encode(), api.llama_model_default_params()
        )
        if not self._model:
            raise BadInputError(f"{model}: llama.cpp cannot load it.")
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = 4096, 512, 512
        settings.n_threads = settings.n_threads_batch = threads
        settings.no_perf = True
        self._context = api.llama_init_from_model(self._model, settings)
        if not self._context:
            raise BadInputError(f"{model}: llama.cpp cannot make a context for it.")
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._batch = api.llama_batch_init(512, 0, 1)
        self._position = 0

    def reset(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        self._position = 0

    def run(self, tokens: NDArray[np.int64], *, every: bool) -> Logits:
        batch, count = self._batch, len(tokens)
        batch.n_tokens = count
        for i, token in enumerate(tokens.tolist()):
            batch.token[i], batch.pos[i] = token, self._position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = every or i == count - 1
        code = self._api.llama_decode(self._context, batch)
        if code != 0:
            raise BadInputError(f"llama.cpp: llama_decode failed with code {code}.")
        self._position += count
        rows = count if every else 1
        pointer = self._api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (rows, self.vocab_size)).copy()


class OpenVino:
    """OpenVINO on a graph of stock operators, compiled for one sequence length."""

    def __init__(self, model: Path, length: int, threads: int) -> None:
        import openvino

        core = openvino.Core()
        graph = core.read_model(str(model))
        shapes = {"input_ids": (1, length), "logits_positions": (1,)}
        self._states = {}
        for port in graph.inputs:
            if port.any_name.startswith("past_"):
                _, rows, channels = port.get_partial_shape()
                self._states[port.any_name] = (1, rows.get_length(), channels.get_length())
        graph.reshape({**shapes, **self._states})
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request = core.compile_model(graph, "CPU", settings).create_infer_request()
        self.vocab_size = graph.output("logits").get_partial_shape()[2].get_length()
        self.reset()

    def reset(self) -> None:
        self._past = {name: np.zeros(s, np.float32) for name, s in self._states.items()}

    def run(self, tokens: NDArray[np.int64], *, every: bool) -> Logits:
        if every:
            raise BadInputError("openvino: compiled for the last token's logits only.")
        last = np.array([len(tokens) - 1], np.int64)
        inputs = {"input_ids": tokens[None], "logits_positions": last}
        results = self._request.infer({**inputs, **self._past}, share_inputs=True)
        for name in self._past:
            self._past[name] = results[name.replace("past_", "present_", 1)]
        return np.asarray(results["logits"])[0]


class Worker:
    """One engine, and the tokens that it is measured with."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._random = np.random.default_rng(0)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks."""
        if request["do"] == "load":
            return self._load(request)
        if request["do"] == "round":
            return self._round(request["prompt_tokens"], request["decode_tokens"])
        if request["do"] == "nll":
            return {"nll": [self._nll(np.array(row)) for row in request["tokens"]]}
        return {"peak_rss_bytes": memory_bytes("VmHWM")}

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        before = memory_bytes("VmRSS")
        begin = time.perf_counter()
        model, threads = Path(request["model"]), request["threads"]
        if request["engine"] == "llama.cpp":
            self._engine = LlamaCpp(model, threads)
        else:
            self._engine = OpenVino(model, request["length"], threads)
        self._engine.run(np.zeros(request["length"], np.int64), every=False)
        elapsed = 1000 * (time.perf_counter() - begin)
        self._random = np.random.default_rng(request["seed"])
        wait_until_quiet()
        return {"load_ms": elapsed, "runtime_rss_bytes": before}

    def _round(self, prompt_tokens: int, decode_tokens: int) -> dict[str, Any]:
        engine = self._loaded()
        prompt = self._random.integers(engine.vocab_size, size=(1, prompt_tokens))[0]
        tokens = self._random.integers(engine.vocab_size, size=(decode_tokens, 1))
        engine.reset()
        prefill_ms = _milliseconds(engine, prompt) if prompt_tokens else 0.0
        decode_ms = [_milliseconds(engine, token) for token in tokens]
        wait_until_quiet()
        return {"prefill_ms": prefill_ms, "decode_ms": decode_ms}

    def _nll(self, window: NDArray[np.int64]) -> float:
        """Sum over the predictions of tokens 1 .. w-1, as `evaluate.perplexity` counts."""
        engine = self._loaded()
        engine.reset()
        total = 0.0
        for begin in range(0, len(window) - 1, CHUNK):
            part = slice(begin, min(begin + CHUNK, len(window) - 1))
            logits = engine.run(window[part], every=True)[None]
            total += float(token_nll(logits, window[None, 1:][:, part]).sum())
        return total

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise BadInputError("worker: a run was asked for before a model was loaded.")
        return self._engine


def _milliseconds(engine: Engine, tokens: NDArray[np.int64]) -> float:
    begin = time.perf_counter()
    engine.run(tokens, every=False)
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    """Answer requests until stdin ends."""
    die_with_parent()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get among the replies
    worker = Worker()
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except Exception as error:  # the parent says which peer failed, and goes on
            reply = {"error": f"{type(error).__name__}: {error}", "exit_code": 1}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
