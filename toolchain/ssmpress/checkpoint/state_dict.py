"""Weight files -> tensors by the names that the module has: one model, whole weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssmpress.checkpoint import foreign, lora
from ssmpress.checkpoint.contents import choose_tensors, find_number
from ssmpress.checkpoint.fold import fold, without_counters
from ssmpress.checkpoint.names import printable, without_wrappers
from ssmpress.checkpoint.pickle_values import StandIn, StoredTensor
from ssmpress.checkpoint.weight_files import read_shapes, read_weights
from ssmpress.errors import BadInputError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_state_dict(
    files: Mapping[Path, set[str]],
    where: str,
    notes: list[str],
    *,
    weights_of: str | None = None,
    adapter: Path | None = None,
) -> dict[str, Tensor]:
    """The tensors of a model, whatever lies around them in its files.

    Args:
        files: weight file -> names that it must hold; empty where no index says.
        where: the checkpoint, for messages.
        notes: gets a sentence about everything that was unwrapped, put together or left out.
        weights_of: which of several models in one file.
        adapter: adapter_config.json beside the weights.

    Returns:
        Dense floating-point tensors on the CPU; they may be maps of a file.

    Raises:
        BadInputError: a file is missing, damaged or hostile; the weights are of several models or
            quantised, or in parts that cannot be put together.
        UsageError: there is no model of the name `weights_of`.
    """
    stored, alpha = _gather(files, read_weights, notes, weights_of)
    stored = without_wrappers(stored, where, notes)
    foreign.check_quantised(stored, where)
    tensors = {name: loaded(name, value, where) for name, value in stored.items()}
    stored.clear()
    tensors = without_counters(tensors, notes)
    check_dense(tensors, where)
    tensors = fold(tensors, where, notes)
    if not lora.has_pairs(tensors):
        return tensors
    return lora.merge(tensors, lora.read_scale(adapter, alpha, where), where, notes)


def read_state_shapes(
    files: Mapping[Path, set[str]], where: str, *, weights_of: str | None = None
) -> dict[str, Tensor]:
    """Tensors as they are stored, without values (on torch's device `meta`): parts are not put
    together.

    Raises:
        BadInputError, UsageError: as `read_state_dict`, but what only the values could show.
    """
    stored, _ = _gather(files, read_shapes, [], weights_of)
    stored = without_wrappers(stored, where, [])
    foreign.check_quantised(stored, where)
    shapes = {name: getattr(value, "shape", ()) for name, value in stored.items()}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _gather(
    files: Mapping[Path, set[str]],
    read: Callable[[Path], Any],
    notes: list[str],
    weights_of: str | None,
) -> tuple[dict[str, Any], float | None]:
    """The stored tensors of all files, and lora_alpha if one of them says it."""
    merged: dict[str, Any] = {}
    alpha: float | None = None
    for path, promised in files.items():
        value = read(path)
        tensors = choose_tensors(value, path, notes, weights_of)
        alpha = find_number(value, "lora_alpha") if alpha is None else alpha
        if missing := sorted(promised - set(tensors)):
            raise BadInputError(
                f"{path}: {printable(missing[0])}: expected this tensor here, the index says so; "
                f"got none ({len(missing)} missing). Get the shard again."
            )
        if twice := sorted(set(tensors) & set(merged)):
            raise BadInputError(
                f"{path}: {printable(twice[0])}: expected each tensor once; got it in two shards. "
                "Remove the shards that do not belong to the index."
            )
        merged.update(tensors)
    return merged, alpha


def loaded(name: str, value: Any, where: str) -> Tensor:
    """A tensor as it is stored.

    Raises:
        BadInputError: it is an array of NumPy, or of a class that rounds its values.
    """
    if isinstance(value, StandIn):
        arrays = "numpy" in value.name
        way = (
            "Save tensors: torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, "
            "'weights.pt')."
            if arrays
            else "Save plain tensors: torch.save({k: v.to(torch.float32) for k, v in "
            "model.state_dict().items()}, 'weights.pt')."
        )
        raise BadInputError(
            f"{where}: {printable(name)}: expected a dense tensor of PyTorch; got "
            f"{'an array of NumPy' if arrays else printable(value.name)}. {way}"
        )
    return value.load() if isinstance(value, StoredTensor) else value


def check_dense(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse what must not be copied: a few bytes of file can claim to be terabytes of tensor."""
    stored: dict[int, int] = {}
    claimed = 0
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        mask = name.endswith("mask") and tensor.dtype in (torch.bool, torch.uint8)
        if not plain or not (tensor.dtype in _FLOATS or mask):
            kind = str(tensor.dtype if plain else tensor.layout).removeprefix("torch.")
            raise BadInputError(
                f"{where}: {printable(name)}: expected dense float16, bfloat16, float32 or float64 "
                f"values; got {kind}. Convert quantised or sparse weights to floats first."
            )
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        head = name.endswith("lm_head.weight")
        claimed += 0 if head else tensor.numel() * tensor.element_size()
    if claimed > sum(stored.values()):
        raise BadInputError(
            f"{where}: expected tensors with values of their own; got {claimed:,} bytes of tensors "
            f"that share {sum(stored.values()):,} bytes. Save contiguous copies of the tensors."
        )
