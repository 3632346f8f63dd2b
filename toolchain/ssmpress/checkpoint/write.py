"""Writing checkpoints, in every dialect that can say the model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ssmpress import folders
from ssmpress.blocks.config import ModelConfig
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.read import float32, settle_tie
from ssmpress.checkpoint.shapes import check_shapes
from ssmpress.checkpoint.weight_files import regular_file
from ssmpress.errors import BadInputError
from ssmpress.files import blaming, copy, make_readable, replaced, write_json, write_text

_GENERATION = "generation_config.json"
_WRITTEN = {
    "config.json",
    _GENERATION,
    "tokenizer.json",
    *(dialect.WEIGHTS for dialect in dialects.DIALECTS),
}


def write_checkpoint(
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    directory: Path,
    layout: str = "mamba-ssm",
    tokenizer: Path | None = None,
    end_tokens: Sequence[int] = (),
) -> None:
    """Write a checkpoint that its layout's own library, and read_checkpoint, load.

    The folder appears complete or not at all: it is written beside its place, synced and renamed.

    Args:
        config: the model's sizes.
        tensors: the names and shapes of tensor_shapes(config); stored as float32.
        directory: a new folder, an empty one, or one that holds an earlier checkpoint only.
        layout: name of a dialect: "mamba-ssm" (pytorch_model.bin) or "huggingface"
            (model.safetensors).
        tokenizer: a tokenizer.json to copy along.
        end_tokens: after which a text is over, for generation_config.json; mamba-ssm's own
            config.json has no key for them.

    Raises:
        BadInputError: the tensors do not fit the configuration, the layout cannot express it, or
            the folder holds other files. WriteError: it cannot be written.
        UsageError: an unknown layout.
    """
    dialect = dialects.named(layout)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_shapes(shapes, config, dialects.STATE_DICT, "tensors to write")
    content = json.dumps(dialects.config_json(config, layout), indent=2) + "\n"
    weights = {name: float32(name, tensor) for name, tensor in tensors.items()}
    settle_tie(weights, config, layout, guessed=False)
    directory = Path(directory)
    check_target(directory)
    with folders.replaced(directory, partial(check_target, directory)) as new:
        write_text(new / "config.json", content)
        if end_tokens:
            write_json(new / _GENERATION, {"eos_token_id": list(end_tokens)})
        if tokenizer is not None:
            copy(regular_file(tokenizer, "a tokenizer"), new / "tokenizer.json")
        _write_weights(dialect.spelled(weights, config), new / dialect.WEIGHTS)


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


def _write_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write safetensors or PyTorch's own format, by the file's name."""
    if path.suffix == ".bin":
        with blaming(path, RuntimeError), replaced(path) as file:
            torch.save(weights, file)
        return
    with blaming(path), _disk_errors():
        save_file(weights, path, metadata={"format": "pt"})
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
