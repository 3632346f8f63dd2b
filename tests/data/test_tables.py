"""Tables and labelled lines as people have them: what is read of each, and what is said of it."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lra.prepare import byte_tokenizer

from ssmpress.data.dates import time_problem
from ssmpress.data.delimited import DELIMITERS, delimiter_of
from ssmpress.data.labelled import load_labelled, read_labelled
from ssmpress.data.series import read_csv
from ssmpress.errors import BadInputError
from ssmpress.tasks import Classification

PLAIN = "date,a,b\n2026-01-01,1.5,10\n2026-01-02,-2.25,20\n2026-01-03,3e-1,30\n"
EXPECTED = [[1.5, 10.0], [-2.25, 20.0], [0.3, 30.0]]
EUROPEAN = PLAIN.replace(",", ";").replace(".", ",")
TASK = Classification(classes=("no", "yes"), max_length=8)


def read(tmp_path: Path, text: str, variates: Any = ("a", "b")) -> tuple[Any, list[str]]:
    """Values and notes of a file."""
    (tmp_path / "x.csv").write_text(text)
    notes: list[str] = []
    values = read_csv(tmp_path / "x.csv", variates, notes.append)[1]
    return values.tolist(), notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAIN, ""),
        (PLAIN.replace(",", ";"), "columns separated by semicolons"),
        (PLAIN.replace(",", "\t"), "columns separated by tabs"),
        (PLAIN.replace(",", "|"), "columns separated by bars"),
        (EUROPEAN, "columns separated by semicolons and numbers with decimal commas"),
        (EUROPEAN.replace(";", "\t"), "columns separated by tabs and numbers with decimal commas"),
        (
            re.sub(r"([^,\n]+)", r'"\1"', PLAIN).replace(".", ","),
            "columns separated by commas and numbers with decimal commas",
        ),
        ("\ufeff" + PLAIN.replace("\n", "\r\n"), ""),
        (PLAIN.replace("a,b", " a , b "), ""),
    ],
)
def test_separators_and_decimals_are_found_and_told(tmp_path: Path, text: str, said: str) -> None:
    for variates in (("a", "b"), None):
        values, notes = read(tmp_path, text, variates)
        assert values == EXPECTED
        assert len(notes) == bool(said) and (not said or notes[0].endswith(said))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a,b\n1,5,2\n",
            "line 2: expected 2 fields as in the heading; got 3. If its numbers have "
            "decimal commas, separate the columns by semicolons.",
        ),
        ("b\n1\n2,3\n", "line 3: expected 1 field as in the heading; got 2."),
        ("b\n", "got 1 line."),
        ('a,b\n"1,234","5,678"\n', "got such as 1,234, a thousand or a decimal comma"),
        (
            "a;b\n1,5;2.5\n",
            "line 2, column 'b': expected a finite number with a decimal comma, or "
            "nothing; got '2.5'",
        ),
        ("a;b\n1.5;1,234.5\n", "column 'b': expected a finite number with a decimal point"),
        ("a,b\n1,inf\n", "column 'b': expected a finite number"),
        (
            "a,b\n1,\n2,\n3,4\n",
            "column 'b': expected values in at least half of the rows; got 1 value in 3 rows",
        ),
        ('a,b\n1,"' + "x" * 200_000 + '"\n', "line 2: cannot be read: field larger than"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(message)):
        read(tmp_path, text, ("b",) if text.startswith("b") else ("a", "b"))


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NULL", " ", "-", "?"])
def test_a_missing_value_is_the_one_before_and_told(tmp_path: Path, missing: str) -> None:
    rows = [f"{missing},1", "2,2", f"{missing},3", f"{missing},{missing}", "5,5", "6,6", "7,7"]
    values, notes = read(tmp_path, "\n".join(["a,b", *rows]) + "\n")
    assert np.transpose(values).tolist() == [[2, 2, 2, 2, 5, 6, 7], [1, 2, 3, 3, 5, 6, 7]]
    assert notes == [
        f"{tmp_path / 'x.csv'}: 4 values of 14 missing (a 3, b 1): filled with the last value "
        "before, those at the start with the first after"
    ]


@given(
    values=st.lists(
        st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=2),
        min_size=2,
        max_size=6,
    ),
    delimiter=st.sampled_from(list(DELIMITERS)),
    comma=st.booleans(),
)
def test_every_way_to_write_a_table_gives_the_same_values(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[list[float]],
    delimiter: str,
    comma: bool,
) -> None:
    def written(value: float) -> str:
        text = f"{value:.4f}"
        return f'"{text.replace(".", ",")}"' if comma else text

    lines = [delimiter.join(map(written, row)) for row in values]
    path = tmp_path_factory.mktemp("tables") / "x.csv"
    path.write_text("\n".join([delimiter.join(("a", "b")), *lines]) + "\n")
    read = read_csv(path, ("b", "a"))[1]
    assert read.tolist() == [[float(f"{v:.4f}") for v in reversed(row)] for row in values]


def test_the_wanted_columns_decide_between_separators() -> None:
    text = "load, total;oil\n1,5;2,5\n"
    assert delimiter_of(text, ("oil",)) == ";"
    assert delimiter_of(text, ("load",)) == ","
    assert delimiter_of("one\n1\n") == ","


def dates(count: int, step: timedelta, pattern: str = "%Y-%m-%d %H:%M:%S") -> list[str]:
    start = datetime(2026, 1, 12)
    return [(start + i * step).strftime(pattern) for i in range(count)]


def problem(column: list[str], name: str = "date") -> str:
    return time_problem([name, "a"], [[date, "1"] for date in column], [1])


HOUR = timedelta(hours=1)
PATTERNS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M",
    "%d.%m.%Y %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_gap_and_disorder_are_told_however_dates_are_written(pattern: str) -> None:
    even = dates(600, HOUR, pattern)
    assert problem(even) == problem(even, "when") == ""
    gap = even[:300] + even[301:]
    assert problem(gap) == (
        "the rows are not evenly spaced in time: column 'date' goes on by 1:00:00 from row to row, "
        f"but from {even[299]} to {even[301]} (row 301) by 2:00:00, and so does no other. They are "
        "taken for evenly spaced: add the missing rows, with empty fields, which are filled."
    )
    swapped = [*even[:4], even[5], even[4], *even[6:]]
    assert problem(swapped).startswith(
        f"the rows are not in the order of time: by column 'date', row 6 ({even[4]}) stands after "
        f"{even[5]}, and so does no other."
    )


@pytest.mark.parametrize(
    "column",
    [
        ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"],  # the ends of months
        ["2026-01-01", "2026-04-01", "2026-07-01", "2026-10-01"],  # quarters
        ["2023", "2024", "2025", "2026"],
        ["1767225600", "1767229200", "1767232800"],
        ["1767225600000", "1767229200000", "1767232800000"],
        ["2026-01-01", "2026-01-01", "2026-01-01", "2026-01-02"],  # the hour stands elsewhere
        ["2026-03-29 01:00", "2026-03-29 02:00", "2026-03-29 03:00"],  # an hour that clocks skip
        ["spring", "summer", "autumn"],
        ["2026-01-01", "", "2026-01-03"],
        ["", "", ""],
        ["2026-01-01"],
    ],
)
def test_what_is_even_or_no_date_is_not_told(column: list[str]) -> None:
    assert problem(column) == ""


def test_numbers_are_years_only_where_the_column_says_so() -> None:
    assert problem(["1500", "2300", "1900"], "load") == ""
    assert "not in the order of time" in problem(["1500", "2300", "1900"])


def test_a_series_tells_of_its_dates(tmp_path: Path) -> None:
    rows = [f"{date},{i},{i}" for i, date in enumerate(dates(9, HOUR)) if i != 4]
    _, notes = read(tmp_path, "\n".join(["date,a,b", *rows]) + "\n")
    (note,) = notes
    assert note.startswith(f"{tmp_path / 'x.csv'}: the rows are not evenly spaced in time")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "a", "label": None}, "label: expected a string or an integer; got null. Label"),
        ({"text": "a", "label": ["no", "yes"]}, "got a list. A text has one class: choose it."),
        ({"text": "a", "label": True}, "got true. Write the class as it stands in config.json."),
        ({"text": "a", "label": 1.5}, "got 1.5. Write the class"),
        ({"text": "a", "label": {}}, "got an object. Write the class"),
        ({"text": None, "label": "no"}, "text: expected a string; got null. Leave the line out"),
        ({"text": ["a"], "label": "no"}, "text: expected a string; got a list."),
        ({"text": " \t", "label": "no"}, "expected a text; got one of white space only. Leave the"),
        ({"text": "a", "label": ""}, "got an empty one. Use the model's own classes"),
        (
            {"review": "a", "stars": 1},
            "expected the keys `text` and `label`; got review, stars. Rename one to 'text'.",
        ),
        ({}, "got none. Rename one to 'text'."),
        ([{"text": "a", "label": "no"}], "got a list. Write one object per line"),
        ("a", "expected a JSON object with `text` and `label`; got a string."),
        (None, "expected a JSON object with `text` and `label`; got null."),
    ],
)
def test_a_labelled_line_is_refused_by_its_cause(tmp_path: Path, line: Any, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "b", "label": "yes"}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(BadInputError) as error:
        load_labelled([path], byte_tokenizer(), TASK, 256)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert message in str(error.value)


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_labelled_tables_have_any_separator(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "x.csv"
    rows = [("label", "text"), ("no", '"a, b; c|d"'), ("yes", "e")]
    path.write_text("\n".join(map(delimiter.join, rows)) + "\n")
    notes: list[str] = []
    assert list(read_labelled(path, notes.append)) == [(2, "a, b; c|d", "no"), (3, "e", "yes")]
    assert len(notes) == (delimiter != ",")
