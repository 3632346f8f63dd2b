"""LoRA pairs that were saved beside the weights that they change: merged.

    W = W + s B A,  s = alpha / rank, or alpha / sqrt(rank) with `use_rslora`

An embedding's pair is transposed: W + s (B A)ᵀ. Names are PEFT's, which puts the changed module
into `base_layer`, and those of loralib, which has the pair beside the weight.

Source: Hu et al., arXiv 2106.09685, section 4.1; rank-stabilised: arXiv 2312.03732.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ssmpress.checkpoint.foreign import MERGE_ADAPTER
from ssmpress.checkpoint.names import printable
from ssmpress.checkpoint.weight_files import read_json
from ssmpress.errors import BadInputError

_PAIR = re.compile(
    r"^(?P<module>.*?)\.?lora_(?P<embedding>embedding_)?(?P<side>[AB])"
    r"(\.(?!weight$)(?P<adapter>[^.]+))?(\.weight)?$"
)
_ALPHA = re.compile(r"^(?P<module>.+)\.(lora_)?alpha$")
_SAVED = re.compile(r"\.(modules_to_save\.[^.]+|original_module)\.")
_OTHER_KINDS = re.compile(r"lora_magnitude_vector|vera_|hada_w|lokr_|oft_|ia3_|boft_")


@dataclass(frozen=True)
class Scale:
    """What the pairs are multiplied with. alpha: None where nothing says it.

    source: what says so. stabilised: by the square root of the rank. by_module: other alphas.
    """

    alpha: float | None = None
    source: str = ""
    stabilised: bool = False
    by_module: Mapping[str, float] = field(default_factory=dict)

    def of(self, module: str, stored: float | None) -> float | None:
        """alpha of a module. stored: what lies beside its pair."""
        own = [a for name, a in self.by_module.items() if f".{module}".endswith(f".{name}")]
        return stored if stored is not None else own[0] if own else self.alpha


def read_scale(adapter: Path | None, stored: float | None, where: str) -> Scale:
    """The scale of a checkpoint's pairs.

    Args:
        adapter: adapter_config.json beside the weights. stored: lora_alpha in the file itself.

    Raises:
        BadInputError: the file cannot be read, or says what no pair of matrices is.
    """
    if adapter is None:
        return Scale(stored, f"lora_alpha in {where}")
    values = read_json(adapter, "PEFT's adapter_config.json")
    alpha, patterns = values.get("lora_alpha"), values.get("alpha_pattern") or {}
    if not _number(alpha):
        raise BadInputError(
            f"{adapter}: lora_alpha: expected a number; got {str(alpha)[:40]!r}. Take the file "
            "that training wrote."
        )
    plain = isinstance(patterns, dict) and all(
        re.fullmatch(r"[\w.]+", name) and _number(value) for name, value in patterns.items()
    )
    kind = str(values.get("peft_type", "LORA"))[:40]
    if not plain or values.get("use_dora") or kind != "LORA" or values.get("fan_in_fan_out"):
        raise BadInputError(
            f"{adapter}: expected plain LoRA; got {printable(kind)} with use_dora, fan_in_fan_out "
            f"or patterns in alpha_pattern. {MERGE_ADAPTER}."
        )
    assert isinstance(alpha, int | float)
    return Scale(float(alpha), str(adapter), bool(values.get("use_rslora")), patterns)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def has_pairs(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is anything to merge."""
    return any(_PAIR.match(name) or _OTHER_KINDS.search(name) for name in tensors)


def merge(
    tensors: Mapping[str, Tensor], scale: Scale, where: str, notes: list[str]
) -> dict[str, Tensor]:
    """The tensors with every pair added to the weight that it changes, under the weight's name.

    Raises:
        BadInputError: alpha is unknown, the weight is not there, several adapters are, or they are
            of another kind.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    adapters: set[str] = set()
    merged: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _OTHER_KINDS.search(name):
            raise BadInputError(
                f"{where}: {printable(name)}: expected weights or plain LoRA pairs; got another "
                f"kind of adapter. {MERGE_ADAPTER}."
            )
        pair, alpha = _PAIR.match(name), _ALPHA.match(name)
        if pair:
            side = (pair["embedding"] or "") + pair["side"]
            pairs.setdefault(pair["module"], {})[side] = tensor
            adapters.add(pair["adapter"] or "")
        elif alpha and tensor.numel() == 1:
            alphas[alpha["module"].removesuffix(".lora")] = float(tensor)
        else:
            merged[name] = tensor
    if len(adapters) > 1:
        raise BadInputError(
            f"{where}: expected one LoRA adapter; got {', '.join(map(printable, sorted(adapters)))}"
            f". {MERGE_ADAPTER}."
        )
    merged = _plain_names(merged)
    ranks, used = set[int](), set[float]()
    for module, sides in pairs.items():
        alpha_of = scale.of(module, alphas.get(module))
        if alpha_of is None:
            raise BadInputError(
                f"{where}: {printable(module)}.lora_A: expected lora_alpha, by which LoRA's "
                "matrices are scaled; there is no adapter_config.json beside the weights, and "
                "nothing in the file says it. Put the adapter_config.json that training wrote "
                f"there, or merge before. {MERGE_ADAPTER}."
            )
        rank = _add(merged, module, sides, alpha_of, scale.stabilised, where)
        ranks.add(rank)
        used.add(alpha_of)
    notes.append(
        f"LoRA: {len(pairs)} pairs of rank {_listed(ranks)} merged with alpha {_listed(used)} of "
        + (scale.source if not alphas else f"{where}")
    )
    return merged


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without PEFT's modules around the changed ones; if saved whole, the trained copy."""
    saved = {_SAVED.sub(".", n): t for n, t in tensors.items() if ".modules_to_save." in n}
    plain = {_SAVED.sub(".", n).replace(".base_layer.", "."): t for n, t in tensors.items()}
    return plain | saved


def _add(
    merged: dict[str, Tensor],
    module: str,
    sides: Mapping[str, Tensor],
    alpha: float,
    stabilised: bool,
    where: str,
) -> int:
    """Add a pair to its weight; returns its rank."""
    embedding = "embedding_A" in sides
    first, second = (sides.get(("embedding_" if embedding else "") + side) for side in "AB")
    name = f"{module}.weight" if module else "weight"
    weight = merged.get(name)
    if first is None or second is None or weight is None:
        lacks = "its weight" if weight is None else "both matrices of the pair"
        raise BadInputError(
            f"{where}: {printable(module)}: expected {lacks} beside LoRA's matrices; got none. "
            f"{MERGE_ADAPTER}."
        )
    rank = first.shape[0]
    wanted = weight.shape if not embedding else weight.shape[::-1]
    matrices = first.dim() == second.dim() == weight.dim() == 2
    if not matrices or (second.shape[0], first.shape[1]) != wanted or second.shape[1] != rank:
        raise BadInputError(
            f"{where}: {printable(name)}: expected a pair of matrices whose product is "
            f"{tuple(wanted)}; got {tuple(second.shape)} and {tuple(first.shape)}. {MERGE_ADAPTER}."
        )
    change = second.float() @ first.float()
    factor = alpha / (rank**0.5 if stabilised else rank)
    merged[name] = weight.float() + factor * (change.T if embedding else change)
    return rank


def _listed(numbers: set[int] | set[float]) -> str:
    return ", ".join(f"{number:g}" for number in sorted(numbers))
