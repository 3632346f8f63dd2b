"""Messages name only options that there are, and speak of one thing in the singular."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from paths import ROOT
from ssmpress.cli import compress, gate
from ssmpress.printable import amount

PACKAGE = ROOT / "toolchain" / "ssmpress"
RUNNER = ROOT / "runtimes" / "runner"
OPTION = re.compile(r"(?<![\w(<-])--[a-z][a-z-]*")
OF_OTHERS = {
    "bundle/runtime_library.py": {  # pip's
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        "--dest",
        "--platform",
    },
}
"""Options of programs that a file starts."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a Python file that may reach a person: line, text. No docstrings."""
    tree = ast.parse(path.read_text())
    silent = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in silent
        ):
            yield node.lineno, node.value


def options_of(app: typer.Typer) -> set[str]:
    parameters = typer.main.get_command(app).params
    return {name for parameter in parameters for name in parameter.opts} | {"--help"}


def ssmrun_options() -> set[str]:
    declared = (RUNNER / "commands" / "options.cc").read_text()
    return set(re.findall(r'[{(]\s*"(--[a-z-]+)",', declared)) | {"--help"}


@functools.cache
def known_options() -> set[str]:
    return options_of(compress.app) | options_of(gate.app) | ssmrun_options()


def unknown(texts: Iterator[tuple[int, str]], known: set[str]) -> list[tuple[int, str]]:
    return [
        (line, option)
        for line, text in texts
        for option in OPTION.findall(re.sub(r"var\(.*?\)", "", text))
        if option not in known
    ]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_every_option_that_a_text_names_exists(path: Path) -> None:
    known = known_options() | OF_OTHERS.get(str(path.relative_to(PACKAGE)), set())
    assert unknown(texts(path), known) == []


def test_every_option_that_ssmrun_names_exists() -> None:
    known = ssmrun_options() | options_of(compress.app)
    assert {"--prompt", "--rounds", "--pin"} <= known
    for path in [*RUNNER.rglob("*.cc"), *RUNNER.rglob("*.h")]:
        literals = re.findall(r'"((?:[^"\\\n]|\\.)*)"', path.read_text())
        assert unknown(iter(enumerate(literals)), known) == [], path


def test_the_search_finds_an_option_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "advice.py"
    path.write_text(
        '"""--docstring"""\nx = f"Lower --rounds (now {3})"\ny = "a -- b, var(--ink), --seed"\n'
    )
    assert unknown(texts(path), {"--seed"}) == [(2, "--rounds")]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 fields"), (1, "1 field"), (2, "2 fields"), (1234, "1,234 fields")]
)
def test_one_thing_is_singular(count: int, text: str) -> None:
    assert amount(count, "field") == text


def test_no_text_leaves_the_number_to_the_reader() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert not [text for _, text in texts(path) if re.search(r"\w\(s\)", text)], path
