"""ssmpress: prune, pack and ship Mamba models to small CPUs.

The public names are loaded on first use, so that `import ssmpress` costs nothing and the
device-side ones work where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmpress.ops import get_library_path as get_library_path

__version__ = "0.1.0"

_HOME = {"get_library_path": "ssmpress.ops"}

__all__ = ["__version__", "get_library_path"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ssmpress' has no attribute {name!r}")
