"""The command `compress`: arguments -> Recipe -> pipeline -> exit code. No logic of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from ssmpress.cli import options
from ssmpress.cli.entry import run_app
from ssmpress.cli.streams import say
from ssmpress.errors import (
    EXIT_INTERRUPTED,
    EXIT_PASS,
    EXIT_USAGE,
    UsageError,
    check_packages,
    notes_of,
    noting,
)
from ssmpress.formats import PLAN_BYTES
from ssmpress.gate.policy import gate_settings
from ssmpress.recipe.named import named_recipe
from ssmpress.recipe.pick import parse_pick
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.deploy import DeploySettings, Target
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.sweep import Sweep

EPILOG = """
[bold]Examples[/bold]

  compress --demo

  compress model.pt --sparsity 0.7

  compress my-mamba --calibration wiki.txt --evaluation test.txt

  compress my-classifier --calibration train.jsonl --evaluation test.jsonl

  compress my-forecaster --calibration train.csv --evaluation test.csv

  compress best.ckpt --net my_net.py

  compress my-mamba --target arm64 --device ssh://pi@raspberrypi.local

  compress my-mamba --sparsity 0.7 --dry-run

[bold]Exit codes[/bold]  0 pass, 1 internal error, 2 usage, 3 quality gate failed,
4 latency or size gate failed, 5 inconclusive, 6 bad input,
7 device unavailable.
"""

INTRODUCTION = """\
compress: a trained Mamba checkpoint in, a small fast bundle and a proof out

  compress --demo                             a small model that comes along
  compress MODEL --dry-run                    the plan: sizes, memory, time
  compress MODEL --recover none               a first look within a minute
  compress MODEL --sparsity 0.7               the real thing, some minutes
  compress MODEL --sparsity 0.5,0.6,0.7 --pick "retention>=0.95"
                                              several, keep the fastest good one
  compress MODEL --min-speedup 1.5            a gate for CI, by the exit code

MODEL is a folder of mamba-ssm or Hugging Face (config.json and weights), or a
bare state dict with tokenizer.json beside it. Text to calibrate and judge on:
--calibration FILE --evaluation FILE; without them Python's manual is used.
The bundle is written to MODEL-s70; open its report.html.

  compress --help                             every option
  compress --install-completion               options by the Tab key
"""

DEMO_MODEL = Path(__file__).parents[1] / "demo"
"""A Mamba of 1.2 million weights that has read Python's manual."""

app = typer.Typer(add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog=EPILOG)
@options.with_settings(Recipe)
def compress(
    recipe: options.RecipeName = "default",
    gate: options.Policy = None,
    *,
    given: options.Given,
    pick: options.Pick = None,
    demo: options.Demo = False,
    json_output: options.Json = False,
    dry_run: options.DryRun = False,
    plan_bytes: options.PlanBytes = PLAN_BYTES,
    version: options.Version = False,
) -> None:
    """Prune a trained Mamba model, pack it for a small CPU, and prove what it cost.

    Writes a folder with the ONNX model, the op library for the target, the
    tokenizer, checksums and a report that sets the result beside the dense
    model, measured in the same run.
    """
    given[""]["model"] = _model(given[""].get("model"), demo)
    raise typer.Exit(_act(_sweep(recipe, given, gate, pick), dry_run, plan_bytes, json_output))


def _model(given: Path | None, demo: bool) -> Path:
    """The checkpoint: MODEL, or the one that comes with ssmpress."""
    if (given is not None) == demo:
        got = f"{given} and --demo" if demo else "neither"
        raise UsageError(f"MODEL: expected a checkpoint, or --demo in its place; got {got}.")
    return DEMO_MODEL if given is None else given


def _sweep(name: str, given: options.Given, policy: Path | None, pick: str | None) -> Sweep:
    """What the command line asks for. name: of the recipe that the options given override."""
    prune, recover = named_recipe(name)
    sparsities = given["prune"].pop("sparsity", (prune.sparsity,))
    values = given["pack"].pop("values", (PackSettings.values,))
    own, limits = given[""], given["gate"]
    target = own.get("target", Target.HOST)
    recipe = Recipe(
        **{"out": _default_out(own["model"], sparsities, target), **own},
        prune=replace(prune, sparsity=sparsities[0], **given["prune"]),
        recover=replace(recover, **given["recover"]),
        pack=PackSettings(values=values[0], **given["pack"]),
        data=DataSettings(**given["data"]),
        gate=gate_settings(
            limits, policy, limits.pop("baseline", None), GateSettings.min_retention
        ),
        deploy=DeploySettings(**given["deploy"]),
    )
    return Sweep(recipe, sparsities, values, parse_pick(pick) if pick is not None else ())


def _act(sweep: Sweep, dry_run: bool, plan_bytes: int, json_output: bool) -> int:
    """Plan, or run one point or several; the exit code."""
    check_packages()
    if sweep.pick and len(sweep.points()) == 1:
        raise UsageError(
            "--pick: expected several --sparsity or --values to pick from; got one of each."
        )
    try:
        if dry_run:
            return _plan(sweep, plan_bytes, json_output)
        if len(sweep.points()) > 1:
            return _run_sweep(sweep, json_output)
        return _run(sweep.recipe, json_output)
    except KeyboardInterrupt as stop:
        notes = notes_of(stop) or ["no bundle was written", "the same command starts again"]
        say(f"interrupted: {'; '.join(notes)}.", err=True)
        return EXIT_INTERRUPTED


def _default_out(model: Path, sparsities: tuple[float, ...], target: Target) -> Path:
    name = Path(os.path.abspath(model)).name if model.is_dir() else model.stem  # noqa: PTH100
    kind = f"s{100 * sparsities[0]:g}" if len(sparsities) == 1 else "sweep"
    suffix = "" if target is Target.HOST else f"-{target}"
    return Path(f"{name}-{kind}{suffix}")


def _users_prints() -> AbstractContextManager[object]:
    """What a network of the user's own prints goes to stderr: stdout is for the result."""
    return redirect_stdout(sys.stderr)


def _plan(sweep: Sweep, plan_bytes: int, json_output: bool) -> int:
    from ssmpress.cli.console import print_note
    from ssmpress.plan import make_plan, make_plans

    with _users_prints():
        if len(sweep.points()) == 1:  # it needs no folders of its own
            plans = {"": make_plan(sweep.recipe, print_note, plan_bytes)}
        else:
            plans = make_plans(sweep, print_note, plan_bytes)
    if json_output:
        told = {name: plan.to_dict() for name, plan in plans.items()}
        _print_json({"points": told} if len(told) > 1 else next(iter(told.values())))
    else:
        from ssmpress.cli.console import print_plan, print_plans

        if len(plans) > 1:
            print_plans(plans)
        else:
            print_plan(next(iter(plans.values())))
    return EXIT_PASS


def _run(recipe: Recipe, json_output: bool) -> int:
    from ssmpress.cli.console import watching
    from ssmpress.report.terminal import print_report

    with watching(Sweep(recipe, (recipe.prune.sparsity,), (recipe.pack.values,))) as watch:
        from ssmpress.pipeline import compress as run_recipe

        with _users_prints():
            result = run_recipe(recipe, watch)
    with noting(f"the bundle {result.out} is complete"):
        print_report(result.report)
        say(f"Bundle: {result.out}", err=True)
        if json_output:
            _print_json(result.report)
    return result.exit_code


def _run_sweep(sweep: Sweep, json_output: bool) -> int:
    from ssmpress.cli.console import watching
    from ssmpress.report.terminal import print_sweep

    with watching(sweep) as watch:
        from ssmpress.sweep import run_sweep

        with _users_prints():
            result = run_sweep(sweep, watch)
    picked = result.summary["pick"] and result.summary["pick"]["chosen"]
    with noting(f"the sweep {result.out} is complete"):
        print_sweep(result.summary)
        say(f"{'Bundle' if picked else 'Bundles'}: {result.out}", err=True)
        if json_output:
            _print_json(result.summary)
    return result.exit_code


def _print_json(value: dict[str, Any]) -> None:
    say(json.dumps(value, allow_nan=False))


def _interrupt(*_: object) -> None:
    """SIGTERM ends a run as Ctrl-C does: what is half-written goes."""
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of `compress` and `ssmpress`."""
    signal.signal(signal.SIGTERM, _interrupt)
    if len(sys.argv) == 1 and not any(name.endswith("_COMPLETE") for name in os.environ):
        sys.exit(run_app(_introduce))
    sys.exit(run_app(app))


def _introduce() -> None:
    say(INTRODUCTION, err=True, end="")
    raise SystemExit(EXIT_USAGE)
