"""Stand-ins for mamba_ssm, causal_conv1d, mambapy and kernels, which need a GPU or are not there.

    with stand_ins():
        from mamba_ssm import Mamba
        net = torch.nn.Sequential(Mamba(64), Mamba(64))

They have the signatures, names of tensors and first values of the real ones, and compute what
mamba-ssm's own PyTorch references compute, gradients too. They are made of the operators of
nets/operators.py, which torch.export keeps. This folder has a file for each of their modules.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from ssmpress.nets.stand_ins.names import MODULES

PACKAGES = tuple(name for name in MODULES if "." not in name)
"""The packages that are stood in for."""

_SCANS = "selective_scan_cuda"
"""What the names of all compiled scans begin with."""


def names_of(package: str) -> list[str]:
    """The modules of a package that stand-ins answer for; none of any other package."""
    return [name for name in MODULES if name.partition(".")[0] == package]


@contextmanager
def stand_ins(always: bool = False) -> Iterator[tuple[str, ...]]:
    """For as long as the block lasts, the packages that cannot be used here can be imported.

    A package is stood in for where there is no GPU, without which its kernels do not run, or where
    importing it fails. After the block `sys.modules` has of these packages what it had before.

    Args:
        always: stand in for all of them, so that torch.export meets our operators.

    Yields:
        The packages that are stood in for.
    """
    absent = PACKAGES if always else _absent()
    before = _taken_out(absent)
    sys.modules.update(_modules(absent))
    try:
        yield absent
    finally:
        _taken_out(absent)
        sys.modules.update(before)


def _taken_out(packages: tuple[str, ...]) -> dict[str, ModuleType]:
    """Remove the packages and all that is in them from sys.modules."""
    names = [name for name in sys.modules if name.partition(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}


def _absent() -> tuple[str, ...]:
    """The packages that cannot be used here. Of the compiled scans code takes whichever is there:
    with a real one none is stood in for."""
    absent = tuple(name for name in PACKAGES if not _usable(name))
    scans = [name for name in PACKAGES if name.startswith(_SCANS)]
    some = not set(scans) <= set(absent)
    return tuple(name for name in absent if not (some and name in scans))


def _usable(package: str) -> bool:
    """Whether the real package can be imported, and there is a GPU for it."""
    if not torch.cuda.is_available():
        return False
    before = set(sys.modules)
    try:
        importlib.import_module(package)
    except Exception:  # whatever a package with compiled parts says where they do not fit
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in PACKAGES:  # a half of it, or of another that it imports
                del sys.modules[name]
        return False
    return True


def _modules(packages: tuple[str, ...]) -> dict[str, ModuleType]:
    """Modules of these names, each an attribute of the one around it."""
    modules: dict[str, ModuleType] = {}
    for name, content in MODULES.items():
        if name.partition(".")[0] in packages:
            modules[name] = _module(name, content)
            around, _, own = name.rpartition(".")
            if around:
                setattr(modules[around], own, modules[name])
    return modules


def _module(name: str, content: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(name, f"ssmpress's stand-in for {name}.")
    module.__spec__ = ModuleSpec(name, loader=None, origin="ssmpress", is_package=True)
    module.__path__ = []  # no file: a module that is not stood in for is not found
    for attribute, value in content.items():
        setattr(module, attribute, value)
    return module
