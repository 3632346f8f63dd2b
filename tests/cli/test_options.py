"""An option is declared once, as a field: everything else about it comes from there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from paths import ROOT
from ssmpress.cli.options import Given, with_settings
from ssmpress.cli.options_page import options_page
from ssmpress.errors import UsageError
from ssmpress.recipe.option import (
    Option,
    Panel,
    at_least,
    between,
    check_settings,
    options_of,
    settings_of,
)
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.sweep import Sweep


@dataclass(frozen=True)
class Baking:
    """A group with one new option."""

    heat: Annotated[
        float,
        Option("How hot.", Panel.PRUNING, unit="degrees", check=between(0, 300), swept=False),
    ] = 180.0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Cake:
    """A recipe with that group and options of the other kinds."""

    baking: Baking = field(default_factory=Baking)
    layers: Annotated[int | None, Option("How many.", Panel.RUN, check=at_least(1))] = None
    tins: Annotated[tuple[Path, ...], Option("Into what.", Panel.RUN)] = ()
    icing: Annotated[bool, Option("With icing.", Panel.RUN)] = False

    def __post_init__(self) -> None:
        check_settings(self)


def bake(*arguments: str) -> tuple[Given, str]:
    """What a command with the options of a Cake is given, and what it prints."""
    app, seen = typer.Typer(rich_markup_mode="rich"), []

    @app.command()
    @with_settings(Cake)
    def command(*, given: Given) -> None:
        seen.append(given)

    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80", "NO_COLOR": "1"})
    return (seen[0] if seen else {}), done.output


def test_one_field_is_an_option_with_help_check_and_command_line():
    _, text = bake("--help")
    assert "--heat" in text and "DEGREES" in text and "How hot." in text
    assert "[default: 180.0]" in text
    assert text.index("Pruning") < text.index("--heat") < text.index("Run") < text.index("--layers")
    given, _ = bake("--heat", "200", "--tins", "a", "--tins", "b", "--icing")
    assert given == {"baking": {"heat": 200.0}, "": {"tins": [Path("a"), Path("b")], "icing": True}}
    cake = Cake(Baking(**given["baking"]), **given[""])
    assert cake.tins == (Path("a"), Path("b"))
    words = [
        word
        for setting in options_of(Cake)
        for word in setting.words(getattr(cake.baking if setting.group else cake, setting.key))
    ]
    assert words == ["--heat", "200.0", "--tins", "a", "--tins", "b", "--icing"]
    assert bake(*words)[0] == given
    with pytest.raises(UsageError, match=r"--heat: expected 0 to 300; got 301\."):
        Baking(heat=301)


def test_what_is_not_given_is_not_in_the_way_of_a_named_recipe():
    assert bake()[0] == {"baking": {}, "": {}}


def test_a_field_without_a_word_about_it_is_refused():
    @dataclass(frozen=True)
    class Bare:
        heat: float = 1.0

    with pytest.raises(TypeError, match=r"Bare\.heat: expected Annotated"):
        settings_of(Bare)


def test_every_option_has_one_name_and_a_sentence():
    settings = settings_of(Recipe)
    keys = [setting.key for setting in options_of(Recipe)]
    assert len(set(keys)) == len(keys)
    for setting in settings:
        text = setting.option.help
        assert text[0].isupper() or text.startswith(("tokenizer.json", "report.json"))
        assert text.endswith("."), setting.key
        if setting.option.swept:
            assert setting.key in {"sparsity", "values"}, "Sweep takes no other list"
    assert {item.name for item in fields(Sweep)} >= {"sparsities", "values"}


def test_settings_are_in_the_order_of_their_fields():
    hints = get_type_hints(Recipe)
    names = []
    for item in fields(Recipe):
        kind = hints[item.name]
        names += [part.name for part in fields(kind)] if is_dataclass(kind) else [item.name]
    assert [setting.key for setting in settings_of(Recipe)] == names
    assert PruneSettings.sparsity == 0.7


def test_the_page_of_options_is_what_the_settings_say():
    page = (ROOT / "docs" / "options.md").read_text()
    assert page == options_page(), "run: python -m ssmpress.cli.options_page > docs/options.md"


def test_help_fits_80_columns():
    code = "from ssmpress.cli.compress import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "80", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    named = {
        name for setting in settings_of(Recipe) if setting.option.panel for name in setting.names
    }
    missing = {name for name in named if name not in done.stdout}
    assert all(len(name) > 20 for name in missing), "only a long name is cut short"
