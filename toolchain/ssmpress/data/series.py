"""Time series: CSV files -> z-scored values -> windows of lookback and horizon. NumPy only."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssmpress.callbacks import Note, silent
from ssmpress.data.dates import time_problem
from ssmpress.data.delimited import DELIMITERS, Decimals, decimals_of, delimiter_of, is_missing
from ssmpress.data.held_out import MIN_SAMPLES, PART, Split
from ssmpress.data.overlap import every_run, part_in, run_keys
from ssmpress.data.text import read_text
from ssmpress.errors import BadInputError
from ssmpress.printable import amount

MOST_MISSING = 0.5
"""Part of a column's values that may be filled."""


class Scale(Protocol):
    """The columns that are read of a series, and the mean and deviation of each."""

    @property
    def variates(self) -> tuple[str, ...]: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


class Windows(Scale, Protocol):
    """A scale, and the time steps that a window reads and those after them."""

    @property
    def lookback(self) -> int: ...

    @property
    def horizon(self) -> int: ...


@dataclass(frozen=True)
class SeriesWindows:
    """Every window of a series: `lookback` steps to read and the `horizon` steps after them.

    values: float32 (n, variates), z-scored. A window starts at every time step that leaves room
    for the whole of it, so consecutive ones overlap; none is left out.
    """

    values: NDArray[np.float32]
    lookback: int
    horizon: int

    def __post_init__(self) -> None:
        needed = self.lookback + self.horizon
        if len(self.values) < needed:
            raise BadInputError(
                f"the series has {len(self.values):,} time steps; one window needs {needed:,} "
                f"(lookback {self.lookback} and horizon {self.horizon}). Give a longer series."
            )

    @property
    def count(self) -> int:
        """The number of windows."""
        return len(self.values) - self.lookback - self.horizon + 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Time steps that each window reads, int64 (count,): all alike."""
        return np.full(self.count, self.lookback, np.int64)

    def arrays(
        self, numbers: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], None]:
        """Inputs (b, lookback, variates) and targets (b, horizon, variates) of these windows."""
        steps = np.asarray(numbers)[:, None] + np.arange(self.lookback + self.horizon)
        windows = self.values[steps]
        return windows[:, : self.lookback].copy(), windows[:, self.lookback :].copy(), None

    def part_in(self, other: object) -> float:
        """Part of the series, 0 .. 1, that other samples of this kind have too, in runs as long as
        what a window reads."""
        assert isinstance(other, SeriesWindows)
        keys = run_keys(self.values, self.lookback)
        return part_in(keys, every_run(other.values, self.lookback))

    def hold_out(self, count: int, seed: int) -> Split[SeriesWindows, SeriesWindows] | None:
        """The end of the series, and what comes before: they have no time step in common.

        Returns:
            None where the series is too short. Of the windows at its end some, evenly spread.
        """
        steps, whole = len(self.values) // PART, self.lookback + self.horizon
        windows = steps - whole + 1
        if windows < MIN_SAMPLES or len(self.values) - steps < whole:
            return None
        training, held = (
            SeriesWindows(values, self.lookback, self.horizon)
            for values in (self.values[:-steps], self.values[-steps:])
        )
        numbers = np.unique(np.linspace(0, windows - 1, min(count, windows)).astype(np.int64))
        return Split(training, held, numbers, min(len(numbers), steps / whole))

    def digest(self) -> bytes:
        """SHA-256 of what decides the windows."""
        sizes = f"{self.values.shape} {self.lookback} {self.horizon}".encode()
        return hashlib.sha256(sizes + np.ascontiguousarray(self.values).tobytes()).digest()


@dataclass(frozen=True)
class _Table:
    """A file's rows. lines: where in the file each ends. fields: of each row, one per name."""

    path: Path
    delimiter: str
    heading: list[str]
    lines: list[int]
    fields: list[list[str]]


def read_csv(
    path: Path, variates: Sequence[str] | None = None, note: Note = silent
) -> tuple[list[str], NDArray[np.float64]]:
    """Columns of numbers of a CSV file with a heading (plain, .xz or .gz).

    Columns may be separated by commas, semicolons, tabs or bars, and numbers have decimal points or
    commas. A value that is missing is that of the row before; those before a column's first value
    are that one. Leaving rows out would move all later ones in time.

    Args:
        path: rows in the order of time. variates: names of the columns; None takes every column
            that begins with a number, so that a column of dates is left out.
        note: called with what was found: separators, filled values, dates that are uneven.

    Returns:
        The names, and float64 (rows, variates).

    Raises:
        BadInputError: no heading or no row; a column is missing, stands twice, has hardly a value,
            or holds something that is no finite number (the message names line and column).
    """
    table = _read_table(Path(path), variates or ())
    heading = table.heading
    if variates is None:
        kinds = Decimals(), Decimals(comma=True)
        variates = [
            name
            for name, field in zip(heading, table.fields[0], strict=True)
            if any(kind.number(field) is not None for kind in kinds)
        ]
    if missing := [name for name in variates if heading.count(name) != 1]:
        raise BadInputError(
            f"{path}: expected one column named {missing[0]!r}, which the model forecasts; got "
            f"{', '.join(heading)[:200]}. Rename the columns, or give the series the model is for."
        )
    places = [heading.index(name) for name in variates]
    values = _numbers(table, places, note)
    _fill(table, variates, values, note)
    if problem := time_problem(heading, table.fields, places):
        note(f"{path}: {problem}")
    return list(variates), values


def _read_table(path: Path, variates: Sequence[str]) -> _Table:
    content = read_text(path).removeprefix("\ufeff")
    delimiter = delimiter_of(content, variates)
    reader = csv.reader(io.StringIO(content), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise BadInputError(
            f"{path}, line {reader.line_num}: cannot be read: {error}. Write the file again."
        ) from error
    if len(rows) < 2:
        raise BadInputError(
            f"{path}: expected a heading and rows of numbers; got {amount(len(rows), 'line')}. "
            "Give a CSV file with a column for each variate."
        )
    heading = [name.strip() for name in rows[0][1]]
    for line, row in rows[1:]:
        if len(row) != len(heading):
            more = delimiter == "," and len(row) > len(heading)
            raise BadInputError(
                f"{path}, line {line}: expected {amount(len(heading), 'field')} as in the heading; "
                f"got {len(row)}. "
                + (
                    "If its numbers have decimal commas, separate the columns by semicolons."
                    if more
                    else "Repair the line."
                )
            )
    lines, fields = zip(*rows[1:], strict=True)
    return _Table(path, delimiter, heading, list(lines), list(fields))


def _numbers(table: _Table, places: Sequence[int], note: Note) -> NDArray[np.float64]:
    """float64 (rows, places), NaN where a value is missing."""
    path, delimiter = table.path, table.delimiter
    decimals = decimals_of([row[place] for row in table.fields for place in places], delimiter)
    if decimals is None:
        raise BadInputError(
            f"{path}: expected numbers that are read in one way; got such as 1,234, a thousand or "
            "a decimal comma. Write decimal points, or separate the columns by semicolons."
        )
    if delimiter != "," or decimals.comma:
        comma = " and numbers with decimal commas" * decimals.comma
        note(f"{path}: read with columns separated by {DELIMITERS[delimiter]}{comma}")
    values = np.full((len(table.fields), len(places)), np.nan)
    for at, row in enumerate(table.fields):
        for column, place in enumerate(places):
            number = decimals.number(row[place])
            if number is not None and np.isfinite(number):
                values[at, column] = number
            elif not is_missing(row[place]):
                point = "comma" if decimals.comma else "point"
                raise BadInputError(
                    f"{path}, line {table.lines[at]}, column {table.heading[place]!r}: expected a "
                    f"finite number with a decimal {point}, or nothing; got {row[place][:40]!r}. "
                    "Write the number, or leave the field empty."
                )
    return values


def _fill(table: _Table, variates: Sequence[str], values: NDArray[np.float64], note: Note) -> None:
    """Put the value of the row before in place of each that is missing, and say so."""
    missing = np.isnan(values)
    counts = missing.sum(0)
    if not counts.any():
        return
    rows = len(values)
    for name, count in zip(variates, counts, strict=True):
        if count > MOST_MISSING * rows:
            raise BadInputError(
                f"{table.path}, column {name!r}: expected values in at least half of the rows; got "
                f"{amount(rows - int(count), 'value')} in {amount(rows, 'row')}. Fill it, or give "
                "another series."
            )
    for column in np.flatnonzero(counts):
        known = np.flatnonzero(~missing[:, column])
        before = np.maximum(np.searchsorted(known, np.arange(rows), side="right") - 1, 0)
        values[:, column] = values[known[before], column]
    named = ", ".join(
        f"{name} {count:,}" for name, count in zip(variates, counts.tolist(), strict=True) if count
    )
    note(
        f"{table.path}: {amount(int(counts.sum()), 'value')} of {values.size:,} missing ({named}): "
        "filled with the last value before, those at the start with the first after"
    )


def scaled(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float32]:
    """(x - mean) / std. values: float (n, variates)."""
    result: NDArray[np.float32] = ((values - np.array(scale.mean)) / np.array(scale.std)).astype(
        np.float32
    )
    return result


def load_series(paths: Iterable[Path], task: Windows, note: Note = silent) -> SeriesWindows:
    """The windows of CSV files, one after the other as one series.

    Args:
        note: see read_csv.

    Raises:
        BadInputError: see read_csv; or too few time steps for one window.
    """
    files = [Path(path) for path in paths]
    parts = [scaled(read_csv(path, task.variates, note)[1], task) for path in files]
    try:
        return SeriesWindows(np.concatenate(parts), task.lookback, task.horizon)
    except BadInputError as error:
        raise BadInputError(f"{', '.join(map(str, files))}: {error}") from error


def first_windows(windows: SeriesWindows, count: int) -> SeriesWindows:
    """The first windows: at most `count`, at least one."""
    count = max(1, min(count, windows.count))
    steps = windows.lookback + windows.horizon + count - 1
    return SeriesWindows(windows.values[:steps], windows.lookback, windows.horizon)


def to_csv(windows: SeriesWindows, scale: Scale) -> str:
    """The values in their own units, in double precision: z-scored again they are the same."""
    values = windows.values.astype(np.float64) * np.array(scale.std) + np.array(scale.mean)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(scale.variates)
    writer.writerows(values.tolist())
    return text.getvalue()
