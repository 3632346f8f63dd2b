"""Hostile and damaged checkpoints: each is refused with exit code 6 and a sentence that teaches.

The files are made here, none is stored. A case is a function that makes its file or folder and
returns the path to read, with a pattern of the message.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import mamba1_config, mixer_of
from ssmpress.blocks.tensors import tensor_shapes
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import BadInputError

SMALL = mamba1_config(d_model=8, n_layer=2, vocab_size=16, d_state=4, d_inner=16, dt_rank=3)
LAYER = "backbone.layers.1.mixer."
Tensors = dict[str, torch.Tensor]
Make = Callable[[Path], Path]


def small_tensors() -> Tensors:
    return {name: torch.ones(shape) for name, shape in tensor_shapes(SMALL).items()}


def mamba_ssm(**changes: Any) -> Make:
    """A good folder in mamba-ssm's layout with config.json changed; ssm_cfg is merged."""

    def make(folder: Path) -> Path:
        write_checkpoint(SMALL, small_tensors(), folder)
        return _change(folder, changes)

    return make


def huggingface(**changes: Any) -> Make:
    def make(folder: Path) -> Path:
        write_checkpoint(SMALL, small_tensors(), folder, "huggingface")
        return _change(folder, changes)

    return make


def _change(folder: Path, changes: dict[str, Any]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    if isinstance(changes.get("ssm_cfg"), dict):
        changes["ssm_cfg"] = config["ssm_cfg"] | changes["ssm_cfg"]
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def config_text(content: bytes) -> Make:
    def make(folder: Path) -> Path:
        write_checkpoint(SMALL, small_tensors(), folder)
        (folder / "config.json").write_bytes(content)
        return folder

    return make


def bare(content: bytes, name: str = "weights.pt") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def saved(edit: Callable[[Tensors], Any]) -> Make:
    """A bare torch.save file of the small model's tensors after an edit."""

    def make(folder: Path) -> Path:
        torch.save(edit(small_tensors()), folder / "weights.pt")
        return folder / "weights.pt"

    return make


def in_folder(edit: Callable[[Tensors], Tensors]) -> Make:
    """The same edit in a folder whose config.json still describes the small model."""

    def make(folder: Path) -> Path:
        write_checkpoint(SMALL, small_tensors(), folder)
        torch.save(edit(small_tensors()), folder / "pytorch_model.bin")
        return folder

    return make


def put(name: str, tensor: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: tensor}


def drop(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def holed(value: float) -> Callable[[Tensors], Tensors]:
    tensor = torch.ones(16, 4)
    tensor[2, 3] = tensor[5, 0] = value
    return put(LAYER + "A_log", tensor)


def sharded(weight_map: Any) -> Make:
    def make(folder: Path) -> Path:
        write_checkpoint(SMALL, small_tensors(), folder, "huggingface")
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        index = {"weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    return make


def archive(edit: Callable[[str, bytes], tuple[str, bytes] | None], method: int = 0) -> Make:
    """A torch.save archive, written again entry by entry."""

    def make(folder: Path) -> Path:
        torch.save(small_tensors(), folder / "good.pt")
        with (
            zipfile.ZipFile(folder / "good.pt") as good,
            zipfile.ZipFile(folder / "weights.pt", "w", method) as bad,
        ):
            for name in good.namelist():
                if edited := edit(name, good.read(name)):
                    bad.writestr(*edited)
        return folder / "weights.pt"

    return make


def cut_short(folder: Path) -> Path:
    torch.save(small_tensors(), folder / "weights.pt")
    os.truncate(folder / "weights.pt", 3000)
    return folder / "weights.pt"


def flipped_bit(folder: Path) -> Path:
    torch.save({**small_tensors(), "marker": torch.full((64,), 7.0)}, folder / "weights.pt")
    content = (folder / "weights.pt").read_bytes()
    marker = struct.pack("<f", 7.0) * 8
    (folder / "weights.pt").write_bytes(content.replace(marker, b"\x01" + marker[1:], 1))
    return folder / "weights.pt"


def marked_as_folder(folder: Path) -> Path:
    """One bit, outside every checksum, with which torch leaves a tensor uninitialised."""
    path = archive(lambda *entry: entry)(folder)
    with zipfile.ZipFile(path) as good:
        directory = good.start_dir
    content = bytearray(path.read_bytes())
    content[content.index(b"data/0", directory) - len("good/") - 46 + 38] |= 0x10
    path.write_bytes(content)
    return path


def linked_shard(folder: Path) -> Path:
    outside = folder / "outside.safetensors"
    save_file(small_tensors(), outside)
    inside = folder / "model"
    inside.mkdir()
    sharded(MAPPED)(inside)
    (inside / "model-1.safetensors").unlink()
    (inside / "model-1.safetensors").symlink_to(outside)
    return inside


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "weights.pt")
    return folder / "weights.pt"


def weights_are_a_folder(folder: Path) -> Path:
    write_checkpoint(SMALL, small_tensors(), folder)
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model.bin").mkdir()
    return folder


def config_only(folder: Path) -> Path:
    write_checkpoint(SMALL, small_tensors(), folder)
    (folder / "pytorch_model.bin").unlink()
    return folder


def big_config(folder: Path) -> Path:
    write_checkpoint(SMALL, small_tensors(), folder)
    os.truncate(folder / "config.json", 33 << 20)
    return folder


def old_format(folder: Path) -> Path:
    path = folder / "weights.pt"
    torch.save(small_tensors(), path, _use_new_zipfile_serialization=False)
    return path


def safetensors_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(64)


def merges(folder: Path) -> Path:
    write_checkpoint(SMALL, small_tensors(), folder)
    (folder / "merges.txt").write_text("a b")
    return folder / "merges.txt"


MAPPED = dict.fromkeys(small_tensors(), "model-1.safetensors")
ZERO = torch.zeros(1)
EMBEDDING = "backbone.embedding.weight"

CASES: dict[str, tuple[Make, str]] = {
    # paths
    "missing": (lambda f: f / "no.pt", r"no\.pt: expected a folder with config.json and .*No such"),
    "empty folder": (lambda f: f, r"config\.json: expected a config\.json beside .*No such file"),
    "no weights": (config_only, r"got config\.json without weights\. Put model\.safetensors"),
    "folder as weights": (weights_are_a_folder, r"pytorch_model\.bin: .*got a folder"),
    "named pipe": (pipe, r"got something that is no regular file"),
    "NUL in the path": (lambda f: f / "a\0b", r"expected a folder with config\.json"),
    "endless name": (lambda f: f / ("a" * 300), r"cannot be read: File name too long\. Check"),
    "empty file": (bare(b""), r"got an empty file\. The download or copy failed"),
    "one shard": (
        bare(b"x", "model-00001-of-00002.safetensors"),
        r"got one part .*Give the folder",
    ),
    "merges": (merges, r"got one part of a checkpoint\. Give the folder"),
    "the config": (bare(b"{}", "config.json"), r"got one part of a checkpoint\. Give the folder"),
    # config.json
    "not JSON": (config_text(b"{"), r"config\.json: .*it is not valid JSON"),
    "not UTF-8": (config_text(b'{"d_model": "\xff"}'), r"it is not valid JSON"),
    "deep JSON": (config_text(b"[" * 100_000), r"it is not valid JSON"),
    "long number": (config_text(b'{"d_model": ' + b"9" * 9999 + b"}"), r"it is not valid JSON"),
    "a list": (config_text(b"[]"), r"a JSON object; got list"),
    "33 MiB": (big_config, r"of at most 33,554,432 bytes; got 34,603,008"),
    "other keys": (config_text(b'{"dim": 3}'), r"expected mamba-ssm's keys .*got dim\."),
    "text for a number": (mamba_ssm(d_model="8"), r"d_model: expected an integer .*got '8'"),
    "bool for a number": (mamba_ssm(n_layer=True), r"n_layer: expected an integer .*got True"),
    "negative": (huggingface(hidden_size=-8), r"hidden_size: expected an integer .*got -8"),
    "too many layers": (mamba_ssm(n_layer=4096), r"n_layer: .*from 1 to 1024; got 4096"),
    "enormous": (huggingface(vocab_size=1 << 60), r"vocab_size: .*from 1 to 4194304; got 1152"),
    "number for a flag": (mamba_ssm(rms_norm=1), r"rms_norm: expected true or false; got 1"),
    "expand NaN": (config_text(b'{"hidden_size": 8, "expand": NaN}'), r"expand: expected a pos"),
    "expand infinite": (mamba_ssm(ssm_cfg={"expand": 1e8}), r"expand: .*from 1 to 262144"),
    "eps 0": (huggingface(layer_norm_epsilon=0), r"layer_norm_epsilon: expected a positive number"),
    "ssm_cfg a list": (mamba_ssm(ssm_cfg=[1]), r"ssm_cfg: expected an object; got \[1\]"),
    # other models
    "Mamba-3": (
        mamba_ssm(ssm_cfg={"layer": "Mamba3"}),
        r"layer: expected 'Mamba1' or 'Mamba2'; got 'Mamba3'",
    ),
    "Mamba-2": (
        mamba_ssm(ssm_cfg={"layer": "Mamba2"}),
        r"dt_rank: expected a setting of Mamba2 or nothing",
    ),
    "headdim": (mamba_ssm(ssm_cfg={"headdim": 64}), r"headdim: expected a setting of Mamba1 or"),
    "attention": (
        mamba_ssm(attn_layer_idx=[3]),
        r"attn_layer_idx: expected numbers .* from 0 to 1",
    ),
    "attention to later tokens": (
        mamba_ssm(attn_layer_idx=[1], attn_cfg={"num_heads": 2}),
        r"causal: expected true; got nothing",
    ),
    "heads without channels": (
        mamba_ssm(attn_layer_idx=[1], attn_cfg={"num_heads": 9, "causal": True}),
        r"num_heads: expected no more heads than d_model has channels; got 9",
    ),
    "MLP": (mamba_ssm(d_intermediate=32), r"norm2\.weight: expected .*weights are incomplete"),
    "LayerNorm": (
        mamba_ssm(rms_norm=False),
        r"layers\.0\.norm\.bias: .*got no such tensor\. Check rms_norm in config\.json",
    ),
    "mamba2": (
        huggingface(model_type="mamba2"),
        r"expand: expected num_heads \* head_dim / hidden",
    ),
    "rwkv": (huggingface(model_type="rwkv"), r"model_type: expected 'mamba' .*got 'rwkv'"),
    "experts": (
        huggingface(model_type="granitemoehybrid", num_local_experts=8),
        r"num_local_experts: expected 0; got 8\. Mixtures of experts are not supported",
    ),
    "sliding window": (
        huggingface(model_type="bamba", sliding_window=64),
        r"sliding_window: expected null; got 64",
    ),
    "another rope": (
        huggingface(model_type="bamba", rope_parameters={"rope_type": "yarn"}),
        r"rope_parameters: rope_type: expected 'default'; got 'yarn'",
    ),
    "heads of no channels": (
        huggingface(model_type="bamba", mamba_n_heads=8, intermediate_size=8),
        r"num_attention_heads: expected no more heads than hidden_size has channels",
    ),
    "scaled rope": (
        huggingface(model_type="bamba", rope_scaling={"type": "linear", "factor": 2.0}),
        r"rope_scaling: expected null; got",
    ),
    "gelu": (huggingface(hidden_act="gelu"), r"hidden_act: expected 'silu'; got 'gelu'"),
    "Mamba-2 weights": (
        saved(lambda t: {name: v[:, 0] if "A_log" in name else v for name, v in t.items()}),
        r"expected the 16 heads, x, B and C of a Mamba-2 mixer; got \(16, 16\)",
    ),
    # configuration against weights
    "d_state": (
        mamba_ssm(ssm_cfg={"d_state": 8}),
        r"layers\.0\.mixer\.A_log: expected \(16, 8\) for d_inner 16, d_state 8; got \(16, 4\)\. "
        r"Check d_state in config\.json\. \(3 more tensors differ\.\)",
    ),
    "x_proj": (
        in_folder(put(LAYER + "x_proj.weight", torch.ones(9, 16))),
        r"layers\.1\.mixer\.x_proj\.weight: expected \(11, 16\) for dt_rank 3, d_state 4, "
        r"d_inner 16; got \(9, 16\)\. Check dt_rank and d_state in config\.json\.$",
    ),
    "state_size": (huggingface(state_size=8), r"got \(16, 4\)\. Check state_size in config\.json"),
    "time_step_rank": (huggingface(time_step_rank=1), r"Check time_step_rank in config\.json"),
    "two widths": (
        huggingface(intermediate_size=24),
        r"expected 16 = expand \* hidden_size; got 24",
    ),
    "layers": (mamba_ssm(n_layer=3), r"expected 3 layers; got weights of 2\. Check n_layer in"),
    "vocabulary": (mamba_ssm(vocab_size=20), r"expected \(24, 8\) .*Check vocab_size in config"),
    "conv bias": (mamba_ssm(ssm_cfg={"conv_bias": False}), r"conv1d\.bias: .*Check conv_bias in"),
    "use_bias": (huggingface(use_bias=True), r"in_proj\.bias: .*got no such .*Check use_bias in"),
    "not tied": (
        in_folder(put("lm_head.weight", torch.zeros(16, 8))),
        r"lm_head\.weight: expected the values of backbone\.embedding\.weight, because "
        r"config\.json says tie_embeddings true; got 128 that differ\. Set tie_embeddings to false",
    ),
    "no head": (
        huggingface(tie_word_embeddings=False),
        r"lm_head\.weight: expected \(16, 8\) .*no such tensor\. Check tie_word_embeddings in",
    ),
    # tensors
    "missing tensor": (in_folder(drop(LAYER + "D")), r"D: expected \(16,\) .*got no such tensor"),
    "missing, bare": (
        saved(drop(LAYER + "D")),
        r"D: expected \(16,\) .*incomplete or another model",
    ),
    "extra tensor": (
        saved(put("backbone.layers.0.mixer.Wqkv.weight", torch.ones(3))),
        r"layers\.0\.mixer\.Wqkv\.weight: expected only the tensors of a Mamba-1",
    ),
    "LayerNorm, bare": (
        saved(put("backbone.layers.1.norm.bias", torch.ones(8))),
        r"layers\.1\.norm\.bias: expected RMS norms, which have no bias, .*got a LayerNorm's, and "
        r"without it the model would be another one",
    ),
    "LayerNorm, said to be RMS": (
        in_folder(put("backbone.norm_f.bias", torch.ones(8))),
        r"norm_f\.bias: expected no such tensor; got one\. Check rms_norm in config\.json\.$",
    ),
    "newlines and colours": (
        saved(put("\x1b[31m\n" * 99, torch.ones(3))),
        r"weights\.pt: \\x1b\[31m\\n.*: expected only the tensors of a Mamba-1",
    ),
    "layer a billion": (
        saved(put("backbone.layers.999999999.norm.weight", torch.ones(8))),
        r"n_layer: expected an integer from 1 to 1024; got 1000000000",
    ),
    "two of a name": (
        saved(put("_orig_mod." + EMBEDDING, torch.ones(16, 8))),
        r"backbone\.embedding\.weight: expected one tensor of this name; got two",
    ),
    "integers": (
        saved(put(EMBEDDING, torch.ones(16, 8, dtype=torch.int8))),
        r"embedding\.weight: expected dense float16, .*got int8\. Convert quantised",
    ),
    "complex": (saved(put(LAYER + "D", torch.ones(16) * 1j)), r"got complex64"),
    "float8": (saved(put(LAYER + "D", torch.ones(16).to(torch.float8_e4m3fn))), r"got float8_e4m3"),
    "sparse": (saved(put(EMBEDDING, torch.ones(16, 8).to_sparse())), r"got sparse_coo"),
    "meta": (saved(put(EMBEDDING, torch.ones(16, 8, device="meta"))), r"expected dense float16"),
    "NaN": (saved(holed(float("nan"))), r"A_log: .*got 2 .*the first \(nan\) at index \(2, 3\)"),
    "infinite": (saved(holed(float("-inf"))), r"got 2 that are not, the first \(-inf\)"),
    "float64 overflow": (
        saved(put(LAYER + "D", torch.full((16,), 1e300, dtype=torch.float64))),
        r"expected finite float32 values; got 16 that are not, the first \(inf\) at index \(0,\)",
    ),
    "bytes claimed to be terabytes": (
        saved(lambda t: {name: ZERO.expand(v.shape) for name, v in t.items()}),
        r"expected tensors with values of their own; got [\d,]+ bytes .* that share 4 bytes",
    ),
    # torch.save archives
    "zip, not torch": (
        archive(lambda name, data: None if name.endswith("data.pkl") else (name, data)),
        r"got a zip file without data\.pkl",
    ),
    "compressed": (archive(lambda *entry: entry, zipfile.ZIP_DEFLATED), r"got a compressed one"),
    "record missing": (
        archive(lambda name, data: None if name.endswith("data/3") else (name, data)),
        r"failed locating file data/3",
    ),
    "record too short": (
        archive(lambda name, data: (name, data[:8] if name.endswith("data/0") else data)),
        r"expected a torch\.save archive of tensors; got: .*size",
    ),
    "cut short": (cut_short, r"it is damaged or cut short: .*Copy or download it again"),
    "flipped bit": (flipped_bit, r"it is damaged or cut short: Bad CRC-32"),
    "marked as a folder": (marked_as_folder, r"got one with an entry marked as a folder"),
    "TorchScript": (
        archive(lambda name, data: (name.replace("version", "constants.pkl"), data)),
        r"expected a state dict; got a TorchScript program",
    ),
    "torch 1.5": (old_format, r"got a plain pickle, which may run code when it is loaded"),
    "whole model": (
        saved(lambda t: torch.nn.Linear(2, 2)),
        r"It has no Mamba block; its 2 tensors are weight \(2, 2\), bias \(2,\) and so on",
    ),
    "a list of tensors": (saved(lambda t: list(t.values())), r"\(name -> tensor\); got list"),
    "optimizer only": (
        saved(lambda t: {"optimizer": {}, "step": 1}),
        r"got optimizer, step\. Save",
    ),
    "numbers as names": (saved(lambda t: {0: torch.ones(1)}), r"expected tensors by name.*got 0\."),
    "pickle": (bare(pickle.dumps({"a": np.ones(3)})), r"got a plain pickle, .*torch\.save\(model"),
    # other formats
    "text": (bare(b"hello world, this is no model"), r"got neither \(it starts with 68 65 6c 6c"),
    "LFS pointer": (bare(b"version https://git-lfs.github.com/spec/v1\n"), r"git lfs pull"),
    "safetensors, short": (bare(b"\x10", "a.safetensors"), r"expected a safetensors file; got"),
    "safetensors, huge header": (
        bare(struct.pack("<Q", 1 << 62) + b"{}" * 40, "a.safetensors"),
        r"expected a safetensors file; got: .*[Hh]eader",
    ),
    "safetensors, bad offsets": (
        bare(safetensors_header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}')),
        r"expected a safetensors file; got",
    ),
    "safetensors, other model": (
        bare(safetensors_header(b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}')),
        r"expected the state dict of a Mamba-1 .*embedding\.weight of 2 axes; got no such tensor",
    ),
    # shards
    "shard in another folder": (sharded({EMBEDDING: "../x.safetensors"}), r"plain name .*hostile"),
    "absolute shard": (sharded({EMBEDDING: "/etc/passwd"}), r"got '/etc/passwd'"),
    "shard is the folder": (sharded({EMBEDDING: ".."}), r"expected the plain name of a file"),
    "shard of no name": (sharded({EMBEDDING: None}), r"expected the plain name .*got 'None'"),
    "no weight map": (sharded(None), r"weight_map: expected an object .*got nothing"),
    "shard missing": (
        sharded({EMBEDDING: "m-2.safetensors"}),
        r"a shard of the checkpoint; got: No",
    ),
    "broken promise": (
        sharded({**MAPPED, "other": "model-1.safetensors"}),
        r"index says so; got no",
    ),
    "link out": (linked_shard, r"expected a file inside .*got a link to .*Copy the shard"),
    "many shards": (sharded({str(i): f"m{i}" for i in range(1025)}), r"at most 1024 shards"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    make, message = CASES[name]
    path = make(tmp_path)
    with pytest.raises(BadInputError, match=message) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["torch.save", "pickle", "protocol 0", "torch 1.5", "config"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "executed"
    weights = {**small_tensors(), "payload": Malicious(target)}
    path = tmp_path / "weights.pt"
    message = r"got a plain pickle, which may run code"
    if kind == "torch.save":
        torch.save(weights, path)
        message = ""
    elif kind == "torch 1.5":
        torch.save(weights, path, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Malicious(target)))
    elif kind == "protocol 0":
        path.write_bytes(pickle.dumps(Malicious(target), protocol=0))
        message = "got neither"
    else:
        mamba_ssm()(tmp_path)
        torch.save(weights, tmp_path / "pytorch_model.bin")
        path, message = tmp_path, ""
    if message:
        with pytest.raises(BadInputError, match=message):
            read_checkpoint(path)
    else:
        checkpoint = read_checkpoint(path)
        assert re.search(
            r"neither imported nor called: payload \(\w+\.mkdir\)", str(checkpoint.notes)
        )
        assert all(bool((tensor == 1).all()) for tensor in checkpoint.tensors.values())
    assert not target.exists()


PROGRAM, CODE, MODULE, SCRIPT = (
    "mark",
    "__import__('os').mkdir('executed')",
    "payload",
    "payload.py",
)
GADGETS = {
    "posix system": PROGRAM,
    "os system": PROGRAM,
    "os popen": PROGRAM,
    "pty spawn": PROGRAM,
    "subprocess Popen": PROGRAM,
    "subprocess check_output": PROGRAM,
    "subprocess call": PROGRAM,
    "builtins eval": CODE,
    "builtins exec": CODE,
    "timeit timeit": CODE,
    "cProfile run": CODE,
    "builtins __import__": MODULE,
    "importlib import_module": MODULE,
    "pydoc safeimport": MODULE,
    "runpy run_path": SCRIPT,
    "torch load": SCRIPT,
    "webbrowser open": SCRIPT,
    "payload run": CODE,
}
"""Functions that run, import or open what they are given, as a pickle names them."""

CALLS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "called": lambda name, argument: b"c" + name + argument + b"\x85R",
    "made": lambda name, argument: b"c" + name + argument + b"\x85\x81",
    "made with keywords": lambda name, argument: b"c" + name + argument + b"\x85}\x92",
    "called by name": lambda name, argument: b"(" + argument + b"i" + name,
    "called by mark": lambda name, argument: b"(c" + name + argument + b"o",
    "given a state": lambda name, argument: (
        b"c" + name + b")\x81}X\x0c\0\0\0__setstate__c" + name + b"s" + argument + b"\x86b"
    ),
}
"""Every instruction of a pickle that would call what `c` names."""


@pytest.mark.parametrize("place", ["the file", "a value", "a key"])
@pytest.mark.parametrize("call", CALLS)
def test_no_gadget_is_imported_or_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, place: str
) -> None:
    """18 functions, 6 instructions, 3 places: 324 pickles, none of which leaves a mark."""
    work = marks(tmp_path)
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({"the key": "the value", **small_tensors()}, tmp_path / "good.pt")
    harmless = CALLS[call](b"their_project\nConfig\n", b"N")
    with suppress(BadInputError):  # imports what any file needs
        read_checkpoint(rewritten(tmp_path / "good.pt", tmp_path / "first.pt", harmless, place))
    before = set(sys.modules)
    for gadget, argument in GADGETS.items():
        text = str(tmp_path / argument) if argument in (PROGRAM, SCRIPT) else argument
        argued = b"X" + len(text).to_bytes(4, "little") + text.encode()
        code = CALLS[call](gadget.replace(" ", "\n").encode() + b"\n", argued)
        path = rewritten(tmp_path / "good.pt", tmp_path / "weights.pt", code, place)
        try:
            checkpoint = read_checkpoint(path)
        except BadInputError as error:
            assert len(str(error)) < 900
        else:
            assert checkpoint.config == SMALL and place != "the file"
    assert not list(work.iterdir()), "something ran"
    assert set(sys.modules) == before, "something was imported"


def marks(folder: Path) -> Path:
    """A program and a module that make a folder where they run; the empty place for it."""
    work = folder / "work"
    work.mkdir()
    (folder / PROGRAM).write_text(f"#!/bin/sh\nmkdir -p {work}/executed\n")
    (folder / PROGRAM).chmod(0o755)
    (folder / SCRIPT).write_text(f"import os\nos.makedirs('{work}/executed', exist_ok=True)\n")
    return work


def rewritten(good: Path, path: Path, code: bytes, place: str) -> Path:
    """The archive with a pickle's instructions put in."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                word = b"X\x07\0\0\0the key" if place == "a key" else b"X\x09\0\0\0the value"
                assert content.count(word) == 1
                whole = b"\x80\x02" + code + b"."
                content = whole if place == "the file" else content.replace(word, code)
            new.writestr(name, content)
    return path


def test_download_cache_of_hugging_face_is_read(tmp_path: Path) -> None:
    """There every file is a link to ../../blobs, the one place outside that is allowed."""
    home, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    home.mkdir(parents=True)
    blobs.mkdir()
    sharded(MAPPED)(home)
    renamed = {k.replace("embedding.", "embeddings."): "model-1.safetensors" for k in MAPPED}
    (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": renamed}))
    for number, file in enumerate(sorted(home.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    assert read_checkpoint(home).config == SMALL


def test_model_config_checks_itself() -> None:
    with pytest.raises(BadInputError, match=r"d_state: expected an integer from 1 to 1024; got 0"):
        replace(mixer_of(SMALL), d_state=0)
    with pytest.raises(BadInputError, match=r"norm_eps: expected a positive number; got nan"):
        replace(SMALL, norm_eps=float("nan"))
