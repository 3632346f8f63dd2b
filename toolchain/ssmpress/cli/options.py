"""The command line of a recipe: a typer option for every setting that has one.

What an option is called, says and accepts stands at the recipe's field (recipe/settings/); here
that becomes a signature for typer.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from ssmpress._version import __version__
from ssmpress.cli.streams import say
from ssmpress.recipe.named import NAMED_RECIPES
from ssmpress.recipe.option import Panel, Setting, settings_of

Given = dict[str, dict[str, Any]]
"""Values that stand on the command line, by group of the recipe ("" is its own) and key."""


def completing(words: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell offers: the words, for the last part of a list too."""

    def complete(incomplete: str) -> list[str]:
        head, comma, last = incomplete.rpartition(",")
        return [f"{head}{comma}{word}" for word in map(str, words) if word.startswith(last)]

    return complete


def _print_version(asked: bool) -> None:
    if asked:
        say(f"ssmpress {__version__}")
        raise typer.Exit


RecipeName = Annotated[
    str,
    typer.Option(
        help="Named settings; options given beside it override them.",
        rich_help_panel=Panel.PRUNING,
        metavar="|".join(NAMED_RECIPES),
        autocompletion=completing(NAMED_RECIPES),
    ),
]
Pick = Annotated[
    str | None,
    typer.Option(
        help="Of several --sparsity or --values, keep the fastest bundle that meets this, such as "
        "'retention>=0.95 and model_bytes<5e6'.",
        rich_help_panel=Panel.BUNDLE,
        metavar="METRIC>=NUMBER [and ...]",
        show_default=False,
    ),
]
Policy = Annotated[
    Path | None,
    typer.Option(
        help="policy.toml with the limits; the options below override it.",
        rich_help_panel=Panel.GATES,
        metavar="FILE",
        show_default=False,
    ),
]
Demo = Annotated[
    bool,
    typer.Option(
        "--demo",
        help="Compress the small model that comes with ssmpress, in place of MODEL.",
        rich_help_panel=Panel.RUN,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the report as JSON on stdout.", rich_help_panel=Panel.RUN),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check all that a run checks before its work, and print the plan: target, devices, "
        "data, gates, downloads, shapes, bytes, memory, time.",
        rich_help_panel=Panel.RUN,
    ),
]
PlanBytes = Annotated[
    int,
    typer.Option(
        help="--dry-run reads weight files of at most so many bytes to the last value, and only "
        "the sizes of larger ones.",
        rich_help_panel=Panel.RUN,
        metavar="BYTES",
        min=0,
    ),
]
Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


def with_settings(owner: type, defaults: bool = True) -> Callable[[Any], Any]:
    """Give a command an option for every setting of a dataclass such as `Recipe`.

    The command takes `given: Given`, with every group, and its other parameters by name. The
    help's panels stand in the order of `Panel`.

    Args:
        defaults: the help says what holds where an option is not given.
    """
    settings = [s for s in settings_of(owner) if s.option.panel or s.option.argument]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_options(context: typer.Context, **values: Any) -> None:
            given: Given = {setting.group: {} for setting in settings_of(owner)}
            for setting in settings:
                value = values.pop(setting.key)
                source = context.get_parameter_source(setting.key)
                if source is not None and source.name != "DEFAULT":
                    given[setting.group][setting.key] = value
            command(**values, given=given)

        own = inspect.signature(command, eval_str=True).parameters
        parameters: list[inspect.Parameter] = [_context()]
        for parameter in own.values():
            mine = parameter.name != "given"
            parameters += [parameter] if mine else [_parameter(s, defaults) for s in settings]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        parameters.sort(key=_panel)
        vars(with_options)["__signature__"] = inspect.Signature(parameters)
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate


def _context() -> inspect.Parameter:
    return inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


def _panel(parameter: inspect.Parameter) -> int:
    """The place of an option's panel in the help."""
    for item in get_args(parameter.annotation)[1:]:
        panels = list(Panel)
        if item.rich_help_panel in panels:
            return panels.index(item.rich_help_panel)
    return -1


def _parameter(setting: Setting, defaults: bool) -> inspect.Parameter:
    """The typer parameter of one setting."""
    more: dict[str, Any] = {}
    kind, default = setting.kind, setting.default
    typed = setting.typed
    if typed is not None:
        kind, default = str, typed.unset if default is None else typed.write(default)
        more["parser"] = setting.read
        more["autocompletion"] = completing(typed.words)
    elif setting.many:
        kind, default = list[setting.kind], None  # type: ignore[name-defined]
    option = setting.option
    if kind is not bool and setting.metavar:
        more["metavar"] = setting.metavar
    if option.argument:
        word = typer.Argument(help=option.help, show_default=False, **more)
        return _keyword(setting.key, kind | None, word, None)
    shown = option.default or (default is not None and default is not False)
    info = typer.Option(
        *setting.names,
        help=option.help,
        rich_help_panel=option.panel,
        show_default=shown if defaults else False,
        **more,
    )
    return _keyword(setting.key, kind if default is not None else kind | None, info, default)


def _keyword(
    name: str, kind: Any, info: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    annotation = Annotated[kind, info]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
