"""ssmpress: prune, pack and ship Mamba models to small CPUs.

The public names (docs/api.md) are loaded on first use, so that `import ssmpress` costs nothing and
the device-side ones work where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmpress.errors import BadInputError as BadInputError
    from ssmpress.errors import DeviceError as DeviceError
    from ssmpress.errors import SsmpressError as SsmpressError
    from ssmpress.errors import UsageError as UsageError
    from ssmpress.export import export as export_model
    from ssmpress.gate import judge as judge
    from ssmpress.gate import read_report as read_report
    from ssmpress.ops import Values as Values
    from ssmpress.ops import get_library_path as get_library_path
    from ssmpress.pick import parse_pick as parse_pick
    from ssmpress.pipeline import Result as Result
    from ssmpress.pipeline import Watch as Watch
    from ssmpress.pipeline import compress as compress
    from ssmpress.recipe import DataSettings as DataSettings
    from ssmpress.recipe import GateSettings as GateSettings
    from ssmpress.recipe import PackSettings as PackSettings
    from ssmpress.recipe import PruneSettings as PruneSettings
    from ssmpress.recipe import Recipe as Recipe
    from ssmpress.recipe import RecoverSettings as RecoverSettings
    from ssmpress.recipe import Sweep as Sweep
    from ssmpress.report.manifest import verify_manifest as verify_manifest
    from ssmpress.run import Session as Session
    from ssmpress.run import State as State
    from ssmpress.run import open_session as open_session
    from ssmpress.stages import compact as pack_weights
    from ssmpress.stages import prune as prune_weights
    from ssmpress.stages import read as load
    from ssmpress.sweep import SweepResult as SweepResult
    from ssmpress.sweep import run_sweep as run_sweep
    from ssmpress.text_model import TextModel as TextModel
    from ssmpress.text_model import open_bundle as open_bundle

__version__ = "0.1.0"

_HOMES = {
    "errors": ("BadInputError", "DeviceError", "SsmpressError", "UsageError"),
    "gate": ("judge", "read_report"),
    "ops": ("Values", "get_library_path"),
    "pick": ("parse_pick",),
    "pipeline": ("Result", "Watch", "compress"),
    "recipe": (
        "DataSettings", "GateSettings", "PackSettings", "PruneSettings", "Recipe",
        "RecoverSettings", "Sweep",
    ),
    "report.manifest": ("verify_manifest",),
    "run": ("Session", "State", "open_session"),
    "sweep": ("SweepResult", "run_sweep"),
    "text_model": ("TextModel", "open_bundle"),
}  # fmt: skip
_RENAMED = {
    "export_model": ("export", "export"),
    "load": ("stages", "read"),
    "pack_weights": ("stages", "compact"),
    "prune_weights": ("stages", "prune"),
}
_PUBLIC = {name: (home, name) for home, names in _HOMES.items() for name in names} | _RENAMED

__all__ = [
    "BadInputError",
    "DataSettings",
    "DeviceError",
    "GateSettings",
    "PackSettings",
    "PruneSettings",
    "Recipe",
    "RecoverSettings",
    "Result",
    "Session",
    "SsmpressError",
    "State",
    "Sweep",
    "SweepResult",
    "TextModel",
    "UsageError",
    "Values",
    "Watch",
    "__version__",
    "compress",
    "export_model",
    "get_library_path",
    "judge",
    "load",
    "open_bundle",
    "open_session",
    "pack_weights",
    "parse_pick",
    "prune_weights",
    "read_report",
    "run_sweep",
    "verify_manifest",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        home, original = _PUBLIC[name]
        return getattr(import_module(f"{__name__}.{home}"), original)
    raise AttributeError(f"module 'ssmpress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
