"""The user's Python file with a network in it: run, and its errors told with its own lines."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from ssmpress.errors import BadInputError
from ssmpress.nets.network import Network
from ssmpress.nets.user_errors import in_users_code, users_line
from ssmpress.recipe.suggest import did_you_mean

if TYPE_CHECKING:
    from torch import nn

DEFAULT_NAME = "net"
"""Of the variable with the network, where FILE:NAME says no other."""

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Modules of these hold packed weights, which are no parameters."""

_loaded: dict[str, ModuleType] = {}
"""The modules of the file that was loaded last, and of what it imported from beside it. They stay
in sys.modules, where dataclasses, pickle and torch.compile look for them, until the next load."""


def file_and_name(text: str) -> tuple[Path, str]:
    """FILE or FILE:NAME -> the file, and the name of the variable in it.

    >>> file_and_name("nets/mine.py:small")
    (PosixPath('nets/mine.py'), 'small')
    """
    file, colon, name = text.rpartition(":")
    if colon and name.isidentifier() and not Path(text).exists():
        return Path(file), name
    return Path(text), DEFAULT_NAME


def load_network(path: Path, name: str = DEFAULT_NAME, *, always: bool = False) -> Network:
    """Run a Python file and take the network out of it.

    The file runs as a module of its own: `__name__` is not `__main__`, and what stands beside it
    can be imported. It runs anew each time, and so does what it imports from beside it.

    Args:
        name: of the variable that holds it. always: stand-ins also for packages that are there
            (`stand_ins`), as long as the file runs and as long as its `build` does.

    Returns:
        The network; its `build` finds the stand-ins and the files beside it again, and fails with
        the line of the user's file.

    Raises:
        BadInputError: there is no such file, it is no Python, fails, or has no network of the name.
    """
    from ssmpress.nets.stand_ins import stand_ins

    code = _compiled(path)
    for old, module in _loaded.items():
        if sys.modules.get(old) is module:
            del sys.modules[old]
    _loaded.clear()
    module = _new_module(path)
    with stand_ins(always), _beside(path), _told(path.name):
        exec(code, module.__dict__)
    network = _found(module, path, name)

    def build() -> nn.Module:
        with _beside(path):
            return build_module(network, always=always)

    return replace(network, build=build)


def build_module(network: Network, *, always: bool = False) -> nn.Module:
    """The network's module, without trained weights, in eval mode, built where stand-ins answer.

    Args:
        always: as of `load_network`.

    Raises:
        BadInputError: `build` fails, or returns no module.
    """
    from torch import nn

    from ssmpress.nets.stand_ins import stand_ins

    with stand_ins(always), _told("build"):
        module = network.build()
    if not isinstance(module, nn.Module):
        raise BadInputError(
            f"Network: build: expected a torch.nn.Module; got {type(module).__name__}. Return the "
            "module itself: build=lambda: MyNet()."
        )
    for name, part in module.named_modules():
        if type(part).__module__.startswith(_QUANTISED):
            raise BadInputError(
                f"Network: build: {name or 'the module'}: expected a module with weights in floats;"
                f" got {type(part).__name__}, which is quantised already. Let build make the "
                "network that was trained: --values says how ssmpress stores it."
            )
    return module.eval()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """`in_users_code`, which also says the line for a program that ends itself and for errors of
    ours."""
    try:
        with in_users_code(what):
            yield
    except SystemExit as error:
        raise BadInputError(
            f"Network: {what} ended the program{users_line(error)} (exit code {error.code}). A "
            "file for --net is imported, without arguments: put what reads them, or trains, under "
            'if __name__ == "__main__".'
        ) from error
    except BadInputError as error:
        line = "" if error.__cause__ else users_line(error)
        if not line:
            raise
        raise BadInputError(f"{line.removeprefix(' at ')}: {error}") from error


def _compiled(path: Path) -> CodeType:
    from ssmpress.checkpoint.weight_files import regular_file

    source = regular_file(path, "a Python file that makes an ssmpress.Network").read_bytes()
    try:
        return compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        place = f"{path}:{line}" if line else str(path)
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise BadInputError(
            f"{place}: expected a Python file that makes an ssmpress.Network; it cannot be read as "
            f"Python: {reason}."
        ) from error


def _new_module(path: Path) -> ModuleType:
    name = f"ssmpress_net_{path.stem}"  # hides no package of the same name
    module = ModuleType(name)
    module.__file__ = str(path.absolute())
    module.__spec__ = ModuleSpec(name, loader=None, origin=module.__file__)
    sys.modules[name] = _loaded[name] = module
    return module


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """What stands beside the file can be imported."""
    folder = str(path.absolute().parent)
    importlib.invalidate_caches()
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if _lies_in(sys.modules[name], Path(folder)):
                _loaded[name] = sys.modules[name]


def _lies_in(module: ModuleType, folder: Path) -> bool:
    """Whether a module is source of the folder, and of no environment in it: those are imported
    once."""
    places = [getattr(module, "__file__", None), *list(getattr(module, "__path__", []))[:1]]
    file = next((Path(place).absolute() for place in places if place), None)
    if file is None or not file.is_relative_to(folder) or file.suffix in EXTENSION_SUFFIXES:
        return False
    return not {"site-packages", "dist-packages"} & set(file.relative_to(folder).parts)


def _found(module: ModuleType, path: Path, name: str) -> Network:
    values = {n: v for n, v in vars(module).items() if not n.startswith("_")}
    networks = [n for n, v in values.items() if isinstance(v, Network)]
    others = f" It has {', '.join(networks)}: give {path}:{networks[0]}." if networks else ""
    if name not in values:
        raise BadInputError(
            f"{path}: expected {name} = ssmpress.Network(...) in it; got no {name}."
            f"{others or did_you_mean(name, values)}"
        )
    value = values[name]
    if not isinstance(value, Network):
        way = others or f" Say what is to be known of it: {name} = ssmpress.Network(build=...)."
        got = type(value).__name__
        raise BadInputError(f"{path}: {name}: expected an ssmpress.Network; got {got}.{way}")
    return value
