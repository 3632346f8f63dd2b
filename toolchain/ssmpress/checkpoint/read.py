"""Reading checkpoints: every input layout -> ModelConfig + float32 tensors.

Accepted are a folder in one of the dialects, and a bare state dict. Nothing read is trusted: names,
shapes, types and values are checked before they are used, and what had to be guessed is said in
`Checkpoint.notes`. Files are opened in weight_files.py, names and shapes are compared in shapes.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.tensors import EMBEDDING, HEAD, LM_HEAD, tensor_shapes
from ssmpress.checkpoint.architecture import ASSUMED, ASSUMED_MAMBA2, Architecture, configured
from ssmpress.checkpoint.dialects import STATE_DICT, canonical, json_key, named, parse_config
from ssmpress.checkpoint.shapes import check_shapes, infer_config, shown
from ssmpress.checkpoint.weight_files import (
    beside,
    read_json,
    read_weights,
    regular_file,
    shard_files,
)
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
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
        tokenizer: tokenizer.json beside the weights, or None.
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


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a trained model.

    Args:
        path: a folder in mamba-ssm's or Hugging Face's layout, or a bare state dict. A config.json
            beside a bare state dict is used; without one the shapes tell the configuration, which
            then is Mamba-1's.

    Returns:
        The checkpoint, complete and checked.

    Raises:
        BadInputError: a file is missing, damaged or hostile; the model is of no known kind; a
            tensor is missing, unknown, of a wrong shape or type, or not finite; the embedding is
            said to be tied and is not.
    """
    try:
        _check_no_bundle(Path(path))
        return _read(Path(path))
    except OSError as error:
        raise BadInputError(
            f"{error.filename or path}: cannot be read: {error.strerror or error}. "
            "Check the path and its permissions."
        ) from error


def read_config(path: Path) -> tuple[ModelConfig, tuple[str, ...]]:
    """The sizes of a model, and notes, without reading weights where config.json has them.

    Raises:
        BadInputError: as `read_checkpoint`, but what only the tensors could show.
    """
    path, notes = Path(path), list[str]()
    _check_no_bundle(path)
    if not path.is_dir():
        checkpoint = read_checkpoint(path)
        return checkpoint.config, checkpoint.notes
    config_file = path / "config.json"
    config, _ = parse_config(
        read_json(config_file, "a config.json beside the weights"), config_file
    )
    _weight_files(path, notes)
    return config, tuple(notes)


def _read(path: Path) -> Checkpoint:
    notes: list[str] = []
    if not path.is_dir():
        _check_bare(path)
    config_file = beside(path, "config.json")
    described, layout, architecture = None, STATE_DICT, ASSUMED
    if path.is_dir() or config_file is not None:
        config_file = config_file or path / "config.json"
        values = read_json(config_file, "a config.json beside the weights")
        described, layout = parse_config(values, config_file)
        architecture = configured(values, described.title)
        if not path.is_dir():
            notes.append(f"configuration read from {config_file}")
    files = _weight_files(path, notes) if path.is_dir() else {path: set[str]()}
    merged = _merge(files, notes)
    _check_storage(merged, str(path))
    if described is not None:
        merged = named(layout).arranged(merged, described)
    stored = _canonical(merged, str(path), notes)
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    config = described or infer_config(shapes, str(path))
    if described is None and config.title == ASSUMED_MAMBA2.name:
        architecture = ASSUMED_MAMBA2
    check_shapes(shapes, config, layout, str(path))
    tensors = {name: float32(name, stored.pop(name)) for name in shapes}
    config = settle_tie(tensors, config, layout, guessed=described is None)
    if described is None:
        notes.append(_inferred_note(config))
    tokenizer = beside(path, "tokenizer.json")
    return Checkpoint(
        config=config,
        tensors={name: tensors[name] for name in tensor_shapes(config)},
        layout=layout,
        files=(*files, *([config_file] if config_file else [])),
        input_bytes=sum(file.stat().st_size for file in files),
        sha256={file.name: sha256(file) for file in files},
        tokenizer=tokenizer if tokenizer and tokenizer.is_file() else None,
        notes=tuple(notes),
        architecture=architecture,
    )


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


def _inferred_note(config: ModelConfig) -> str:
    tied = "tied" if config.tie_embeddings else "untied"
    mixer = config.layers[0].mixer
    sizes = ", ".join(f"{name} {getattr(mixer, name)}" for name in mixer.limits)
    return (
        f"configuration inferred from the shapes: d_model {config.d_model}, {config.n_layer} "
        f"layers, vocabulary {config.vocab_size}, {sizes}, {tied} embedding; "
        f"norm_eps is not in the shapes and taken as {config.norm_eps}"
    )


def _weight_files(folder: Path, notes: list[str]) -> dict[Path, set[str]]:
    """Weight file -> the tensors it must hold; empty where no index says."""
    present = [name for name in _WEIGHTS if (folder / name).exists()]
    if not present:
        raise BadInputError(
            f"{folder}: expected {_EXPECTED}; got config.json without weights. "
            "Put model.safetensors or pytorch_model.bin beside it."
        )
    if len(present) > 1:
        notes.append(f"weights read from {present[0]}; not used: {', '.join(present[1:])}")
    chosen = folder / present[0]
    return shard_files(chosen) if chosen.suffix == ".json" else {chosen: set()}


def _merge(files: Mapping[Path, set[str]], notes: list[str]) -> dict[str, torch.Tensor]:
    merged: dict[str, torch.Tensor] = {}
    for path, promised in files.items():
        tensors = _state_dict(read_weights(path), path, notes)
        if missing := sorted(promised - set(tensors)):
            raise BadInputError(
                f"{path}: {missing[0]}: expected this tensor here, the index says so; got none "
                f"({len(missing)} missing). Get the shard again."
            )
        if twice := sorted(set(tensors) & set(merged)):
            raise BadInputError(
                f"{path}: {twice[0]}: expected each tensor once; got it in two shards. "
                "Remove the shards that do not belong to the index."
            )
        merged.update(tensors)
    return merged


def _state_dict(value: dict[str, Any], path: Path, notes: list[str]) -> dict[str, torch.Tensor]:
    """The tensors by name, taken out of what training loops put around them."""
    for _ in range(3):
        key = next((key for key in _WRAPPERS if isinstance(value.get(key), dict)), None)
        if key is None:
            break
        others = ", ".join(str(other)[:40] for other in list(value)[:9] if other != key)
        notes.append(f"state dict found under {key!r}" + (f"; not used: {others}" * bool(others)))
        value = value[key]
    tensors = {key: item for key, item in value.items() if isinstance(item, torch.Tensor)}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        keys = ", ".join(str(key)[:40] for key in list(value)[:5]) or "nothing"
        raise BadInputError(
            f"{path}: expected tensors by name, or such a dict under "
            f"{', '.join(map(repr, _WRAPPERS))}; got {keys}. Save model.state_dict()."
        )
    if ignored := [str(key)[:40] for key in value if key not in tensors]:
        notes.append(f"not tensors, left out: {', '.join(ignored[:9])}")
    return tensors


def _canonical(
    tensors: Mapping[str, torch.Tensor], where: str, notes: list[str]
) -> dict[str, torch.Tensor]:
    """The tensors under their canonical names, without the prefixes that wrappers add.

    The name of the last norm shows what is before all names, and what is missing there:

        backbone.norm_f.weight               nothing to do
        module.backbone.norm_f.weight        'module.' goes
        norm_f.weight                        'backbone.' is put before all but the head
        model.norm_f.weight                  'model.' goes, and 'backbone.' comes
    """
    plain = {name: name.replace("_orig_mod.", "") for name in tensors}
    if any(name != new for name, new in plain.items()):
        notes.append("prefix '_orig_mod.' of torch.compile removed")
    ends = sorted({name for name in plain.values() if name.endswith("norm_f.weight")}, key=len)
    prefix, _, model = ends[0].rpartition("norm_f.weight") if ends else ("", "", "")
    base = not prefix.endswith("backbone.") and bool(model or ends)
    prefix = prefix.removesuffix("backbone.")
    if prefix:
        notes.append(f"prefix {prefix!r} removed")
    if base:
        notes.append("prefix 'backbone.' added: the file holds the model without its head")
    result: dict[str, torch.Tensor] = {}
    for name, new in plain.items():
        new = new.removeprefix(prefix)
        head = new == LM_HEAD or new.startswith(f"{HEAD}.")
        new = "backbone." + new if base and not head else new
        new = canonical(new)
        if new in result:
            raise BadInputError(
                f"{where}: {new}: expected one tensor of this name; got two, one as "
                f"{shown(name)}. Save the state dict of one model only."
            )
        result[new] = tensors[name]
    return result


def _check_storage(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse what must not be copied: a few bytes of file can claim to be terabytes of tensor."""
    stored: dict[int, int] = {}
    claimed = 0
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if tensor.dtype not in _FLOATS or not plain:
            kind = str(tensor.dtype if plain else tensor.layout).removeprefix("torch.")
            raise BadInputError(
                f"{where}: {name}: expected dense float16, bfloat16, float32 or float64 values; "
                f"got {kind}. Convert quantised or sparse weights to floats first."
            )
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        claimed += 0 if name == LM_HEAD else tensor.numel() * tensor.element_size()
    if claimed > sum(stored.values()):
        raise BadInputError(
            f"{where}: expected tensors with values of their own; got {claimed:,} bytes of tensors "
            f"that share {sum(stored.values()):,} bytes. Save contiguous copies of the tensors."
        )


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
