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

from ssmpress.data.held_out import MIN_SAMPLES, PART, Split
from ssmpress.data.overlap import every_run, part_in, run_keys
from ssmpress.data.text import read_text
from ssmpress.errors import BadInputError


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
        """Windows."""
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


def read_csv(
    path: Path, variates: Sequence[str] | None = None
) -> tuple[list[str], NDArray[np.float64]]:
    """Columns of numbers of a CSV file with a heading (plain, .xz or .gz).

    Args:
        path: rows in the order of time. variates: names of the columns; None takes every column
            that holds numbers only, so that a column of dates is left out.

    Returns:
        The names, and float64 (rows, variates).

    Raises:
        BadInputError: no heading or no row; a column is missing, stands twice, or holds something
            that is no finite number (the message names line and column).
    """
    rows = list(csv.reader(io.StringIO(read_text(Path(path)).removeprefix("\ufeff"))))
    rows = [(i, row) for i, row in enumerate(rows, 1) if row]  # type: ignore[misc]
    if len(rows) < 2:
        raise BadInputError(
            f"{path}: expected a heading and rows of numbers; got {len(rows)} lines. "
            "Give a CSV file with a column for each variate."
        )
    heading = [name.strip() for name in rows[0][1]]
    for line, row in rows[1:]:
        if len(row) != len(heading):
            raise BadInputError(
                f"{path}, line {line}: expected {len(heading)} fields as in the heading; got "
                f"{len(row)}. Repair the line."
            )
    if variates is None:
        variates = [name for i, name in enumerate(heading) if _number(rows[1][1][i]) is not None]
    if missing := [name for name in variates if heading.count(name) != 1]:
        raise BadInputError(
            f"{path}: expected one column named {missing[0]!r}, which the model forecasts; got "
            f"{', '.join(heading)[:200]}. Rename the columns, or give the series the model is for."
        )
    places = [heading.index(name) for name in variates]
    values = np.empty((len(rows) - 1, len(places)))
    for at, (line, row) in enumerate(rows[1:]):
        for column, place in enumerate(places):
            number = _number(row[place])
            if number is None:
                raise BadInputError(
                    f"{path}, line {line}, column {heading[place]!r}: expected a finite number; "
                    f"got {row[place][:40]!r}. Fill the gaps, or leave the rows out."
                )
            values[at, column] = number
    return list(variates), values


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def scaled(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float32]:
    """(x - mean) / std. values: float (n, variates)."""
    result: NDArray[np.float32] = ((values - np.array(scale.mean)) / np.array(scale.std)).astype(
        np.float32
    )
    return result


def load_series(paths: Iterable[Path], task: Windows) -> SeriesWindows:
    """The windows of CSV files, one after the other as one series.

    Raises:
        BadInputError: see read_csv; or too few time steps for one window.
    """
    files = [Path(path) for path in paths]
    parts = [scaled(read_csv(path, task.variates)[1], task) for path in files]
    try:
        return SeriesWindows(np.concatenate(parts), task.lookback, task.horizon)
    except BadInputError as error:
        raise BadInputError(f"{', '.join(map(str, files))}: {error}") from error


def first_windows(windows: SeriesWindows, count: int) -> SeriesWindows:
    """At most so many, at least one."""
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
