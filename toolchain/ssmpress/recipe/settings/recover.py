"""How recovery trains, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from ssmpress.recipe.option import (
    Check,
    Option,
    Panel,
    at_least,
    between,
    check_settings,
    require,
)
from ssmpress.recipe.typed import RECOVERY_STEPS


class Compute(StrEnum):
    """The processor of calibration and recovery; `AUTO` is a GPU if there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


CPU_SECONDS = 600.0
"""Most seconds of a recovery on a CPU, where none are given."""


@dataclass(frozen=True)
class RecoverSettings:
    """Training after and between the pruning steps: the dense model teaches the pruned one."""

    steps: Annotated[
        int | None,
        Option(
            "Training during and after pruning, taught by the dense model. auto: the full recipe "
            "on a GPU; on a CPU until the quality that the gate asks for is kept on held-out "
            "calibration data or no longer improves, at most --recover-seconds.",
            Panel.PRUNING,
            metavar="auto|none|STEPS",
            check=Check(lambda steps: steps >= 0, "auto, none or a number of steps"),
            names=("--recover", "--steps"),
            typed=RECOVERY_STEPS,
        ),
    ] = None
    gpu_steps: Annotated[
        int, Option("Steps on a GPU where `steps` is None.", check=at_least(1))
    ] = 1344
    seconds: Annotated[
        float | None,
        Option(
            "Most seconds that --recover auto takes; given on a GPU, it ends there as on a CPU.",
            Panel.PRUNING,
            unit="seconds",
            check=between(0, 1e9),
            names=("--recover-seconds",),
            default=f"{CPU_SECONDS:g} on a CPU",
        ),
    ] = None
    compute: Annotated[
        Compute,
        Option(
            "Where calibration and recovery run.", Panel.PRUNING, synonyms={"gpu": Compute.CUDA}
        ),
    ] = Compute.AUTO
    batch: Annotated[
        int | None,
        Option(
            "Sequences per step; None chooses `gpu_batch` on a GPU and 8 on a CPU.",
            check=at_least(2),
        ),
    ] = None
    gpu_batch: Annotated[
        int,
        Option("Sequences of a text per step on a GPU where `batch` is None.", check=at_least(2)),
    ] = 64
    window: Annotated[
        int | None,
        Option(
            "Tokens per sequence; None chooses 1024 on a GPU and 256 on a CPU.",
            unit="tokens",
            check=at_least(2),
        ),
    ] = None
    learning_rate: Annotated[float, Option("Highest learning rate.", check=between(0, 1e9))] = 1e-3
    final_learning_rate: Annotated[
        float, Option("Learning rate at the end, as a part of the highest.", check=between(0, 1))
    ] = 0.02
    warmup_steps: Annotated[
        int, Option("Steps in which the learning rate rises.", unit="steps")
    ] = 20
    weight_decay: Annotated[float, Option("AdamW's weight decay.", check=between(0, 1e9))] = 0.05
    clip: Annotated[float, Option("Largest norm of a step's gradient.")] = 1.0
    distill: Annotated[
        float,
        Option(
            "Weight of the divergence from the dense model in recovery; the rest is cross-entropy.",
            Panel.PRUNING,
            metavar="PART",
            check=between(0, 1),
        ),
    ] = 0.9
    mask_every: Annotated[
        int,
        Option(
            "Recovery steps between two tightenings of the masks.",
            Panel.PRUNING,
            unit="steps",
            check=at_least(1),
        ),
    ] = 20
    ramp: Annotated[
        float, Option("Part of the steps during which sparsity rises.", check=between(0, 1))
    ] = 0.6
    gradient_decay: Annotated[
        float, Option("Factor of the exponential average of the gradient's magnitude.")
    ] = 0.9
    regrow: Annotated[
        bool,
        Option("Pruned weights keep a value behind the mask and may come back until `settle`."),
    ] = False
    settle: Annotated[
        float,
        Option(
            "Part of the steps after which the masks stay; only with `regrow`.", check=between(0, 1)
        ),
    ] = 0.75
    match_hidden: Annotated[
        float,
        Option(
            "Weight of the relative squared distance to the dense model's last hidden state in "
            "recovery.",
            Panel.PRUNING,
            metavar="NUMBER",
            check=between(0, 1e9),
        ),
    ] = 0.0
    token_noise: Annotated[
        float,
        Option(
            "Part of a classifier's tokens replaced by random ones in each step.",
            check=between(0, 1),
        ),
    ] = 0.0
    accumulate: Annotated[
        int,
        Option(
            "Micro-batches that a step's batch is split into, to save memory.",
            Panel.PRUNING,
            metavar="NUMBER",
            check=at_least(1),
        ),
    ] = 1
    activation_checkpointing: Annotated[
        bool, Option("Run every layer again in the backward pass, to save memory.", Panel.PRUNING)
    ] = False
    muon: Annotated[bool, Option("Muon instead of AdamW for the projections.", Panel.PRUNING)] = (
        False
    )
    compile: Annotated[bool, Option("Compile the loss with torch.compile.")] = False
    deterministic: Annotated[
        bool,
        Option(
            "On a GPU too, repeated and resumed runs agree to the byte; slower. A CPU always adds "
            "up gradients in a fixed order.",
            Panel.PRUNING,
        ),
    ] = False
    checkpoint_seconds: Annotated[
        float,
        Option(
            "Seconds between two saves of an unfinished recovery, from which the same command "
            "goes on after a kill.",
            Panel.PRUNING,
            unit="seconds",
            check=between(0, 1e9),
        ),
    ] = 60.0

    def __post_init__(self) -> None:
        check_settings(self)
        require(
            self.steps is None or self.seconds is None,
            "--recover-seconds",
            "--recover auto beside it, which ends by itself",
            f"--recover {RECOVERY_STEPS.write(self.steps)}",
        )

    def ceiling(self, cuda: bool) -> float | None:
        """Most seconds of a run that ends by itself; None where its number of steps is known."""
        if self.steps is not None or (cuda and self.seconds is None):
            return None
        return CPU_SECONDS if self.seconds is None else self.seconds
