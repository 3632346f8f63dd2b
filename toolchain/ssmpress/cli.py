"""The command `compress`: arguments -> Recipe -> pipeline -> exit code. No logic of its own."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmpress import __version__, gate_options
from ssmpress.entry import run_app
from ssmpress.errors import EXIT_PASS, UsageError
from ssmpress.ops import Values
from ssmpress.policy import gate_settings
from ssmpress.recipe import (
    PROJECTIONS,
    Compute,
    DataSettings,
    Head,
    Method,
    PackSettings,
    Recipe,
    Scope,
    SparsityOf,
    Target,
    available_threads,
    named_recipe,
)

EXIT_INTERRUPTED = 130

EPILOG = """
[bold]Examples[/bold]

  compress model.pt --sparsity 0.7

  compress ./my-mamba --sparsity 0.8 --calibration wiki.txt --evaluation test.txt

  compress ./my-mamba --sparsity 0.7 --dry-run

[bold]Exit codes[/bold]  0 pass, 1 internal error, 2 usage, 3 quality gate failed, 4 latency or
size gate failed, 5 inconclusive, 6 bad input, 7 device unavailable.
"""

app = typer.Typer(add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False)

DATA, PRUNING, BUNDLE, RUN = "Data", "Pruning", "Bundle", "Run"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ssmpress {__version__}")
        raise typer.Exit


@app.command(epilog=EPILOG, no_args_is_help=True)
def compress(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint: a folder of mamba-ssm or Hugging Face, or a bare state dict "
            "(.pt, .pth, .bin, .safetensors).",
            show_default=False,
        ),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            metavar="default|wikitext",
            help="Named settings; options given beside it override them.",
            rich_help_panel=PRUNING,
        ),
    ] = "default",
    sparsity: Annotated[
        float, typer.Option(help="Part of the weights that becomes zero.", rich_help_panel=PRUNING)
    ] = 0.7,
    sparsity_of: Annotated[
        SparsityOf,
        typer.Option(
            help="What --sparsity is a part of: the prunable weights or the whole model.",
            rich_help_panel=PRUNING,
        ),
    ] = SparsityOf.PRUNABLE,
    method: Annotated[
        Method, typer.Option(help="Which weights matter.", rich_help_panel=PRUNING)
    ] = Method.GRADIENT_MAGNITUDE,
    alpha: Annotated[
        float,
        typer.Option(help="Exponent of the gradient: |w| |dL/dw|^alpha.", rich_help_panel=PRUNING),
    ] = 1.0,
    scope: Annotated[
        Scope,
        typer.Option(
            help="One threshold for the whole model, or one in each matrix.",
            rich_help_panel=PRUNING,
        ),
    ] = Scope.GLOBAL,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="unstructured|block RxC|n:m",
            help="Which weights go together: each by itself, blocks of R rows x C columns, or all "
            "but n of every m columns.",
            rich_help_panel=PRUNING,
        ),
    ] = "unstructured",
    prunable: Annotated[
        str,
        typer.Option(
            help="Components that may be pruned, separated by commas; also embedding, lm_head.",
            rich_help_panel=PRUNING,
        ),
    ] = ",".join(PROJECTIONS),
    recover: Annotated[
        str,
        typer.Option(
            metavar="auto|none|STEPS",
            help="Training during and after pruning, taught by the dense model. auto: the full "
            "recipe on a GPU, a time budget on a CPU.",
            rich_help_panel=PRUNING,
        ),
    ] = "auto",
    compute: Annotated[
        Compute,
        typer.Option(help="Where calibration and recovery run.", rich_help_panel=PRUNING),
    ] = Compute.AUTO,
    distill: Annotated[
        float,
        typer.Option(
            help="Weight of the divergence from the dense model in recovery; the rest is "
            "cross-entropy.",
            rich_help_panel=PRUNING,
        ),
    ] = 0.9,
    mask_every: Annotated[
        int,
        typer.Option(
            help="Recovery steps between two tightenings of the masks.", rich_help_panel=PRUNING
        ),
    ] = 20,
    checkpoint_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds between two saves of an unfinished recovery, from which the same "
            "command goes on after a kill.",
            rich_help_panel=PRUNING,
        ),
    ] = 60.0,
    values: Annotated[
        Values,
        typer.Option(
            help="Type of the stored weights; int8 and int4 quantise the activations too.",
            rich_help_panel=BUNDLE,
        ),
    ] = Values.INT8,
    head: Annotated[
        Head,
        typer.Option(
            help="Type of the head's weights, which a tied embedding shares. auto: 4 bits beside "
            "int8, else as --values.",
            rich_help_panel=BUNDLE,
        ),
    ] = Head.AUTO,
    target: Annotated[
        Target, typer.Option(help="What the bundle runs on.", rich_help_panel=BUNDLE)
    ] = Target.HOST,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the bundle; by default MODEL-sSPARSITY-TARGET here.",
            rich_help_panel=BUNDLE,
            show_default=False,
        ),
    ] = None,
    pruned: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint of MODEL that is pruned already, for example by --save-checkpoint "
            "on a machine with a GPU; packs and measures it beside MODEL.",
            rich_help_panel=PRUNING,
            show_default=False,
        ),
    ] = None,
    save_checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Also write the pruned weights, zeros and all, for mamba-ssm and Hugging Face.",
            rich_help_panel=BUNDLE,
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="tokenizer.json; by default the one beside the weights.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text (plain, .xz, .gz) or token ids (.npy) to calibrate and recover on; may be "
            "given several times. By default Python's language manual, which every machine has.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text to evaluate on, disjoint from --calibration; may be given several times.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    evaluation_tokens: Annotated[
        int | None,
        typer.Option(
            help="Evaluate at most this many tokens.", rich_help_panel=DATA, show_default="all"
        ),
    ] = None,
    gate: Annotated[
        Path | None,
        typer.Option(
            help="policy.toml with the limits; the options below override it.",
            rich_help_panel=gate_options.PANEL,
            show_default=False,
        ),
    ] = None,
    baseline: gate_options.Baseline = None,
    min_retention: gate_options.DefaultMinRetention = None,
    max_perplexity_increase: gate_options.MaxPerplexityIncrease = None,
    max_decode_ms: gate_options.MaxDecodeMs = None,
    max_decode_p99_ms: gate_options.MaxDecodeP99Ms = None,
    min_speedup: gate_options.MinSpeedup = None,
    max_bundle_bytes: gate_options.MaxBundleBytes = None,
    max_rss_bytes: gate_options.MaxRssBytes = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of every stage.", rich_help_panel=RUN, show_default="all processors"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all random draws.", rich_help_panel=RUN)] = 0,
    json_output: Annotated[
        bool,
        typer.Option("--json", help="Print the report as JSON on stdout.", rich_help_panel=RUN),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the plan: shapes, bytes, memory, time.", rich_help_panel=RUN
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Prune a trained Mamba model, pack it for a small CPU, and prove what it cost.

    Writes a folder with the ONNX model, the op library for the target, the tokenizer, checksums
    and a report that sets the result beside the dense model, measured in the same run.
    """
    limits = {
        "min_retention": min_retention,
        "max_perplexity_increase": max_perplexity_increase,
        "max_decode_ms": max_decode_ms,
        "max_decode_p99_ms": max_decode_p99_ms,
        "min_speedup": min_speedup,
        "max_bundle_bytes": max_bundle_bytes,
        "max_rss_bytes": max_rss_bytes,
    }
    named_prune, named_recover = named_recipe(recipe)
    prune = replace(
        named_prune,
        **_given(
            context,
            sparsity=sparsity,
            sparsity_of=sparsity_of,
            method=method,
            alpha=alpha,
            scope=scope,
            pattern=pattern,
            prunable=tuple(name.strip() for name in prunable.split(",") if name.strip()),
        ),
    )
    settings = Recipe(
        model=model,
        out=out or _default_out(model, sparsity, target),
        target=target,
        prune=prune,
        recover=replace(
            named_recover,
            steps=_recovery_steps(recover),
            compute=compute,
            **_given(
                context,
                distill=distill,
                mask_every=mask_every,
                checkpoint_seconds=checkpoint_seconds,
            ),
        ),
        pack=PackSettings(values=values, head=head),
        data=DataSettings(
            tokenizer=tokenizer,
            calibration=tuple(calibration or ()),
            evaluation=tuple(evaluation or ()),
            evaluation_tokens=evaluation_tokens,
        ),
        gate=gate_settings(limits, gate, baseline, default_retention=0.95),
        threads=available_threads() if threads is None else threads,
        seed=seed,
        save_checkpoint=save_checkpoint,
        pruned=pruned,
    )
    try:
        code = _plan(settings, json_output) if dry_run else _run(settings, json_output)
    except KeyboardInterrupt:
        typer.echo(
            "interrupted: no bundle was written; the same command goes on with recovery.", err=True
        )
        code = EXIT_INTERRUPTED
    raise typer.Exit(code)


def _given(context: typer.Context, **options: Any) -> dict[str, Any]:
    """Those of the options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in options}
    given = {name for name, source in sources.items() if source and source.name != "DEFAULT"}
    return {name: options[name] for name in given}


def _default_out(model: Path, sparsity: float, target: Target) -> Path:
    name = model.resolve().name if model.is_dir() else model.stem
    suffix = "" if target is Target.HOST else f"-{target}"
    return Path(f"{name}-s{round(100 * sparsity)}{suffix}")


def _recovery_steps(text: str) -> int | None:
    words = {"auto": None, "none": 0}
    if text in words:
        return words[text]
    if text.isdecimal():
        return int(text)
    raise UsageError(f"--recover: expected auto, none or a number of steps; got {text!r}.")


def _plan(recipe: Recipe, json_output: bool) -> int:
    from ssmpress.plan import make_plan

    plan = make_plan(recipe)
    if json_output:
        _print_json(plan.to_dict())
    else:
        from ssmpress.console import print_plan

        print_plan(plan)
    return EXIT_PASS


def _run(recipe: Recipe, json_output: bool) -> int:
    from ssmpress.console import watching
    from ssmpress.report.terminal import print_report

    with watching(recipe) as watch:
        from ssmpress.pipeline import compress as run_recipe

        result = run_recipe(recipe, watch)
    print_report(result.report)
    typer.echo(f"Bundle: {result.out}", err=True)
    if json_output:
        _print_json(result.report)
    return result.exit_code


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, allow_nan=False))


def _interrupt(*_: object) -> None:
    """SIGTERM ends a run as Ctrl-C does: what is half-written goes."""
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of `compress` and `ssmpress`."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run_app(app))
