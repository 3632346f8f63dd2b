"""Which tensors of a model are packed matrices, in which format, and the packed model of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ssmpress.checkpoint.config import EMBEDDING, HEAD, LM_HEAD, PATCH_EMBEDDING, ModelConfig
from ssmpress.formats import Format, Structure, Values
from ssmpress.pack import matrix as compact
from ssmpress.pack.layouts import int4
from ssmpress.pack.model import PackedModel
from ssmpress.recipe.settings import PackSettings

SMALL_MATRICES = (f"{PATCH_EMBEDDING}.weight", f"{HEAD}.weight")
"""Ends of a classifier or forecaster: as fp16 at least. They are small, and int8 would round the
numbers that go in and come out."""


def small_format(values: Values) -> Format:
    """The format of SMALL_MATRICES in a bundle of these values."""
    return Format(Structure.DENSE, Values.FP16 if values in (Values.INT8, Values.INT4) else values)


def is_matrix(name: str) -> bool:
    """Whether a tensor is stored as a packed matrix: projections, embeddings and heads."""
    return name.endswith("_proj.weight") or name in (EMBEDDING, LM_HEAD, *SMALL_MATRICES)


def matrix_format(
    config: ModelConfig, name: str, shape: tuple[int, int], stored: int, settings: PackSettings,
    machine: str = "x86_64",
) -> tuple[Format, str]:  # fmt: skip
    """The format of a matrix with `stored` weights on a machine, and why."""
    if name in SMALL_MATRICES:
        return small_format(settings.values), "small, and next to the numbers"
    embedding = name == EMBEDDING
    scores_tokens = not config.outputs
    head = scores_tokens and name == (EMBEDDING if config.tie_embeddings else LM_HEAD)
    values = settings.head_values() if head else settings.values
    if values is Values.INT4 and shape[1] > int4.MAX_COLUMNS:
        values = Values.INT8
    if embedding:
        return Format(Structure.DENSE, values), "rows are read one by one"
    return compact.choose_format(*shape, stored, values, machine)


def pack_model(
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    settings: PackSettings | None,
    rounding: Mapping[str, Callable[[int4.Matrix], int4.Rounded]] | None = None,
    machine: str = "x86_64",
) -> PackedModel:
    """settings None: everything dense float32. rounding: of int4 matrices, by name; the others are
    rounded to the nearest. machine: that the formats are chosen for."""
    matrices, rest = {}, {}
    for name, tensor in tensors.items():
        array = tensor.numpy()
        if not is_matrix(name):
            rest[name] = array
            continue
        keep_mask = array != 0
        if settings is None:
            chosen, reason = Format(Structure.DENSE, Values.FP32), "the dense baseline"
        else:
            stored = int(keep_mask.sum())
            chosen, reason = matrix_format(config, name, array.shape, stored, settings, machine)
        round_int4 = (rounding or {}).get(name, int4.round_weights)
        matrices[name] = compact.pack(array, keep_mask, chosen, reason, round_int4)
    return PackedModel(config, rest, matrices)
