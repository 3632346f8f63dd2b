"""Whether the rows of a table are in the order of time, and evenly spaced, by its column of dates.

A forecaster takes every row for one time step, whatever the dates say: what does not fit is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from ssmpress.printable import amount

NAMES = ("date", "time", "datetime", "timestamp", "ds")
_FORMATS = (
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%m/%d/%Y",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%y %H:%M",
    "%Y-%m",
)


def time_problem(heading: Sequence[str], rows: Sequence[Sequence[str]], used: Sequence[int]) -> str:
    """What a person should know of the time of the rows; empty where there is nothing.

    Args:
        heading: names of the columns. rows: their fields, in the file's order. used: numbers of the
            columns that hold values, none of which is the time.
    """
    for column in _candidates(heading, used):
        texts = [row[column].strip() for row in rows]
        if times := _parsed(texts, named=heading[column].lower() in NAMES):
            return _disorder(heading[column], texts, times) or _gaps(heading[column], texts, times)
    return ""


def _candidates(heading: Sequence[str], used: Sequence[int]) -> list[int]:
    """Columns that may be dates, those that are called so first."""
    others = [number for number in range(len(heading)) if number not in used]
    return sorted(others, key=lambda number: heading[number].lower() not in NAMES)


def _parsed(texts: Sequence[str], *, named: bool) -> list[datetime]:
    """The dates, read by the one way to write them that puts all in order; empty if none does.

    named: the column is called a time, so that numbers are one: years, or since 1970 seconds or
    milliseconds.
    """
    readings: list[list[datetime]] = []
    for read in _readers(named):
        try:
            read(texts[0])
            readings.append([read(text) for text in texts])
        except (ValueError, OverflowError, OSError):
            continue
        if readings[-1] == sorted(readings[-1]):
            return readings[-1]
    return readings[0] if readings else []


def _readers(named: bool) -> list[Callable[[str], datetime]]:
    readers: list[Callable[[str], datetime]] = [_iso]
    readers += [partial(_by_format, pattern) for pattern in _FORMATS]
    return [*readers, partial(_by_format, "%Y"), _epoch] if named else readers


def _iso(text: str) -> datetime:
    if text.isdecimal():  # 20260102 is a date to Python, and a number to most people
        raise ValueError(text)
    return _utc(datetime.fromisoformat(text))


def _by_format(pattern: str, text: str) -> datetime:
    return _utc(datetime.strptime(text, pattern))


def _epoch(text: str) -> datetime:
    seconds = float(text)
    return datetime.fromtimestamp(seconds / 1000 if seconds > 1e11 else seconds, UTC)


def _utc(time: datetime) -> datetime:
    """A time without a zone as if it were UTC: differences are then those that stand there."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _disorder(name: str, texts: Sequence[str], times: Sequence[datetime]) -> str:
    back = [i for i in range(1, len(times)) if times[i] < times[i - 1]]
    if not back:
        return ""
    first = back[0]
    return (
        f"the rows are not in the order of time: by column {name!r}, row {first + 1} "
        f"({texts[first]}) stands after {texts[first - 1]}, and so {_others(len(back) - 1)}. They "
        "are read as they stand: sort the file."
    )


def _gaps(name: str, texts: Sequence[str], times: Sequence[datetime]) -> str:
    steps = [times[i] - times[i - 1] for i in range(1, len(times))]
    if not steps or len(set(steps)) == 1 or _monthly(times):
        return ""
    usual, _ = Counter(steps).most_common(1)[0]
    if not usual:  # several rows of one date: the rest of the time stands in another column
        return ""
    odd = [i for i, step in enumerate(steps, 1) if step != usual]
    first = odd[0]
    return (
        f"the rows are not evenly spaced in time: column {name!r} goes on by {usual} from row to "
        f"row, but from {texts[first - 1]} to {texts[first]} (row {first + 1}) by "
        f"{steps[first - 1]}, and so {_others(len(odd) - 1)}. They are taken for evenly spaced: "
        "add the missing rows, with empty fields, which are filled."
    )


def _others(count: int) -> str:
    return f"do {amount(count, 'other')}" if count else "does no other"


def _monthly(times: Sequence[datetime]) -> bool:
    """Whether they go on by as many months each time: at the same day, or at the ends of months."""
    months = [12 * time.year + time.month for time in times]
    steps = {months[i] - months[i - 1] for i in range(1, len(months))}
    last = all((time + timedelta(days=1)).day == 1 for time in times)
    same = len({(time.day, time.hour, time.minute, time.second) for time in times}) == 1
    return len(steps) == 1 and min(steps) > 0 and (same or last)
