"""What is said of a setting, once: its help, its unit, its range, and how it is typed.

A field of the recipe carries it as `Annotated[type, Option(...)]`. From it come the check when the
recipe is built (`check_settings`), the option on the command line with its help and completion
(cli/options.py), the command that a report repeats (report/tables.py) and docs/options.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from ssmpress.errors import UsageError
from ssmpress.recipe.suggest import one_of, values_of


class Panel(StrEnum):
    """Heading that an option stands under in the help, in the help's order."""

    PRUNING = "Pruning"
    BUNDLE = "Bundle"
    DATA = "Data"
    GATES = "Gates"
    RUN = "Run"


@dataclass(frozen=True)
class Check:
    """What a value must be. expected: the same in words, for the help and the error."""

    passes: Callable[[Any], bool]
    expected: str


@dataclass(frozen=True)
class Typed:
    """How a value is spelled on the command line, where its type does not tell.

    read: option and text -> value; raises UsageError. write: value, or what JSON makes of it ->
    text. words: what a shell completes. unset: the word for None, where it has one.
    """

    read: Callable[[str, str], Any]
    write: Callable[[Any], str] = str
    words: tuple[str, ...] = ()
    unset: str | None = None


@dataclass(frozen=True)
class Option:
    """What is said of one setting.

    help: what it does, as a sentence. panel: None where only Python sets it, without an option.
    unit: what a number counts. metavar: grammar of the text; by default the unit or the choices.
    check: applies to every value but None. names: the option's, where not the field's.
    default: words for the help in place of the default. swept: several values, separated by
    commas, make a sweep. always: a report's command names it even where it is the default.
    argument: a word by itself, without a name. synonyms: other words for a choice.
    """

    help: str
    panel: Panel | None = None
    unit: str = ""
    metavar: str = ""
    check: Check | None = None
    names: tuple[str, ...] = ()
    default: str = ""
    typed: Typed | None = None
    swept: bool = False
    always: bool = False
    argument: bool = False
    synonyms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A field of the recipe with what is said of it.

    group: the recipe's field that holds it, such as "prune"; "" for the recipe's own.
    kind: its type without None; the items' where it holds `many`. default: None if required.
    """

    group: str
    key: str
    kind: Any
    many: bool
    default: Any
    option: Option

    @property
    def names(self) -> tuple[str, ...]:
        """The option's names, the first one first; of an argument its metavar."""
        if self.option.argument:
            return (self.option.metavar,)
        return self.option.names or ("--" + self.key.replace("_", "-"),)

    @property
    def called(self) -> str:
        """What an error calls it: the option where there is one."""
        return self.names[0] if self.option.panel and not self.option.argument else self.key

    @property
    def typed(self) -> Typed | None:
        """How its text is read, None where the type alone tells."""
        if self.option.typed is None and _is_choice(self.kind):
            return Typed(lambda _, text: self.choice(text), words=tuple(self.kind))
        return self.option.typed

    def choice(self, text: str) -> Any:
        """The choice that a word or its synonym names.

        Raises:
            UsageError: none.
        """
        return one_of(self.called, self.option.synonyms.get(text, text), self.kind)

    @property
    def metavar(self) -> str:
        """What stands for the value in the help; "" leaves it to the type."""
        choices = values_of(self.kind) if _is_choice(self.kind) else ""
        text = self.option.metavar or choices or self.option.unit.upper()
        return f"{text}[,...]" if self.option.swept else text

    def read(self, text: str) -> Any:
        """The value that a text stands for; of a swept one a tuple of values.

        Raises:
            UsageError: it is none, or one of several stands there twice.
        """
        assert self.typed is not None, self.key
        if not self.option.swept:
            return self.typed.read(self.called, text)
        values = tuple(self.typed.read(self.called, word) for word in split(text))
        if len(set(values)) < len(values):
            listed = ", ".join(map(str, values))
            raise UsageError(f"{self.called}: expected each value once; got {listed}.")
        return values

    def words(self, value: Any) -> list[str]:
        """The words of a command line that set it; none where that cannot be typed.

        value: the setting, or what JSON makes of it.
        """
        name = self.names[0]
        if value is True:
            return [name]
        if self.typed is not None:
            return [name, self.typed.write(value)]
        if value is None or value is False:
            return []
        items = value if self.many else [value]
        return [word for item in items for word in (name, str(item))]


def _is_choice(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrEnum)


@functools.cache
def settings_of(owner: type) -> tuple[Setting, ...]:
    """The settings of a dataclass in their order, those of the dataclasses in it at their place."""
    settings: list[Setting] = []
    hints = get_type_hints(owner, include_extras=True)
    for item in fields(owner):
        hint = hints[item.name]
        if is_dataclass(hint):
            settings += [
                Setting(item.name, s.key, s.kind, s.many, s.default, s.option)
                for s in settings_of(hint)  # type: ignore[arg-type]
            ]
            continue
        if get_origin(hint) is not Annotated:
            raise TypeError(f"{owner.__name__}.{item.name}: expected Annotated[type, Option(...)].")
        hint, option = get_args(hint)
        kind, many = _plain_type(hint)
        default = item.default if item.default is not MISSING else None
        settings.append(Setting("", item.name, kind, many, default, option))
    return tuple(settings)


def options_of(owner: type) -> list[Setting]:
    """The settings that have an option, as a command reads best.

    The stages come first, then how all of them run, the gates, and the recipe's own files.
    """
    options = [setting for setting in settings_of(owner) if setting.option.panel is not None]
    return sorted(options, key=_place)


def _place(setting: Setting) -> int:
    panel = setting.option.panel
    if panel in (Panel.RUN, Panel.GATES):
        return 1 if panel is Panel.RUN else 2
    return 0 if setting.group else 3


def _plain_type(hint: Any) -> tuple[Any, bool]:
    """`X | None` and `tuple[X, ...]` -> X, and whether it holds many."""
    if get_origin(hint) in (UnionType, Union):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return (kinds[0] if len(kinds) == 1 else hint), False
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    return hint, False


def check_settings(settings: Any) -> None:
    """Check every field of a frozen dataclass, when it is built.

    Choices and paths that were given as text become what they stand for, one item by itself
    becomes a tuple of one.

    Raises:
        UsageError: a value is not what it must be.
    """
    owner: type = type(settings)
    for setting in settings_of(owner):
        if setting.group:
            continue
        value = _converted(setting, getattr(settings, setting.key))
        object.__setattr__(settings, setting.key, value)
        check = setting.option.check
        if check is not None and value is not None:
            require(check.passes(value), setting.called, check.expected, value)


def _converted(setting: Setting, value: Any) -> Any:
    if value is None:
        return None
    if setting.many:
        items = value if isinstance(value, tuple | list) else (value,)
        return tuple(map(Path, items) if setting.kind is Path else items)
    if setting.kind is Path:
        return Path(value)
    # Choices are compared by identity.
    return setting.choice(str(value)) if _is_choice(setting.kind) else value


def require(ok: bool, name: str, expected: str, got: object) -> None:
    """Raise UsageError unless `ok`."""
    if not ok:
        raise UsageError(f"{name}: expected {expected}; got {got}.")


def between(low: float, high: float, expected: str = "") -> Check:
    """A finite number from `low` to `high`."""
    words = expected or f"{low:g} to {high:g}".replace("e+0", "e")
    return Check(lambda value: math.isfinite(value) and low <= value <= high, words)


def at_least(low: int, unit: str = "") -> Check:
    """A number that is not smaller."""
    return Check(lambda value: value >= low, f"at least {low}" + (f" {unit}" if unit else ""))


def names_from(choices: Sequence[str]) -> Typed:
    """Names typed with commas between them."""

    def read(_: str, text: str) -> tuple[str, ...]:
        return tuple(word for word in split(text) if word)

    return Typed(read, ",".join, tuple(choices))


def split(text: str) -> list[str]:
    """The words between commas."""
    return [word.strip() for word in text.split(",")]
