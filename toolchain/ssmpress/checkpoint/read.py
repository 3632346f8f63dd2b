"""Checkpoints: every input layout -> ModelConfig + float32 tensors, and back.

Accepted are a folder in mamba-ssm's layout, a folder in Hugging Face's, and a bare state dict.
Nothing read is trusted: names, shapes, types and values are checked before they are used, and
what had to be guessed is said in `Checkpoint.notes`. Files are opened in weight_files.py, the
configuration and the expected shapes are in layouts.py.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ssmpress import folders
from ssmpress.checkpoint.architecture import ASSUMED, Architecture, configured
from ssmpress.checkpoint.config import (
    EMBEDDING,
    HEAD,
    LM_HEAD,
    ModelConfig,
    axis_size,
    config_json,
    infer_config,
    json_key,
    optional_field,
    parse_config,
    tensor_axes,
    tensor_shapes,
)
from ssmpress.checkpoint.weight_files import (
    read_json,
    read_weights,
    regular_file,
    shard_files,
)
from ssmpress.errors import BadInputError, UsageError
from ssmpress.files import blaming, copy, make_readable, replaced, sha256, write_text

__all__ = ["Checkpoint", "ModelConfig", "read_checkpoint", "tensor_shapes", "write_checkpoint"]

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
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NORM_BIAS = re.compile(r"\bnorm(_f)?\.bias$")
_HF_EMBEDDING = "backbone.embeddings.weight"
LAYOUTS = ("mamba-ssm", "huggingface")
"""Those that are written: weights in pytorch_model.bin, and in model.safetensors."""

_WRITTEN = {"config.json", "pytorch_model.bin", "model.safetensors", "tokenizer.json"}


@dataclass(frozen=True)
class Checkpoint:
    """A trained Mamba-1 model as it was read.

    Args:
        config: its sizes.
        tensors: float32, contiguous, finite, owning their memory, exactly the names and shapes
            of tensor_shapes(config).
        layout: "mamba-ssm", "huggingface", or "state-dict" (a bare file without config.json).
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
    """Read a trained Mamba-1 model.

    Args:
        path: a folder in mamba-ssm's or Hugging Face's layout, or a bare state dict. A config.json
            beside a bare state dict is used; without one the shapes tell the configuration.

    Returns:
        The checkpoint, complete and checked.

    Raises:
        BadInputError: a file is missing, damaged or hostile; the model is not Mamba-1; a tensor
            is missing, unknown, of a wrong shape or type, or not finite; the embedding is said to
            be tied and is not.
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
    config_file = _beside(path, "config.json")
    described, layout, architecture = None, "state-dict", ASSUMED
    if path.is_dir() or config_file is not None:
        config_file = config_file or path / "config.json"
        values = read_json(config_file, "a config.json beside the weights")
        described, layout = parse_config(values, config_file)
        architecture = configured(values)
        if not path.is_dir():
            notes.append(f"configuration read from {config_file}")
    files = _weight_files(path, notes) if path.is_dir() else {path: set[str]()}
    found = _canonical(_merge(files, notes), str(path), notes)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    config = described or infer_config(shapes, str(path))
    _check_shapes(shapes, config, layout, str(path))
    _check_storage(found, str(path))
    tensors = {name: _float32(name, found.pop(name)) for name in shapes}
    config = _settle_tie(tensors, config, layout, guessed=described is None)
    if described is None:
        notes.append(_inferred_note(config))
    tokenizer = _beside(path, "tokenizer.json")
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


def _beside(path: Path, name: str) -> Path | None:
    """The file of that name in the folder, or beside the file or beside what it is a link to."""
    folders = [path] if path.is_dir() else [path.parent, path.resolve().parent]
    files = (folder / name for folder in folders)
    return next((file for file in files if file.exists() or file.is_symlink()), None)


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
    if path.suffix == ".json" or re.search(r"-\d+-of-\d+\.", path.name):
        raise BadInputError(
            f"{path}: expected {_EXPECTED}; got one part of a checkpoint. "
            f"Give the folder: {path.parent}."
        )


def _inferred_note(config: ModelConfig) -> str:
    tied = "tied" if config.tie_embeddings else "untied"
    return (
        f"configuration inferred from the shapes: d_model {config.d_model}, {config.n_layer} "
        f"layers, vocabulary {config.vocab_size}, d_state {config.d_state}, d_conv "
        f"{config.d_conv}, d_inner {config.d_inner}, dt_rank {config.dt_rank}, {tied} embedding; "
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
    """The tensors under mamba-ssm's names, without the prefixes that wrappers add."""
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
        new = EMBEDDING if new == _HF_EMBEDDING else new
        if new in result:
            raise BadInputError(
                f"{where}: {new}: expected one tensor of this name; got two, one as "
                f"{_shown(name)}. Save the state dict of one model only."
            )
        result[new] = tensors[name]
    return result


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, layout: str, where: str
) -> None:
    """Compare names and shapes with the configuration; one error says the first difference."""
    guessed: ModelConfig | None = None
    language_model = config.is_language_model
    try:
        guessed = infer_config(shapes, where)
    except BadInputError:
        if layout == "state-dict" and language_model:
            raise
    if guessed and guessed.n_layer != config.n_layer:
        key = json_key("n_layer", layout)
        raise BadInputError(
            f"{where}: expected {config.n_layer} layers; got weights of {guessed.n_layer}. "
            f"Check {key} in config.json."
        )
    axes = tensor_axes(
        replace(config, tie_embeddings=LM_HEAD not in shapes and config.tie_embeddings)
    )
    problems = []
    for name in axes:
        expected = tuple(axis_size(config, axis) for axis in axes[name])
        if shapes.get(name) != expected:
            problems.append(_shape_problem(name, shapes.get(name), config, guessed, layout))
    problems += [_extra_problem(name, layout) for name in shapes if name not in axes]
    if problems:
        more = f" ({len(problems) - 1} more tensors differ.)" if len(problems) > 1 else ""
        raise BadInputError(f"{where}: {problems[0]}{more}")


def _shape_problem(
    name: str,
    got: tuple[int, ...] | None,
    config: ModelConfig,
    guessed: ModelConfig | None,
    layout: str,
) -> str:
    axes = tensor_axes(replace(config, tie_embeddings=False))[name]
    expected = tuple(axis_size(config, axis) for axis in axes)
    used = list(dict.fromkeys(field for axis in axes for field in axis if field != "1"))
    sizes = ", ".join(f"{field} {getattr(config, field)}" for field in used)
    text = f"{name}: expected {expected} for {sizes}; got {got or 'no such tensor'}. "
    if layout == "state-dict":
        return text + "The other tensors say so; the file is incomplete or no Mamba-1 model."
    flag = optional_field(name)
    if got is None:
        key = json_key(flag, layout) if flag else None
        return text + (f"Check {key} in config.json." if key else "The weights are incomplete.")
    if len(got) == len(expected):
        wrong = [axis for axis, a, b in zip(axes, expected, got, strict=True) if a != b]
        used = list(dict.fromkeys(field for axis in wrong for field in axis if field != "1"))
    if guessed:
        used = [f for f in used if getattr(guessed, f) != getattr(config, f)] or used
    keys = " and ".join(json_key(field, layout) for field in used)
    return text + f"Check {keys} in config.json."


def _shown(name: str) -> str:
    """A name from an untrusted file, fit for a message: short, no line breaks or escapes."""
    return ascii(name[:120])[1:-1]


def _extra_problem(name: str, layout: str) -> str:
    flag = optional_field(name)
    if flag and layout != "state-dict":
        key = json_key(flag, layout)
        return f"{_shown(name)}: expected no such tensor; got one. Check {key} in config.json."
    if _NORM_BIAS.search(name):
        return (
            f"{_shown(name)}: expected RMS norms, which have no bias; got a LayerNorm's. LayerNorm "
            "is not supported, and without its biases the model would be another one: use a "
            "checkpoint that was trained with rms_norm true."
        )
    return (
        f"{_shown(name)}: expected only the tensors of a Mamba-1 language model; got this one too. "
        "Attention, MLPs, Mamba-2 and other heads are not supported, and no tensor is left out: "
        "the rest would be another model. Use a Mamba-1 checkpoint."
    )


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


def _float32(name: str, tensor: torch.Tensor) -> torch.Tensor:
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


def _settle_tie(
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
    key = json_key("tie_embeddings", layout)
    raise BadInputError(
        f"{LM_HEAD}: expected the values of {EMBEDDING}, because config.json says {key} true; got "
        f"{different:,} that differ. Set {key} to false in config.json if the model was trained so."
    )


def write_checkpoint(
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    directory: Path,
    layout: str = "mamba-ssm",
    tokenizer: Path | None = None,
) -> None:
    """Write a checkpoint that its layout's own library, and read_checkpoint, load.

    The folder appears complete or not at all: it is written beside its place, synced and renamed.

    Args:
        config: the model's sizes.
        tensors: the names and shapes of tensor_shapes(config); stored as float32.
        directory: a new folder, an empty one, or one that holds an earlier checkpoint only.
        layout: "mamba-ssm" (pytorch_model.bin) or "huggingface" (model.safetensors).
        tokenizer: a tokenizer.json to copy along.

    Raises:
        BadInputError: the tensors do not fit the configuration, the layout cannot express it, or
            the folder holds other files. WriteError: it cannot be written.
        UsageError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout: expected mamba-ssm or huggingface; got {layout!r}.")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _check_shapes(shapes, config, "state-dict", "tensors to write")
    content = json.dumps(config_json(config, layout), indent=2) + "\n"
    weights = {name: _float32(name, tensor) for name, tensor in tensors.items()}
    _settle_tie(weights, config, layout, guessed=False)
    directory = Path(directory)
    check_target(directory)
    with folders.replaced(directory, partial(check_target, directory)) as new:
        write_text(new / "config.json", content)
        if tokenizer is not None:
            copy(regular_file(tokenizer, "a tokenizer"), new / "tokenizer.json")
        _write_weights(weights, config, new, layout)


def check_target(directory: Path) -> None:
    """Whether `write_checkpoint` may write there.

    Raises:
        BadInputError: it holds other files, or cannot be written.
    """
    if not directory.exists():
        if why := folders.obstacle(directory.parent):
            raise BadInputError(
                f"{directory}: cannot be written: {why}. Check the folder's permissions, or give "
                "another one."
            )
        return
    found = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else ["a file"]
    if others := [name for name in found if name not in _WRITTEN]:
        raise BadInputError(
            f"{directory}: expected a new folder or an earlier checkpoint; got {others[0]} there. "
            "Give another folder."
        )


def _write_weights(
    weights: dict[str, torch.Tensor], config: ModelConfig, folder: Path, layout: str
) -> None:
    if layout == "mamba-ssm":
        if config.tie_embeddings:  # its load_state_dict is strict; the storage is shared
            weights = {**weights, LM_HEAD: weights[EMBEDDING]}
        path = folder / "pytorch_model.bin"
        with blaming(path, RuntimeError), replaced(path) as file:
            torch.save(weights, file)
        return
    renamed = {_HF_EMBEDDING if name == EMBEDDING else name: w for name, w in weights.items()}
    path = folder / "model.safetensors"
    with blaming(path), _disk_errors():
        save_file(renamed, path, metadata={"format": "pt"})
        make_readable(path)  # the library's own is 0600


@contextmanager
def _disk_errors() -> Iterator[None]:
    """safetensors says the system's error in words alone: `I/O error: ... (os error 28)`."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
