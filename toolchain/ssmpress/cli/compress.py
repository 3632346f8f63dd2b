"""The command `compress`: arguments -> Recipe -> pipeline -> exit code. No logic of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from ssmpress.cli import gate_options as gates
from ssmpress.cli import options as o
from ssmpress.cli.entry import run_app
from ssmpress.errors import EXIT_INTERRUPTED, EXIT_PASS, EXIT_USAGE, UsageError
from ssmpress.gate.policy import gate_settings
from ssmpress.recipe.pick import parse_pick
from ssmpress.recipe.settings import (
    PROJECTIONS,
    Compute,
    DataSettings,
    DeploySettings,
    Head,
    Method,
    PackSettings,
    Recipe,
    Scope,
    SparsityOf,
    Sweep,
    Target,
    available_threads,
    named_recipe,
)

ALL_PROJECTIONS = ",".join(PROJECTIONS)

EPILOG = """
[bold]Examples[/bold]

  compress model.pt --sparsity 0.7

  compress ./my-mamba --sparsity 0.8 --calibration wiki.txt --evaluation test.txt

  compress ./my-classifier --calibration train.jsonl --evaluation test.jsonl

  compress ./my-forecaster --calibration train.csv --evaluation test.csv

  compress ./my-mamba --sparsity 0.7 --target arm64 --device ssh://pi@raspberrypi.local

  compress ./my-mamba --sparsity 0.7 --dry-run

[bold]Exit codes[/bold]  0 pass, 1 internal error, 2 usage, 3 quality gate failed, 4 latency or
size gate failed, 5 inconclusive, 6 bad input, 7 device unavailable.
"""

INTRODUCTION = """\
compress: a trained Mamba checkpoint in, a small fast bundle and a proof out

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

app = typer.Typer(add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog=EPILOG)
@gates.with_limits(default_retention="0.95; none with --gate")
def compress(
    context: typer.Context,
    model: o.Model,
    recipe: o.RecipeName = "default",
    sparsity: o.Sparsity = "0.7",
    sparsity_of: o.SparsityOfChoice = SparsityOf.PRUNABLE,
    method: o.MethodChoice = Method.GRADIENT_MAGNITUDE,
    alpha: o.Alpha = 1.0,
    scope: o.ScopeChoice = Scope.GLOBAL,
    pattern: o.PatternText = "unstructured",
    prunable: o.Prunable = ALL_PROJECTIONS,
    recover: o.Recover = "auto",
    compute: o.ComputeChoice = Compute.AUTO,
    distill: o.Distill = 0.9,
    mask_every: o.MaskEvery = 20,
    match_hidden: o.MatchHidden = 0.0,
    accumulate: o.Accumulate = 1,
    activation_checkpointing: o.ActivationCheckpointing = False,
    muon: o.Muon = False,
    deterministic: o.Deterministic = False,
    checkpoint_seconds: o.CheckpointSeconds = 60.0,
    pruned: o.Pruned = None,
    values: o.ValuesText = "int8",
    head: o.HeadChoice = Head.AUTO,
    keep_dead_channels: o.KeepDeadChannels = False,
    target: o.TargetChoice = Target.HOST,
    device: o.Device = None,
    device_threads: o.DeviceThreads = None,
    onnxruntime: o.OnnxRuntime = None,
    archive: o.Archive = False,
    pick: o.Pick = None,
    out: o.Out = None,
    save_checkpoint: o.SaveCheckpoint = None,
    tokenizer: o.Tokenizer = None,
    calibration: o.Calibration = None,
    evaluation: o.Evaluation = None,
    evaluation_tokens: o.EvaluationTokens = None,
    gate: gates.Policy = None,
    baseline: gates.Baseline = None,
    *,
    limits: dict[str, str | None],
    threads: o.Threads = None,
    seed: o.Seed = 0,
    json_output: o.Json = False,
    dry_run: o.DryRun = False,
    version: o.Version = False,
) -> None:
    """Prune a trained Mamba model, pack it for a small CPU, and prove what it cost.

    Writes a folder with the ONNX model, the op library for the target, the tokenizer, checksums
    and a report that sets the result beside the dense model, measured in the same run.
    """
    named_prune, named_recover = named_recipe(recipe)
    asked = bool(_given(context, sparsity=sparsity))
    sparsities = o.sparsities(sparsity) if asked else (named_prune.sparsity,)
    kinds = o.value_types(values)
    given = _given(
        context,
        sparsity_of=sparsity_of,
        method=method,
        alpha=alpha,
        scope=scope,
        pattern=pattern,
        prunable=tuple(name.strip() for name in prunable.split(",") if name.strip()),
    )
    trained = _given(
        context,
        distill=distill,
        mask_every=mask_every,
        match_hidden=match_hidden,
        accumulate=accumulate,
        activation_checkpointing=activation_checkpointing,
        muon=muon,
        deterministic=deterministic,
        checkpoint_seconds=checkpoint_seconds,
    )
    pruning = replace(named_prune, sparsity=sparsities[0], **given)
    settings = Recipe(
        model=model,
        out=out or _default_out(model, sparsities, target),
        target=target,
        prune=pruning,
        recover=replace(named_recover, steps=o.recovery_steps(recover), compute=compute, **trained),
        pack=PackSettings(values=kinds[0], head=head, keep_dead_channels=keep_dead_channels),
        data=DataSettings(
            tokenizer=tokenizer,
            calibration=tuple(calibration or ()),
            evaluation=tuple(evaluation or ()),
            evaluation_tokens=evaluation_tokens,
        ),
        gate=gate_settings(limits, gate, baseline, default_retention=0.95),
        deploy=DeploySettings(
            device=tuple(device or ()),
            device_threads=device_threads,
            onnxruntime=onnxruntime,
            archive=archive,
        ),
        threads=available_threads() if threads is None else threads,
        seed=seed,
        save_checkpoint=save_checkpoint,
        pruned=pruned,
    )
    conditions = parse_pick(pick) if pick is not None else ()
    sweep = Sweep(settings, sparsities, kinds, conditions)
    raise typer.Exit(_act(sweep, dry_run, json_output))


def _act(sweep: Sweep, dry_run: bool, json_output: bool) -> int:
    """Plan, or run one point or several; the exit code."""
    if sweep.pick and len(sweep.points()) == 1:
        raise UsageError(
            "--pick: expected several --sparsity or --values to pick from; got one of each."
        )
    try:
        if dry_run:
            return _plan(sweep, json_output)
        if len(sweep.points()) > 1:
            return _run_sweep(sweep, json_output)
        return _run(sweep.recipe, json_output)
    except KeyboardInterrupt:
        typer.echo(
            "interrupted: no bundle was written; the same command goes on where it stopped.",
            err=True,
        )
        return EXIT_INTERRUPTED


def _given(context: typer.Context, **options: Any) -> dict[str, Any]:
    """Those of the options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in options}
    given = {name for name, source in sources.items() if source and source.name != "DEFAULT"}
    return {name: options[name] for name in given}


def _default_out(model: Path, sparsities: tuple[float, ...], target: Target) -> Path:
    name = Path(os.path.abspath(model)).name if model.is_dir() else model.stem  # noqa: PTH100
    kind = f"s{100 * sparsities[0]:g}" if len(sparsities) == 1 else "sweep"
    suffix = "" if target is Target.HOST else f"-{target}"
    return Path(f"{name}-{kind}{suffix}")


def _plan(sweep: Sweep, json_output: bool) -> int:
    from ssmpress.bundle.out_folder import check_out
    from ssmpress.plan import make_plan

    check_out(sweep.recipe.out)
    points = sweep.points()
    if len(points) == 1:  # it needs no folders of its own
        points = dict.fromkeys(points, sweep.recipe)
    plans = {name: make_plan(recipe) for name, recipe in points.items()}
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

        result = run_recipe(recipe, watch)
    print_report(result.report)
    typer.echo(f"Bundle: {result.out}", err=True)
    if json_output:
        _print_json(result.report)
    return result.exit_code


def _run_sweep(sweep: Sweep, json_output: bool) -> int:
    from ssmpress.cli.console import watching
    from ssmpress.report.terminal import print_sweep

    with watching(sweep) as watch:
        from ssmpress.sweep import run_sweep

        result = run_sweep(sweep, watch)
    print_sweep(result.summary)
    picked = result.summary["pick"] and result.summary["pick"]["chosen"]
    typer.echo(f"{'Bundle' if picked else 'Bundles'}: {result.out}", err=True)
    if json_output:
        _print_json(result.summary)
    return result.exit_code


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, allow_nan=False))


def _interrupt(*_: object) -> None:
    """SIGTERM ends a run as Ctrl-C does: what is half-written goes."""
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of `compress` and `ssmpress`."""
    signal.signal(signal.SIGTERM, _interrupt)
    if len(sys.argv) == 1 and not any(name.endswith("_COMPLETE") for name in os.environ):
        typer.echo(INTRODUCTION, err=True, nl=False)
        sys.exit(EXIT_USAGE)
    sys.exit(run_app(app))
