"""The gate's options, declared once for `compress` and `ssmpress-gate`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmpress.recipe.settings import RULES

PANEL = "Gates"

_HELP = {
    "min_retention": (
        "Least quality kept: dense / compressed perplexity or error, compressed / dense accuracy."
    ),
    "max_perplexity_increase": (
        "Most of compressed / dense perplexity - 1, of a language model; FACTORx compares with the "
        "baseline's."
    ),
    "max_decode_ms": "Most milliseconds per decoded token, text or forecast (median).",
    "max_decode_p99_ms": "Most milliseconds per decoded token, text or forecast (99th percentile).",
    "min_speedup": "Least dense decode time / compressed decode time.",
    "max_bundle_bytes": "Most bytes of what a device needs.",
    "max_rss_bytes": "Most bytes of peak memory.",
}

Baseline = Annotated[
    Path | None,
    typer.Option(
        help="report.json that limits such as 1.05x are multiples of.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
Policy = Annotated[
    Path | None,
    typer.Option(
        help="policy.toml with the limits; the options below override it.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


def with_limits(default_retention: str | None = None) -> Callable[[Any], Any]:
    """Give a command an option for every rule of the gate.

    The command takes `limits`, by rule as typed, None where not given; its options stand where
    that parameter does.

    Args:
        default_retention: what the help says of `--min-retention` where it is not given.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            limits = {rule: given.pop(rule) for rule in RULES}
            command(**given, limits=limits)

        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            own = parameter.name != "limits"
            parameters += [parameter] if own else _parameters(default_retention)
        vars(with_options)["__signature__"] = signature.replace(parameters=parameters)
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate


def _parameters(default_retention: str | None) -> list[inspect.Parameter]:
    found = []
    for rule in RULES:
        shown = default_retention if rule == "min_retention" else None
        option = typer.Option(
            help=_HELP[rule], metavar="NUMBER|FACTORx", rich_help_panel=PANEL,
            show_default=shown or False,
        )  # fmt: skip
        found.append(
            inspect.Parameter(
                rule, inspect.Parameter.KEYWORD_ONLY, default=None,
                annotation=Annotated[str | None, option],
            )
        )  # fmt: skip
    return found
