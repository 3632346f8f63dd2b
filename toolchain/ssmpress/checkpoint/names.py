"""Names of tensors: without what wrappers put around them, and in the canonical spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from ssmpress.blocks.tensors import HEAD, LM_HEAD
from ssmpress.checkpoint.dialects import canonical
from ssmpress.errors import BadInputError

_T = TypeVar("_T")

_WRAPPERS: Mapping[str, str] = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_forward_module.": "Lightning Fabric",
}
"""Parts of a name that a wrapper puts before any module's, and whose they are."""

_NO_PART = re.compile(r"(criterion|loss|loss_fn|metrics?|(train|val|valid|test)_\w+)\.")
"""Modules that a trainer keeps beside the model, such as the class weights of its loss."""


def printable(name: str) -> str:
    """A name from an untrusted file, fit for a message: short, no line breaks or escapes."""
    return ascii(name[:120])[1:-1]


def without_wrappers(tensors: Mapping[str, _T], where: str, notes: list[str]) -> dict[str, _T]:
    """The tensors under the names that they have in the module itself.

    Raises:
        BadInputError: two become one, or FSDP has put the parameters of many into one.
    """
    if flat := next((name for name in tensors if re.search(r"(^|\.)_flat_param", name)), None):
        raise BadInputError(
            f"{where}: {printable(flat)}: expected the model's own tensors; got FSDP's flat ones. "
            "Save them whole: with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT): "
            "torch.save(model.state_dict(), 'weights.pt')."
        )
    for part, owner in _WRAPPERS.items():
        if any(part in name for name in tensors):
            tensors = _renamed(tensors, {n: n.replace(part, "") for n in tensors}, where)
            notes.append(f"prefix {part!r} of {owner} removed")
    return dict(tensors)


def canonical_names(tensors: Mapping[str, _T], where: str, notes: list[str]) -> dict[str, _T]:
    """The tensors under their canonical names, without the prefixes that wrappers add.

    The name of the last norm shows what is before all names, and what is missing there:

        backbone.norm_f.weight               nothing to do
        module.backbone.norm_f.weight        'module.' goes
        norm_f.weight                        'backbone.' is put before all but the head
        model.norm_f.weight                  'model.' goes, and 'backbone.' comes

    mamba.py has the layers, and only those, in a module `mamba` beside the last norm.

    Raises:
        BadInputError: two become one.
    """
    ends = sorted({name for name in tensors if name.endswith("norm_f.weight")}, key=len)
    prefix, _, model = ends[0].rpartition("norm_f.weight") if ends else ("", "", "")
    base = not prefix.endswith("backbone.") and bool(model or ends)
    prefix = prefix.removesuffix("backbone.")
    if prefix:
        notes.append(f"prefix {prefix!r} removed")
    mamba_py = base and any(name.startswith(f"{prefix}mamba.layers.") for name in tensors)
    if mamba_py:
        notes.append("prefix 'mamba.' of mamba.py's layers removed")
    elif base:
        notes.append("prefix 'backbone.' added: the file holds the model without its head")
    outside = {n: None for n in tensors if not n.startswith(prefix) and _NO_PART.match(n)}
    if outside:
        notes.append(
            f"no part of the model, left out: {', '.join(map(printable, list(outside)[:5]))}"
        )
    tensors = {name: tensor for name, tensor in tensors.items() if name not in outside}
    new_names: dict[str, str] = {}
    for name in tensors:
        new = name.removeprefix(prefix)
        new = new.removeprefix("mamba.") if mamba_py else new
        head = new == LM_HEAD or new.startswith(f"{HEAD}.")
        new_names[name] = canonical("backbone." + new if base and not head else new)
    return _renamed(tensors, new_names, where)


def _renamed(tensors: Mapping[str, _T], new_names: Mapping[str, str], where: str) -> dict[str, _T]:
    result: dict[str, _T] = {}
    for name, tensor in tensors.items():
        new = new_names[name]
        if new in result:
            raise BadInputError(
                f"{where}: {printable(new)}: expected one tensor of this name; got two, one as "
                f"{printable(name)}. Save the state dict of one model only."
            )
        result[new] = tensor
    return result
