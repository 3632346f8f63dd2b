"""ssmpress: prune, pack and ship Mamba models to small CPUs.

The public names (docs/api.md) are loaded on first use, so that `import ssmpress` costs nothing and
the device-side ones work where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssmpress._version import __version__ as __version__
from ssmpress.errors import lacks_package

if TYPE_CHECKING:
    from ssmpress.bundle.manifest import verify_manifest as verify_manifest
    from ssmpress.bundle.signature import verify_signature as verify_signature
    from ssmpress.bundle.text_model import TextModel as TextModel
    from ssmpress.bundle.text_model import open_bundle as open_bundle
    from ssmpress.errors import BadInputError as BadInputError
    from ssmpress.errors import DeviceError as DeviceError
    from ssmpress.errors import SsmpressError as SsmpressError
    from ssmpress.errors import UsageError as UsageError
    from ssmpress.formats import Values as Values
    from ssmpress.gate.judge import judge as judge
    from ssmpress.gate.judge import read_report as read_report
    from ssmpress.graph.export import export as export_model
    from ssmpress.machine import get_library_path as get_library_path
    from ssmpress.nets.network import Network as Network
    from ssmpress.nets.stand_ins import stand_ins as stand_ins
    from ssmpress.pack.model import PackedModel as PackedModel
    from ssmpress.pipeline import Result as Result
    from ssmpress.pipeline import Watch as Watch
    from ssmpress.pipeline import compress as compress
    from ssmpress.pipeline import compress_network as compress_network
    from ssmpress.recipe.limit import Relative as Relative
    from ssmpress.recipe.pick import parse_pick as parse_pick
    from ssmpress.recipe.recipe import Recipe as Recipe
    from ssmpress.recipe.settings.data import DataSettings as DataSettings
    from ssmpress.recipe.settings.gate import GateSettings as GateSettings
    from ssmpress.recipe.settings.pack import PackSettings as PackSettings
    from ssmpress.recipe.settings.prune import PruneSettings as PruneSettings
    from ssmpress.recipe.settings.recover import RecoverSettings as RecoverSettings
    from ssmpress.recipe.sweep import Sweep as Sweep
    from ssmpress.results.verdict import Verdict as Verdict
    from ssmpress.runtime.loading import open_session as open_session
    from ssmpress.runtime.session import Session as Session
    from ssmpress.runtime.state import State as State
    from ssmpress.stages.packed import pack_weights as pack_weights
    from ssmpress.stages.pruned import Pruned as Pruned
    from ssmpress.stages.pruned import prune_weights as prune_weights
    from ssmpress.stages.source import Source as Source
    from ssmpress.stages.source import load as load
    from ssmpress.sweep import SweepResult as SweepResult
    from ssmpress.sweep import run_sweep as run_sweep

_HOMES = {
    "bundle.manifest": ("verify_manifest",),
    "bundle.signature": ("verify_signature",),
    "bundle.text_model": ("TextModel", "open_bundle"),
    "errors": ("BadInputError", "DeviceError", "SsmpressError", "UsageError"),
    "formats": ("Values",),
    "gate.judge": ("judge", "read_report"),
    "machine": ("get_library_path",),
    "nets.network": ("Network",),
    "nets.stand_ins": ("stand_ins",),
    "pack.model": ("PackedModel",),
    "pipeline": ("Result", "Watch", "compress", "compress_network"),
    "recipe.limit": ("Relative",),
    "recipe.pick": ("parse_pick",),
    "recipe.recipe": ("Recipe",),
    "recipe.settings.data": ("DataSettings",),
    "recipe.settings.gate": ("GateSettings",),
    "recipe.settings.pack": ("PackSettings",),
    "recipe.settings.prune": ("PruneSettings",),
    "recipe.settings.recover": ("RecoverSettings",),
    "recipe.sweep": ("Sweep",),
    "results.verdict": ("Verdict",),
    "runtime.loading": ("open_session",),
    "runtime.session": ("Session",),
    "runtime.state": ("State",),
    "stages.packed": ("pack_weights",),
    "stages.pruned": ("Pruned", "prune_weights"),
    "stages.source": ("Source", "load"),
    "sweep": ("SweepResult", "run_sweep"),
}
_RENAMED = {"export_model": ("graph.export", "export")}
_PUBLIC = {name: (home, name) for home, names in _HOMES.items() for name in names} | _RENAMED

__all__ = [
    "BadInputError",
    "DataSettings",
    "DeviceError",
    "GateSettings",
    "Network",
    "PackSettings",
    "PackedModel",
    "PruneSettings",
    "Pruned",
    "Recipe",
    "RecoverSettings",
    "Relative",
    "Result",
    "Session",
    "Source",
    "SsmpressError",
    "State",
    "Sweep",
    "SweepResult",
    "TextModel",
    "UsageError",
    "Values",
    "Verdict",
    "Watch",
    "__version__",
    "compress",
    "compress_network",
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
    "stand_ins",
    "verify_manifest",
    "verify_signature",
]


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name in _PUBLIC:
            home, original = _PUBLIC[name]
            try:
                return getattr(import_module(f"{__name__}.{home}"), original)
            except ModuleNotFoundError as error:
                if sentence := lacks_package(error):
                    raise ImportError(sentence) from error
                raise
        raise AttributeError(f"module 'ssmpress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
