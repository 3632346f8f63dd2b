"""docs/options.md, from the settings and the command line that is made of them.

`python -m ssmpress.cli.options_page > docs/options.md` writes it anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import typer

from ssmpress.cli.compress import app
from ssmpress.recipe.option import Panel, Setting, settings_of
from ssmpress.recipe.recipe import Recipe

_HEAD = """\
# Options

Every option of `compress`, and every setting that only Python sets. This page is made from the
fields of the recipe (`toolchain/ssmpress/recipe/`), which the command line, its help and
its checks come from too: `python -m ssmpress.cli.options_page > docs/options.md` writes it anew.

An option that is not given has the value of `--recipe`, or else its default.
"""
_PYTHON = """\
## Settings without an option

They are fields of the settings in a [recipe](recipes.md) made in Python, such as
`PruneSettings(matrix_limit=0.9)`.
"""


def options_page() -> str:
    """The page as Markdown."""
    settings = {setting.key: setting for setting in settings_of(Recipe) if setting.option.panel}
    parameters = typer.main.get_command(app).params
    parts = [_HEAD]
    for panel in Panel:
        rows = [
            _option_row(parameter, settings.get(str(parameter.name)))
            for parameter in parameters
            if getattr(parameter, "rich_help_panel", None) == panel
        ]
        parts.append(f"## {panel}\n\n" + _table(("option", "default", "what it does"), rows))
    rows = [
        (f"`{s.group}.{s.key}`", f"`{s.default}`", _sentence(s))
        for s in settings_of(Recipe)
        if s.option.panel is None and not s.option.argument
    ]
    parts.append(_PYTHON + "\n" + _table(("setting", "default", "what it does"), rows))
    return "\n".join(parts)


def _option_row(parameter: Any, setting: Setting | None) -> tuple[str, str, str]:
    """One option of the command. setting: None where it is not of the recipe."""
    metavar = "" if parameter.is_flag else f" {parameter.metavar}"
    names = " ".join(f"`{name}`" for name in parameter.opts)
    option = names[:-1] + f"{metavar}`"
    default = ""
    if isinstance(parameter.show_default, str):
        default = parameter.show_default
    elif parameter.show_default and parameter.default is not None:
        default = f"`{parameter.default}`"
    return option, default, parameter.help if setting is None else _sentence(setting)


def _sentence(setting: Setting) -> str:
    check = setting.option.check
    return setting.option.help + (f" Expected: {check.expected}." if check else "")


def _table(heading: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [tuple(heading), tuple("---" for _ in heading), *rows]
    return "".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |\n" for cells in lines
    )


if __name__ == "__main__":
    sys.stdout.write(options_page())
