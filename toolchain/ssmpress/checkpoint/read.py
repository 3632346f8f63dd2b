"""Reading checkpoints: every input layout -> ModelConfig + float32 tensors.

Accepted are a folder in one of the dialects, and a bare state dict. Nothing read is trusted: names,
shapes, types and values are checked before they are used, and what had to be guessed is said in
`Checkpoint.notes`. Files are opened in weight_files.py, names and shapes are compared in shapes.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from ssmpress.checkpoint import foreign
from ssmpress.checkpoint.architecture import ASSUMED, ASSUMED_MAMBA2, Architecture, configured
from ssmpress.checkpoint.dialects import STATE_DICT, json_key, named, parse_config
from ssmpress.checkpoint.names import canonical_names
from ssmpress.checkpoint.shapes import check_shapes, infer_config, stored_vocabulary
from ssmpress.checkpoint.state_dict import read_state_dict, read_state_shapes
from ssmpress.checkpoint.weight_files import (
    beside,
    folders_of,
    read_json,
    regular_file,
    shard_files,
)
from ssmpress.data.tokenizer_files import find_tokenizer
from ssmpress.errors import BadInputError
from ssmpress.files import sha256

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_EXPECTED = (
    "a folder with config.json and model.safetensors or pytorch_model.bin, "
    "or a state dict (.pt, .pth, .bin, .safetensors)"
)
_SHARD = r"-\d+-of-\d+\."
_BESIDE = (".txt", ".md", ".model")
"""Files that lie beside weights, such as merges.txt and tokenizer.model."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained model as it was read.

    Args:
        config: its sizes.
        tensors: float32, contiguous, finite, owning their memory, exactly the names and shapes
            of tensor_shapes(config).
        layout: name of the dialect, "mamba-ssm" or "huggingface", or "state-dict" (a bare file
            without config.json).
        files: the weight files, and config.json where there is one.
        input_bytes: bytes of the weight files.
        sha256: weight file name -> hexadecimal SHA-256.
        tokenizer: tokenizer.json beside the weights, or what can be turned into one, or None.
        notes: what was inferred, unwrapped or left out, one sentence each.
        architecture: what the weights were taken for, and what says so.
    """

    config: ModelConfig
    tensors: dict[str, torch.Tensor]
    layout: str
    files: tuple[Path, ...]
    input_bytes: int
    sha256: dict[str, str]
    tokenizer: Path | None
    notes: tuple[str, ...]
    architecture: Architecture = ASSUMED


def read_checkpoint(path: Path, weights_of: str | None = None) -> Checkpoint:
    """Read a trained model.

    Args:
        path: a folder in mamba-ssm's or Hugging Face's layout, or a bare state dict. A config.json
            beside a bare state dict is used; without one the shapes tell the configuration, which
            then is Mamba-1's.
        weights_of: which of several models in one file, such as "ema".

    Returns:
        The checkpoint, complete and checked.

    Raises:
        BadInputError: a file is missing, damaged or hostile; the model is of no known kind; a
            tensor is missing, unknown, of a wrong shape or type, or not finite; the embedding is
            said to be tied and is not.
        UsageError: there is no model of the name `weights_of`.
    """
    try:
        _check_no_bundle(Path(path))
        return _read(Path(path), weights_of)
    except OSError as error:
        raise BadInputError(
            f"{error.filename or path}: cannot be read: {error.strerror or error}. "
            "Check the path and its permissions."
        ) from error


def read_config(path: Path, weights_of: str | None = None) -> tuple[ModelConfig, tuple[str, ...]]:
    """The sizes of a model, and notes, without reading values where config.json has the sizes.

    Raises:
        BadInputError: as `read_checkpoint`, but what only the tensors could show.
    """
    path, notes = Path(path), list[str]()
    _check_no_bundle(path)
    if not path.is_dir():
        checkpoint = read_checkpoint(path, weights_of)
        return checkpoint.config, checkpoint.notes
    values, config, layout = _said_by(path / "config.json")
    files = _weight_files(path, notes)
    with suppress(BadInputError):  # what the weights lack, the run says
        stored = read_state_shapes(files, str(path), weights_of=weights_of)
        stored = canonical_names(named(layout).arranged(stored, config), str(path), [])
        config = stored_vocabulary(config, values.get("vocab_size"), _shapes(stored), notes)
    return config, tuple(notes)


def _read(path: Path, weights_of: str | None) -> Checkpoint:
    notes: list[str] = []
    if not path.is_dir():
        _check_bare(path)
    config_file = beside(path, "config.json")
    described, layout, architecture, stated = None, STATE_DICT, ASSUMED, None
    if path.is_dir() and config_file is None:
        foreign.check_folder(path)
        _check_configured(path)
    if path.is_dir() or config_file is not None:
        config_file = config_file or path / "config.json"
        values, described, layout = _said_by(config_file)
        architecture, stated = configured(values, described.title), values.get("vocab_size")
        if not path.is_dir():
            notes.append(f"configuration read from {config_file}")
    files = _weight_files(path, notes) if path.is_dir() else {path: set[str]()}
    adapter = beside(path, "adapter_config.json")
    whole = read_state_dict(files, str(path), notes, weights_of=weights_of, adapter=adapter)
    if described is not None:
        whole = named(layout).arranged(whole, described)
    stored = canonical_names(whole, str(path), notes)
    shapes = _shapes(stored)
    if described is not None:
        described = stored_vocabulary(described, stated, shapes, notes)
    config = described or infer_config(shapes, str(path))
    if described is None and config.title == ASSUMED_MAMBA2.name:
        architecture = ASSUMED_MAMBA2
    check_shapes(shapes, config, layout, str(path))
    tensors = {name: float32(name, stored.pop(name)) for name in shapes}
    config = settle_tie(tensors, config, layout, guessed=described is None)
    if described is None:
        notes.append(_inferred_note(config))
    return Checkpoint(
        config=config,
        tensors={name: tensors[name] for name in tensor_shapes(config)},
        layout=layout,
        files=(*files, *([config_file] if config_file else [])),
        input_bytes=sum(file.stat().st_size for file in files),
        sha256={file.name: sha256(file) for file in files},
        tokenizer=find_tokenizer(folders_of(path)),
        notes=tuple(notes),
        architecture=architecture,
    )


def _said_by(config_file: Path) -> tuple[dict[str, Any], ModelConfig, str]:
    """The object of a config.json, the configuration that it says, and the name of its dialect."""
    values = read_json(config_file, "a config.json beside the weights")
    foreign.check_quantised_config(values, str(config_file))
    config, layout = parse_config(values, config_file)
    return values, config, layout


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check_no_bundle(path: Path) -> None:
    """What a run wrote is not what it reads."""
    folder = path if path.is_dir() else path.parent
    bundle = (folder / "model.onnx").is_file() and not (folder / "config.json").is_file()
    if path.suffix == ".onnx" or (bundle and path.is_dir()):
        raise BadInputError(
            f"{path}: expected {_EXPECTED}; got an ONNX model or a bundle, which cannot be pruned "
            "again. Give the checkpoint that it was made from."
        )


def _check_bare(path: Path) -> None:
    regular_file(path, _EXPECTED)
    no_weights = path.suffix in _BESIDE and path.with_name("config.json").is_file()
    if path.suffix == ".json" or no_weights or re.search(_SHARD, path.name):
        raise BadInputError(
            f"{path}: expected {_EXPECTED}; got one part of a checkpoint. "
            f"Give the folder: {path.parent}."
        )


def _check_configured(folder: Path) -> None:
    """A folder of weights without config.json: the weight file by itself can be read."""
    weights = (file for file in folder.iterdir() if file.suffix in foreign.WEIGHT_SUFFIXES)
    if files := sorted(weights):
        raise BadInputError(
            f"{folder}: expected a config.json beside the weights; there is none. Copy it there, "
            f"or give the weight file itself, whose shapes tell the sizes: {files[0]}."
        )


def _inferred_note(config: ModelConfig) -> str:
    tied = "tied" if config.tie_embeddings else "untied"
    norms = "" if config.norm == "rms" else "LayerNorm, "
    mixer = config.layers[0].mixer
    sizes = ", ".join(f"{name} {getattr(mixer, name)}" for name in mixer.limits)
    return (
        f"configuration inferred from the shapes: d_model {config.d_model}, {config.n_layer} "
        f"layers, vocabulary {config.vocab_size}, {sizes}, {norms}{tied} embedding; "
        f"norm_eps is not in the shapes and taken as {config.norm_eps}"
    )


def _weight_files(folder: Path, notes: list[str]) -> dict[Path, set[str]]:
    """Weight file -> the tensors it must hold; empty where no index says."""
    present = [name for name in _WEIGHTS if (folder / name).exists()]
    if not present:
        foreign.check_weights(folder)
        raise BadInputError(
            f"{folder}: expected {_EXPECTED}; got config.json without weights. "
            "Put model.safetensors or pytorch_model.bin beside it."
        )
    if len(present) > 1:
        notes.append(f"weights read from {present[0]}; not used: {', '.join(present[1:])}")
    chosen = folder / present[0]
    return shard_files(chosen) if chosen.suffix == ".json" else {chosen: set()}


def float32(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A float32 copy that owns its memory; the source may be a map of the file."""
    result = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    finite = torch.isfinite(result)
    if not bool(finite.all()):
        bad = (~finite).nonzero()
        first = tuple(bad[0].tolist())
        raise BadInputError(
            f"{name}: expected finite float32 values; got {len(bad):,} that are not, the first "
            f"({result[first].item()}) at index {first}. The training diverged or the file is "
            "damaged; use an earlier checkpoint."
        )
    return result


def settle_tie(
    tensors: dict[str, torch.Tensor], config: ModelConfig, layout: str, *, guessed: bool
) -> ModelConfig:
    """Drop an lm_head that only repeats the embedding, if the model is (or may be) tied."""
    if LM_HEAD not in tensors or not (guessed or config.tie_embeddings):
        return config
    if torch.equal(tensors[LM_HEAD], tensors[EMBEDDING]):
        del tensors[LM_HEAD]
        return replace(config, tie_embeddings=True)
    if guessed:
        return config
    different = int((tensors[LM_HEAD] != tensors[EMBEDDING]).sum())
    key = json_key("tie_embeddings", layout, config)
    raise BadInputError(
        f"{LM_HEAD}: expected the values of {EMBEDDING}, because config.json says {key} true; got "
        f"{different:,} that differ. Set {key} to false in config.json if the model was trained so."
    )
