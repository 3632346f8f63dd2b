"""The checks that can stop a run before its work.

A run and its dry run ask the same function, so that the plan never promises what the run refuses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ssmpress.bundle.files import archive_path
from ssmpress.bundle.out_folder import check_out
from ssmpress.cache import check_cache
from ssmpress.callbacks import Note
from ssmpress.devices.plan import Place, find_place
from ssmpress.errors import UsageError
from ssmpress.files import check_replaceable
from ssmpress.gate.judge import read_report
from ssmpress.processors import crowded_note, usable_processors
from ssmpress.recipe.recipe import Recipe
from ssmpress.results.report import Report
from ssmpress.stages.pruned import Pruned, check_save_checkpoint, given_pruned
from ssmpress.stages.source import (
    AnySource,
    check_source,
    load,
    resolve_sparsity,
    weights_left,
)


@dataclass(frozen=True)
class Ready:
    """What was found and read. place: where the bundle will run. baseline: the gate's report, or
    None. source: model and data. pruned: the weights of `--pruned`, or None."""

    place: Place
    baseline: Report | None
    source: AnySource
    pruned: Pruned | None = None


def preflight(
    recipe: Recipe,
    points: Iterable[Recipe],
    note: Note,
    values_up_to: int | None = None,
    source: AnySource | None = None,
) -> Ready:
    """Whatever should not show only after an hour of training.

    Args:
        recipe: of the run, or of the whole sweep. points: of the sweep; of a run itself.
        note: called with one sentence about each decision.
        values_up_to: bytes of weight files above which only the sizes are read; None reads all.
        source: model and data that are at hand; None reads them.

    Raises:
        SsmpressError: the run cannot be done; says why.
    """
    points = list(points)
    check_out(recipe.out)
    for point in points:
        check_save_checkpoint(point.save_checkpoint)
    if crowded := crowded_note("--threads", recipe.threads, usable_processors()):
        note(crowded)
    if recipe.trains or len(points) > 1:
        check_cache()
    if recipe.deploy.archive:
        check_archive(archive_path(recipe.out))
    place = find_place(recipe, note)
    baseline = None if recipe.gate.baseline is None else read_report(recipe.gate.baseline)
    if source is None:
        source = load(points[0], note, values_up_to)
    else:
        check_source(points[0], source, note)
    for point in points[1:]:
        resolve_sparsity(point, weights_left(point, source))
    return Ready(place, baseline, source, given_pruned(recipe, source))


def check_archive(archive: Path) -> None:
    """Whether the archive will find its place.

    Raises:
        UsageError: a folder is there. WriteError: the file cannot be written.
    """
    if archive.is_dir():
        raise UsageError(f"--archive: expected to write the file {archive}; a folder is there.")
    if archive.parent.is_dir():  # else it is made with the bundle
        check_replaceable(archive)
