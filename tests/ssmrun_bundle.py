"""Bundles for the tests of ssmrun, and ssmrun itself as a person runs it."""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from paths import DEMO
from ssmpress.bundle.manifest import MANIFEST_NAME, write_manifest
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.errors import DeviceError
from ssmpress.formats import Format, Structure, Values
from ssmpress.graph.export import export
from ssmpress.machine import get_library_path, get_runner_path
from ssmpress.pack.choose import choose_format
from ssmpress.pack.matrix import pack
from ssmpress.pack.model import PackedModel
from ssmpress.recipe.recipe import Recipe

SPARSITY = 0.7


@functools.cache
def runner() -> Path:
    """The runner that SSMRUN names, else the package's; skips where it was not built."""
    if named := os.environ.get("SSMRUN"):
        return Path(named)
    try:
        return get_runner_path()
    except DeviceError as error:
        pytest.skip(str(error))


@functools.cache
def runtime() -> Path:
    """libonnxruntime.so of the installed wheel."""
    for file in distribution("onnxruntime").files or []:
        if file.name.startswith("libonnxruntime.so"):
            return Path(str(file.locate()))
    pytest.skip("the installed onnxruntime package has no libonnxruntime.so")


def ssmrun(
    *arguments: str | Path,
    stdin: bytes | None = b"",
    environment: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    program: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run it; for a bundle without a runtime of its own give `--runtime` yourself."""
    return subprocess.run(
        [*prefix, str(program or runner()), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **(environment or {})},
        timeout=120,
    )


def reply(done: subprocess.CompletedProcess[bytes]) -> Any:
    """The JSON it printed, on success."""
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.endswith(b"}\n")
    return json.loads(done.stdout)


def failure(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str]:
    """Exit code and sentence of a failure that printed nothing else."""
    text = done.stderr.decode()
    assert done.stdout == b"", done.stdout
    assert text.startswith("ssmrun: "), text
    assert text.endswith(".\n"), text
    assert text.count("\n") == 1, text
    return done.returncode, text.removeprefix("ssmrun: ").strip()


class Worker:
    """`ssmrun worker` as a context manager."""

    def __init__(self, bundle: Path, *options: str, prefix: Sequence[str] = ()) -> None:
        program = runner() if not prefix else bundle / "ssmrun"
        self._command = [*prefix, str(program), "worker", str(bundle), *options]

    def __enter__(self) -> Worker:
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            assert self.process.wait(timeout=60) == 0
        finally:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()

    def send(self, line: bytes) -> Any:
        """One line, its newline added; the reply."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def ask(self, do: str, **fields: Any) -> Any:
        """A request that succeeds."""
        answer = self.send(json.dumps({"do": do, **fields}).encode())
        assert "error" not in answer, answer
        return answer


def packed_model(values: Values | None, sparsity: float = SPARSITY) -> PackedModel:
    """The demo model, its projections' smallest weights zero; values None is dense float32."""
    checkpoint = read_checkpoint(DEMO)
    matrices, rest = {}, {}
    for name, tensor in checkpoint.tensors.items():
        array = tensor.numpy().copy()
        projection = name.endswith("_proj.weight")
        if projection and values is not None:
            array[np.abs(array) < np.quantile(np.abs(array), sparsity)] = 0
        keep_mask = array != 0
        if projection and values is not None:
            rows, columns = array.shape
            chosen, _ = choose_format(rows, columns, int(keep_mask.sum()), values)
        else:
            chosen = Format(Structure.DENSE, values or Values.FP32)
        if projection or name == "backbone.embedding.weight":
            matrices[name] = pack(array, keep_mask, chosen, "test")
        else:
            rest[name] = array
    return PackedModel(rest, matrices, checkpoint.config)


def make_bundle(
    folder: Path,
    model: PackedModel,
    *,
    library: Path | None = None,
    runtime_library: Path | None = None,
    extra: Sequence[Path] = (),
) -> Path:
    """A bundle of the model and the demo's tokenizer: as `compress` writes it, without reports.

    Args:
        folder: new.
        library, runtime_library: this machine's by default.
        extra: further files, copied under their own names.
    """
    folder.mkdir(parents=True)
    export(model, folder / "model.onnx")
    shutil.copyfile(library or get_library_path(), folder / "libssmpress_ops.so")
    shutil.copyfile(runtime_library or runtime(), folder / "libonnxruntime.so")
    shutil.copyfile(DEMO / "tokenizer.json", folder / "tokenizer.json")
    for path in extra:
        shutil.copy(path, folder / path.name)
    remake_manifest(folder)
    return folder


def remake_manifest(folder: Path, **extra: Any) -> None:
    """Write the manifest anew over all files: a change that the manifest covers."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    recipe = Recipe(model=DEMO, out=folder)
    write_manifest(folder, [n for n in names if n != MANIFEST_NAME], recipe, extra)


def rewrite_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Replace the manifest by a content whose own hash is made to fit."""
    from ssmpress.bundle import manifest as module

    rest = {key: value for key, value in content.items() if key != "manifest_sha256"}
    rest["manifest_sha256"] = module._canonical_sha256(rest)
    (folder / MANIFEST_NAME).write_text(json.dumps(rest, ensure_ascii=False))


def twin(bundle: Path, folder: Path) -> Path:
    """A bundle to damage, its files copied."""
    return Path(shutil.copytree(bundle, folder))


def array(reply: dict[str, Any], name: str = "data") -> NDArray[np.float32]:
    """A tensor of one of ssmrun's replies."""
    return np.frombuffer(base64.b64decode(reply[name]), np.float32).reshape(reply["shape"])
