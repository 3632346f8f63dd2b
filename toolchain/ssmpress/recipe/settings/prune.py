"""Which weights go: saliency, scope, pattern and calibration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from ssmpress.recipe.option import (
    Option,
    Panel,
    at_least,
    between,
    check_settings,
    names_from,
    require,
)
from ssmpress.recipe.typed import ONE_PART, PART


class SparsityOf(StrEnum):
    """The denominator of `--sparsity`."""

    PRUNABLE = "prunable"
    MODEL = "model"


class Method(StrEnum):
    """Saliency of a weight; the lowest are pruned."""

    GRADIENT_MAGNITUDE = "gradient-magnitude"
    MAGNITUDE = "magnitude"
    WANDA = "wanda"
    SPARSEGPT = "sparsegpt"


class Scope(StrEnum):
    """The extent of one threshold: all prunable weights, or each matrix by itself.

    OWL is LAYER with more weights left to the layers that have more outliers.
    """

    GLOBAL = "global"
    LAYER = "layer"
    OWL = "owl"


MAX_SPARSITY = 0.99
"""Of the prunable weights: beyond it nothing is left to recover from."""

PROJECTIONS = ("projections",)
"""The word for all projections of a model's layers, whatever they are called there."""


@dataclass(frozen=True)
class PruneSettings:
    """Which weights go."""

    sparsity: Annotated[
        float,
        Option(
            "Part of the weights that becomes zero: 0.7, 70 or 70%. Several, such as 0.5,0.6,0.7, "
            "are run one after another and compared.",
            Panel.PRUNING,
            metavar="PART",
            check=between(0, MAX_SPARSITY),
            typed=PART,
            swept=True,
            always=True,
        ),
    ] = 0.7
    sparsity_of: Annotated[
        SparsityOf,
        Option(
            "What --sparsity is a part of: the prunable weights or the whole model.", Panel.PRUNING
        ),
    ] = SparsityOf.PRUNABLE
    method: Annotated[Method, Option("Which weights matter.", Panel.PRUNING)] = (
        Method.GRADIENT_MAGNITUDE
    )
    alpha: Annotated[
        float,
        Option(
            "Exponent of the gradient: |w| |dL/dw|^alpha.",
            Panel.PRUNING,
            metavar="NUMBER",
            check=between(0, 4),
        ),
    ] = 1.0
    scope: Annotated[
        Scope, Option("One threshold for the whole model, or one in each matrix.", Panel.PRUNING)
    ] = Scope.GLOBAL
    prunable: Annotated[
        tuple[str, ...],
        Option(
            "Components that may be pruned, separated by commas: all projections, or some by name, "
            "such as in_proj,out_proj; also embedding, lm_head. Parameters too, and patterns of "
            "either, such as encoder.*.weight.",
            Panel.PRUNING,
            metavar="NAME[,...]",
            typed=names_from((*PROJECTIONS, "embedding", "lm_head")),
        ),
    ] = PROJECTIONS
    pattern: Annotated[
        str,
        Option(
            "Which weights go together: each by itself, blocks of R rows x C columns, or all but "
            "n of every m columns.",
            Panel.PRUNING,
            metavar="unstructured|block RxC|n:m",
        ),
    ] = "unstructured"
    prune_state: Annotated[
        float,
        Option(
            "Part of the state of every Mamba layer that is removed before any weight is pruned: "
            "0.5, 50 or 50%. Smaller scans, states and matrices; --sparsity is then a part of what "
            "is left.",
            Panel.PRUNING,
            metavar="PART",
            check=between(0, MAX_SPARSITY),
            typed=ONE_PART,
        ),
    ] = 0.0
    matrix_limit: Annotated[
        float, Option("No matrix loses more than this part of its weights; from the sparsity to 1.")
    ] = 1.0
    calibration_batches: Annotated[
        int, Option("Batches that the gradients are averaged over.", check=at_least(1))
    ] = 16
    calibration_batch: Annotated[
        int, Option("Windows of a calibration batch.", check=at_least(1))
    ] = 2
    calibration_window: Annotated[
        int, Option("Tokens of a calibration window.", unit="tokens", check=at_least(1))
    ] = 512

    def __post_init__(self) -> None:
        check_settings(self)
        require(
            between(self.sparsity, 1).passes(self.matrix_limit),
            "matrix_limit",
            "from the sparsity to 1",
            self.matrix_limit,
        )
        require(
            len(set(self.prunable)) == len(self.prunable),
            "--prunable",
            "each name once",
            ", ".join(self.prunable),
        )
