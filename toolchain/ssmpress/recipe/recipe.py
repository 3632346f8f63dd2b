"""One run's settings together, checked when built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ssmpress.processors import usable_processors
from ssmpress.recipe.option import (
    Option,
    Panel,
    between,
    check_settings,
    require,
)
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.deploy import DeploySettings, Target
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import PruneSettings, Scope
from ssmpress.recipe.settings.recover import RecoverSettings


@dataclass(frozen=True)
class Recipe:
    """One run of the toolchain, from a checkpoint to a bundle and a report."""

    model: Annotated[
        Path,
        Option(
            "Checkpoint: a folder of mamba-ssm or Hugging Face, or a bare state dict (.pt, .pth, "
            ".bin, .safetensors). With --net whatever its training wrote, .ckpt and .npz too.",
            metavar="MODEL",
            argument=True,
        ),
    ]
    out: Annotated[
        Path,
        Option(
            "Folder of the bundle; by default MODEL-sSPARSITY-TARGET here.",
            Panel.BUNDLE,
            metavar="FOLDER",
            always=True,
        ),
    ]
    target: Annotated[Target, Option("What the bundle runs on.", Panel.BUNDLE)] = Target.HOST
    prune: PruneSettings = field(default_factory=PruneSettings)
    recover: RecoverSettings = field(default_factory=RecoverSettings)
    pack: PackSettings = field(default_factory=PackSettings)
    data: DataSettings = field(default_factory=DataSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    deploy: DeploySettings = field(default_factory=DeploySettings)
    threads: Annotated[
        int,
        Option(
            "Threads of every stage.",
            Panel.RUN,
            metavar="NUMBER",
            check=between(1, 1024),
            default="all that can be used",
        ),
    ] = field(default_factory=usable_processors)
    seed: Annotated[
        int,
        Option(
            "Seed of all random draws.",
            Panel.RUN,
            metavar="NUMBER",
            check=between(0, 2**63 - 1, "0 to 2^63 - 1"),
            always=True,
        ),
    ] = 0
    save_checkpoint: Annotated[
        Path | None,
        Option(
            "Also write the pruned weights, zeros and all, for mamba-ssm and Hugging Face, and the "
            "matrices as scipy's CSR.",
            Panel.BUNDLE,
            metavar="FOLDER",
        ),
    ] = None
    pruned: Annotated[
        Path | None,
        Option(
            "A checkpoint of MODEL that is pruned already, for example by --save-checkpoint on a "
            "machine with a GPU; packs and measures it beside MODEL.",
            Panel.PRUNING,
            metavar="MODEL",
        ),
    ] = None
    weights_of: Annotated[
        str | None,
        Option(
            "Which model of MODEL's file, where it holds several, such as ema; also of --pruned's.",
            Panel.DATA,
            metavar="NAME",
        ),
    ] = None

    net: Annotated[
        str | None,
        Option(
            "A network of your own, whose weights MODEL is: a Python file, and the name of the "
            "ssmpress.Network in it if that is not `net`. The file is run, so it must be one that "
            "you trust.",
            Panel.DATA,
            metavar="FILE[:NAME]",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_settings(self)
        require(
            self.pruned is None or not self.prune.prune_state,
            "--prune-state",
            "nothing beside --pruned, whose weights have the state that they have",
            f"{self.prune.prune_state:g}",
        )
        differ = self.prune.prune_state and self.prune.scope is Scope.GLOBAL
        require(
            self.save_checkpoint is None or not differ,
            "--save-checkpoint",
            "--scope layer beside --prune-state, since no layout of checkpoints has a state of "
            "its own in each layer",
            f"--scope {self.prune.scope}",
        )
        if self.net is not None:
            self._check_network()

    def _check_network(self) -> None:
        """Whether the other settings are for networks too.

        Raises:
            UsageError: one is for models that ssmpress reads itself.
        """
        require(self.net not in ("", ":"), "--net", "FILE or FILE:NAME", repr(self.net))
        data = self.data
        for name, given in {
            "--calibration": data.calibration,
            "--evaluation": data.evaluation,
            "--tokenizer": data.tokenizer,
            "--evaluation-tokens": data.evaluation_tokens,
        }.items():
            got = ", ".join(map(str, given)) if isinstance(given, tuple) else given
            require(
                not given, name, "nothing, since samples of a network come from --net's file", got
            )

    @property
    def trains(self) -> bool:
        """Whether recovery is part of the run."""
        return self.recover.steps != 0 and self.pruned is None

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON types, for the manifest and the report."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return value
