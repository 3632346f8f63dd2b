"""Weights that are kept in parts, put together: masks, weight norm, spectral norm.

A module that computes its weight from parts (torch.nn.utils) saves the parts. Each rule here is
that module's own formula in evaluation mode, in float32:

    weight_orig, weight_mask                             torch.nn.utils.prune
        W = orig * mask
    parametrizations.weight.original, ...weight.0.mask   torch.ao.pruning
        W = original * mask
    weight_g, weight_v                                   weight_norm, old and, as
    parametrizations.weight.original0, original1         parametrization, new
        W = g v / ||v||, the norm over all axes on which g is 1
    weight_orig, weight_u, weight_v                      spectral_norm, old and, as
    parametrizations.weight.original, ...0._u, ...0._v   parametrization, new
        W = orig / (u . orig v), orig as a matrix with the first axis as rows
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ssmpress.checkpoint.names import printable
from ssmpress.errors import BadInputError

_PARAMETRIZED = re.compile(r"^(.*?)parametrizations\.([^.]+)\.(.+)$")
_COUNTERS = re.compile(
    r"(^|\.)(num_batches_tracked|n_averaged|num_updates|position_ids|initted|step|_extra_state)$"
)


def without_counters(tensors: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """The tensors less those that only count: one integer, or known by its name as a counter."""
    kept = {name: tensor for name, tensor in tensors.items() if not _counts(name, tensor)}
    if dropped := [printable(name) for name in tensors if name not in kept]:
        more = f" and {len(dropped) - 3} more" if len(dropped) > 3 else ""
        notes.append(f"counters, left out: {', '.join(dropped[:3])}{more}")
    return kept


def _counts(name: str, tensor: Tensor) -> bool:
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    return whole and (tensor.numel() == 1 or bool(_COUNTERS.search(name)))


def fold(tensors: Mapping[str, Tensor], where: str, notes: list[str]) -> dict[str, Tensor]:
    """The tensors with every weight in one piece.

    Raises:
        BadInputError: the parts do not fit one another, or are of a formula that the file does not
            tell.
    """
    folded = dict(tensors)
    _fold_masks(folded, where, notes)
    _fold_norms(folded, where, notes)
    if left := next((name for name in folded if _PARAMETRIZED.match(name)), None):
        raise BadInputError(
            f"{where}: {printable(left)}: expected weights, or parts of weight_norm, spectral_norm "
            "or pruning; got another parametrization, whose formula no file tells. Put it together "
            "where it comes from: torch.nn.utils.parametrize.remove_parametrizations(module, "
            "'weight'), then torch.save(model.state_dict(), 'weights.pt')."
        )
    return folded


def _fold_masks(folded: dict[str, Tensor], where: str, notes: list[str]) -> None:
    zeros = total = count = 0
    for name in [name for name in folded if name.endswith(("_mask", ".0.mask"))]:
        if name.endswith(".0.mask"):
            original = name.removesuffix(".0.mask") + ".original"
            whole = name.replace("parametrizations.", "").removesuffix(".0.mask")
        else:
            whole = name.removesuffix("_mask")
            original = whole + "_orig"
        if original not in folded:
            continue
        mask, weight = folded.pop(name), folded.pop(original)
        if mask.shape != weight.shape or not bool(((mask == 0) | (mask == 1)).all()):
            raise BadInputError(
                f"{where}: {printable(name)}: expected zeros and ones of the shape "
                f"{tuple(weight.shape)}; got a tensor {tuple(mask.shape)} of other values. The "
                "file is damaged, or the mask is another one's."
            )
        kept = mask != 0
        folded[whole] = torch.where(kept, weight.float(), 0.0)
        zeros, total, count = zeros + int((~kept).sum()), total + kept.numel(), count + 1
    if count:
        notes.append(
            f"pruned already: {count} masks applied, which make {zeros / total:.1%} of their "
            "weights zero; these stay zero, and count in --sparsity"
        )


def _fold_norms(folded: dict[str, Tensor], where: str, notes: list[str]) -> None:
    weights, spectral = 0, 0
    for name in list(folded):
        if whole := _whole(name, "_g", "original0"):
            length = folded[name]
            direction = _other(folded, whole, name, ("_v", "original1"))
            if direction is None:
                continue
            del folded[name]
            folded[whole] = _normed(length, direction, f"{where}: {printable(whole)}")
            weights += 1
        elif whole := _whole(name, "_orig", "original"):
            u = _other(folded, whole, name, ("_u", "0._u"))
            v = _other(folded, whole, name, ("_v", "0._v"))
            if u is None or v is None:
                continue
            folded[whole] = _spectral(folded.pop(name), u, v, f"{where}: {printable(whole)}")
            spectral += 1
    if weights:
        notes.append(f"weight_norm: {weights} weights put together from length and direction")
    if spectral:
        notes.append(f"spectral_norm: {spectral} weights divided by their norm")


def _whole(name: str, suffix: str, part: str) -> str | None:
    """Name of the weight that a part is of: `weight_g`, `parametrizations.weight.original0`."""
    found = _PARAMETRIZED.match(name)
    if found:
        return found[1] + found[2] if found[3] == part else None
    return name.removesuffix(suffix) if name.endswith(suffix) and name != suffix else None


def _other(
    folded: dict[str, Tensor], whole: str, name: str, parts: tuple[str, str]
) -> Tensor | None:
    """Take another part of the same weight out; None where there is none."""
    if "parametrizations." in name:
        return folded.pop(name.rpartition(".")[0] + "." + parts[1], None)
    return folded.pop(whole + parts[0], None)


def _normed(length: Tensor, direction: Tensor, where: str) -> Tensor:
    g, v = length.float(), direction.float()
    axes = [axis for axis in range(v.dim()) if g.dim() != v.dim() or g.shape[axis] == 1]
    fits = g.numel() == 1 or (
        g.dim() == v.dim() and all(a in (1, b) for a, b in zip(g.shape, v.shape, strict=True))
    )
    if not fits:
        raise BadInputError(
            f"{where}: expected lengths of the rows or columns of {tuple(v.shape)}; got "
            f"{tuple(g.shape)}. The file is damaged."
        )
    lengths = torch.linalg.vector_norm(v, dim=axes, keepdim=True) if axes else v.abs()
    return v * (g.reshape(lengths.shape if g.numel() == 1 else g.shape) / lengths)


def _spectral(weight: Tensor, u: Tensor, v: Tensor, where: str) -> Tensor:
    rows = weight.float().flatten(1)
    if u.shape != rows.shape[:1] or v.shape != rows.shape[1:]:
        raise BadInputError(
            f"{where}: expected singular vectors of a matrix {tuple(rows.shape)}; got "
            f"{tuple(u.shape)} and {tuple(v.shape)}. spectral_norm along another axis than the "
            "first is not read: remove it where the model comes from, with "
            "torch.nn.utils.remove_spectral_norm."
        )
    return weight.float() / torch.dot(u.float(), rows @ v.float())
