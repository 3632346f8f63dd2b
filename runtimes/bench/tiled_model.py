"""The model under test: the shape of Mamba-130M, tiled up from a really pruned smaller model.

    PYTHONPATH=toolchain python runtimes/bench/tiled_model.py --dense ../shared/models/mamba-31m \\
        --pruned ../shared/models/mamba-31m-70 --sparsity 0.7 --out build/bench/models/0.7

No pruned model of this shape is at hand, and random masks would be the wrong ones: those of a
trained model are clustered (rows from empty to 70 % kept), which decides how well they pack. So
masks and values are copied in large pieces:

- Layer i takes the source's layer i * source layers / layers, so early layers stay early.
- Rows beyond the source's come from the layer after it, so that no two rows of a matrix are equal
  (equal rows would pack better than real ones do). Halves of in_proj and the three parts of x_proj
  are extended each by itself.
- Columns beyond the source's repeat the row from its first column on: a full row stays full.
- Values are multiplied by source columns / columns, which keeps the sums as large as they were.
- What the copying leaves of a difference to the wanted sparsity is corrected exactly: the smallest
  kept weights go, or the dense model's largest pruned weights come back. Both also make other
  sparsities from the same masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.tensors import number_of_layer, tensor_specs, weights_of
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import UsageError
from ssmpress.prune.mask import keep_masks, prunable_names
from ssmpress.recipe.settings.prune import PROJECTIONS

_LAYER_130M = LayerConfig(mixer=Mamba1Config(d_state=16, d_conv=4, d_inner=1536, dt_rank=48))
MAMBA_130M = ModelConfig(d_model=768, vocab_size=50280, layers=(_LAYER_130M,) * 24)
"""state-spaces/mamba-130m: the embedding is tied."""


def tile(
    source: ModelConfig, tensors: Mapping[str, Tensor], target: ModelConfig
) -> dict[str, Tensor]:
    """The tensors of `target`'s shapes, copied in pieces from those of `source`.

    Raises:
        UsageError: d_state or d_conv differ, or one of the two models is not tied: those parts
            cannot be tiled.
    """
    for key in ("d_state", "d_conv", "tie_embeddings"):
        have, want = (getattr(c, key, None) or _of_mixer(c, key) for c in (source, target))
        if have != want:
            raise UsageError(
                f"tiled model: expected {key} {want}; the source has {have}. Give a source with "
                f"the same {key}."
            )
    result, specs = {}, tensor_specs(source)
    for name, spec in tensor_specs(target).items():
        layer = number_of_layer(name)
        there = _in_layer(name, layer, source, target, 0)
        first = second = tensors[there]
        if layer is not None:
            second = tensors[_in_layer(name, layer, source, target, 1)]
        # The parts that the rows consist of, such as the two halves of in_proj.
        parts = (tuple(map(one.size, one.axes[0])) for one in (specs[there], spec))
        result[name] = _tile(first, second, spec.shape, *parts)
    return result


def _of_mixer(config: ModelConfig, key: str) -> Any:
    return getattr(config.layers[0].mixer, key, False)


def _in_layer(
    name: str, layer: int | None, source: ModelConfig, target: ModelConfig, after: int
) -> str:
    if layer is None:
        return name
    number = (layer * source.n_layer // target.n_layer + after) % source.n_layer
    return name.replace(f".{layer}.", f".{number}.", 1)


def _tile(
    first: Tensor,
    second: Tensor,
    shape: tuple[int, ...],
    source: tuple[int, ...],
    target: tuple[int, ...],
) -> Tensor:
    """First and second: two source tensors of one shape. source, target: blocks of rows."""
    parts = []
    for a, b, size in zip(first.split(source), second.split(source), target, strict=True):
        rows = torch.cat([a, b])
        parts.append(rows[torch.arange(size) % len(rows)])
    tall = torch.cat(parts)
    if len(shape) != 2 or first.shape[1] == shape[1]:
        return tall.contiguous()
    columns = first.shape[1]
    return tall[:, torch.arange(shape[1]) % columns] * (columns / shape[1])


def with_sparsity(
    config: ModelConfig, pruned: Mapping[str, Tensor], dense: Mapping[str, Tensor], sparsity: float
) -> dict[str, Tensor]:
    """The pruned tensors with exactly round(sparsity * projections' weights) zeros in them.

    Too few: the smallest kept weights become zero. Too many: the largest of the dense model's
    weights come back where the mask is False.
    """
    names = prunable_names(weights_of(config), PROJECTIONS)
    top = max(float(dense[name].abs().max()) for name in names)
    scores = {
        name: torch.where(pruned[name] != 0, pruned[name].abs() + 2 * top, dense[name].abs())
        for name in names
    }
    keep = keep_masks(scores, sparsity)
    result = dict(pruned)
    for name in names:
        filled = torch.where(pruned[name] != 0, pruned[name], dense[name])
        result[name] = torch.where(keep[name], filled, torch.zeros(()))
    return result


def build(dense: Path, pruned: Path, sparsity: float, out: Path) -> None:
    """Write the tiled checkpoint to `out`; sparsity 0 is the dense model's weights."""
    source = read_checkpoint(dense)
    tensors = tile(source.config, source.tensors, MAMBA_130M)
    if sparsity > 0:
        small = read_checkpoint(pruned)
        tensors = with_sparsity(
            MAMBA_130M, tile(small.config, small.tensors, MAMBA_130M), tensors, sparsity
        )
    write_checkpoint(MAMBA_130M, tensors, out)


def main() -> None:
    """Build one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--pruned", type=Path, required=True)
    parser.add_argument("--sparsity", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    build(arguments.dense, arguments.pruned, arguments.sparsity, arguments.out)


if __name__ == "__main__":
    main()
