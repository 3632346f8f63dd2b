"""How much of the evaluation data was calibrated on too: measured on what was read, not on names.

A text or a series is compared run by run: the evaluation's runs of `span` steps, end to end, with
every run of the calibration. Texts of their own are compared whole. NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmpress.callbacks import Note, silent
from ssmpress.errors import UsageError
from ssmpress.recipe.recipe import Recipe

Keys = NDArray[np.uint64]
"""One hash (n,) of each piece that may stand in both."""

TEXT_SPAN = 64
"""Tokens per run: 64 bytes are a sentence, which two texts seldom share by chance. Of one half of
12 MB of Wikipedia 0.3 % of the runs are in the other, as bytes 0.2 %."""

LEAK = 0.1
"""Part of the evaluation data that may be in both, as short texts and boilerplate are."""

_BASE = 0x9E3779B97F4A7C15  # odd, its bits spread
_CHUNK = 1 << 20  # runs hashed at a time: 30 MB


def run_keys(rows: NDArray[Any], span: int) -> Keys:
    """Keys of the runs of `span` rows that stand end to end; a rest is left out, and so are runs
    of equal rows, which say nothing: padding, a sensor that stands still.

    Args:
        rows: (n,) or (n, k), integers or float32.
    """
    values = _row_values(rows)
    whole = values[: len(values) // span * span].reshape(-1, span)
    keys = _rolling(values, span)[::span][: len(whole)]
    moving: NDArray[np.bool_] = (whole != whole[:, :1]).any(axis=1) | (span == 1)
    return keys[moving]


def every_run(rows: NDArray[Any], span: int) -> Iterator[Keys]:
    """Keys of the runs of `span` rows that begin at each row, in chunks. rows: as of `run_keys`."""
    for begin in range(0, max(1, len(rows) - span + 1), _CHUNK):
        yield _rolling(_row_values(rows[begin : begin + _CHUNK + span - 1]), span)


def part_in(keys: Keys, others: Iterable[Keys]) -> float:
    """Part of the keys that are among others, 0 .. 1; 0 of none."""
    known, counts = np.unique(keys, return_counts=True)
    if not len(known):
        return 0.0
    shared = np.zeros(len(known), bool)
    for chunk in others:
        places = np.minimum(np.searchsorted(known, chunk), len(known) - 1)
        shared[places[known[places] == chunk]] = True
    return float(counts[shared].sum() / counts.sum())


def check_unseen(recipe: Recipe, part: float, note: Note = silent) -> None:
    """Whether quality may be measured on what recovery trains on.

    Args:
        part: of the evaluation data that the calibration has too, 0 .. 1.
        note: told of it where it may.

    Raises:
        UsageError: it is that much, and `allow_leak` is not set.
    """
    names = same_files(recipe)
    if not names and part < LEAK:
        return
    what = f"{', '.join(names)}: is" if names else f"{part:.0%} of it is in"
    if recipe.trains and not recipe.data.allow_leak:
        raise UsageError(
            f"--evaluation {what} --calibration too, which recovery trains on: the quality would "
            "be that of what was learned by heart. Give other data, --recover none or --allow-leak."
        )
    note(f"--evaluation {what} --calibration too; on unseen data quality may be lower")


def same_files(recipe: Recipe) -> list[str]:
    """Evaluation files that are calibration files too, as given."""
    calibration = {path.resolve() for path in recipe.data.calibration}
    return [str(path) for path in recipe.data.evaluation if path.resolve() in calibration]


def _row_values(rows: NDArray[Any]) -> Keys:
    """One number per row (n,), the same for the same row."""
    bits = rows.view(np.uint32) if rows.dtype == np.float32 else rows
    columns = np.atleast_2d(bits.astype(np.uint64).T)
    values = np.zeros(len(rows), np.uint64)
    for column in columns:
        values = (values + column + np.uint64(1)) * np.uint64(_BASE)
    return values


def _rolling(values: Keys, span: int) -> Keys:
    """sum over j of values[i + j] * base^(span - 1 - j) mod 2^64 for every i, by doubling."""
    if len(values) < span:
        return values[:0]
    block, length = values, 1  # runs of `length` values
    total, covered = values[:0], 0  # runs of `covered` values
    while True:
        if span & length:
            power = np.uint64(pow(_BASE, length, 1 << 64))
            total = total[: len(block) - covered] * power + block[covered:] if covered else block
            covered += length
        if covered == span:
            return total
        power = np.uint64(pow(_BASE, length, 1 << 64))
        block = block[:-length] * power + block[length:]
        length *= 2
