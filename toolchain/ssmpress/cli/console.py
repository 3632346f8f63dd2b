"""What a run prints on stderr: notes, progress with time left, and the plan of a dry run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ssmpress.printable import amount, one_line
from ssmpress.recipe.sweep import Sweep
from ssmpress.report.tables import size
from ssmpress.report.terminal import SafeConsole

if TYPE_CHECKING:
    from ssmpress.pipeline import Watch
    from ssmpress.plan import Plan

WIDTH = 80


def make_console() -> Console:
    """stderr, at most 80 columns; rich honours NO_COLOR and TERM."""
    console = SafeConsole(stderr=True, highlight=False, markup=False)
    console.width = min(WIDTH, console.width)
    return console


@contextmanager
def watching(sweep: Sweep) -> Iterator[Watch]:
    """A Watch that prints; the progress display is gone when the block ends."""
    console = make_console()
    recipe = sweep.recipe
    parts = ", ".join(f"{100 * part:g}" for part in sorted(sweep.sparsities))
    console.print(
        f"{one_line(str(recipe.model))}: {parts} % of the "
        f"{'weights' if recipe.prune.sparsity_of == 'model' else 'prunable weights'} to zero, "
        f"{recipe.prune.method}, values {', '.join(sweep.values)}, "
        f"{amount(recipe.threads, 'thread')}"
    )
    from ssmpress.pipeline import Watch

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    lines = _Lines(console, progress)
    try:
        yield Watch(progress=lines.advance, note=lines.note)
    finally:
        lines.keep_last()
        progress.stop()


def _note(console: Console, text: str) -> None:
    console.print(f"  {one_line(text)}")


class _Lines:
    """One bar for each kind of work; without a terminal, one line when it starts and ends."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self.console, self.progress = console, progress
        self.kind, self.task = "", TaskID(-1)
        self.last, self.shown = "", ""

    def note(self, text: str) -> None:
        """Print a sentence, after what the work before it ended with."""
        self.keep_last()
        self.shown = text
        _note(self.console, text)

    def keep_last(self) -> None:
        """Print what the work said last, such as its loss: its bar is gone when it ends."""
        if ":" in self.last and self.last != self.shown:
            _note(self.console, self.last)
        self.shown, self.last = self.last, ""

    def advance(self, what: str, done: int, total: int) -> None:
        """Show `done` of `total` of `what`; what stands before a colon names the kind."""
        kind = what.partition(":")[0]
        if kind != self.kind:
            if self.kind:
                self.keep_last()
                self.progress.remove_task(self.task)
            self.kind = kind
            self.progress.start()
            self.task = self.progress.add_task(what, total=total)
            if not self.console.is_terminal:
                _note(self.console, f"{kind} ...")
        self.last = what
        self.progress.update(self.task, description=what, completed=done, total=total)


def print_note(text: str) -> None:
    """A note of a dry run, which has no progress to show."""
    _note(make_console(), text)


def print_plan(plan: Plan) -> None:
    """The plan as tables."""
    console = make_console()
    console.print(f"{plan.model}, {plan.model_weights / 1e6:.1f} M weights")
    _print_lines(console, plan)
    console.print(
        f"Zeros: {plan.sparsity_prunable:.1%} of {plan.prunable_weights / 1e6:.1f} M prunable "
        f"weights = {plan.sparsity_model:.1%} of the model"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("matrix", "shape", "format", "dense fp32", "stored"):
        table.add_column(name, justify="left" if name in ("matrix", "format") else "right")
    kinds: dict[tuple[str, int, int, str], list[int]] = {}
    for m in plan.matrices:
        kind = (m.name.split(".")[-2], m.rows, m.columns, m.format)
        kinds.setdefault(kind, []).append(m.bytes)
    for (component, rows, columns, chosen), sizes in kinds.items():
        count = f"{len(sizes)} x " if len(sizes) > 1 else ""
        table.add_row(
            count + component,
            f"{rows} x {columns}",
            chosen,
            size(4 * rows * columns * len(sizes)),
            size(sum(sizes)),
        )
    table.add_row("model.onnx", "", "", size(plan.dense_bytes), size(plan.model_bytes))
    table.add_row("bundle", "", "", "", size(plan.bundle_bytes))
    console.print(table)
    _print_bound(console, plan)
    console.print(
        f"Recovery: {plan.recovery}. Memory about {size(plan.ram_bytes)}, disk "
        f"{size(plan.disk_bytes)} (the dense baseline is removed at the end), time very roughly "
        f"{plan.seconds / 60:.0f} min."
    )


def _print_lines(console: Console, plan: Plan) -> None:
    """Target, data, gates, out and downloads."""
    from ssmpress.plan import plan_lines

    for line in plan_lines(plan):
        console.print(one_line(line))


def _print_bound(console: Console, plan: Plan) -> None:
    if plan.at_most:
        console.print(
            "Stored bytes are an estimate for pruning at once; channels that lose their use in "
            "recovery are removed and make it smaller."
        )


def print_plans(plans: Mapping[str, Plan]) -> None:
    """A sweep's plans: what they share, then one row each."""
    console = make_console()
    first = next(iter(plans.values()))
    console.print(f"{first.model}, {first.model_weights / 1e6:.1f} M weights")
    _print_lines(console, first)
    table = Table(box=None, pad_edge=False)
    for name in ("bundle", "zeros", "of the model", "model.onnx", "dense fp32"):
        table.add_column(name, justify="left" if name == "bundle" else "right")
    for name, plan in plans.items():
        table.add_row(
            name,
            f"{plan.sparsity_prunable:.1%}",
            f"{plan.sparsity_model:.1%}",
            size(plan.model_bytes),
            size(plan.dense_bytes),
        )
    console.print(table)
    _print_bound(console, first)
    seconds = sum(plan.seconds for plan in plans.values())
    console.print(
        f"Recovery of each sparsity: {first.recovery}. Memory about "
        f"{size(max(plan.ram_bytes for plan in plans.values()))}, time very roughly "
        f"{seconds / 60:.0f} min at most."
    )
