"""JSON from elsewhere: what is let through keeps the promises, the rest is a ValueError."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmpress.strict_json import DEPTH, parse_json

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@given(PLAIN)
def test_what_python_writes_comes_back(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.integers(-(10**400), 10**400))
def test_every_number_is_usable_or_refused(number: int) -> None:
    try:
        value = parse_json(str(number))
    except ValueError as error:
        assert abs(number) > 1.7e308
        assert "beyond every float" in str(error)
        return
    assert math.isfinite(float(value))
    assert value == number if -(2**63) <= number < 2**64 else isinstance(value, float)


@pytest.mark.parametrize(
    "digits", ["1e999", "-1e999", "1" + "0" * 400, "9" * 5000, "-" + "9" * 999]
)
def test_numbers_beyond_a_float_are_refused(digits: str) -> None:
    with pytest.raises(ValueError, match="is beyond every float"):
        parse_json(f'{{"a": [{digits}]}}')


@pytest.mark.parametrize("left", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [DEPTH + 1, 1000, 100_000, 1_000_000])
def test_deep_nesting_is_refused(left: str, depth: int) -> None:
    right = "]" if left == "[" else "}"
    with pytest.raises(ValueError, match=f"nested more than {DEPTH} levels"):
        parse_json(left * depth + "1" + right * depth)


def test_the_deepest_that_is_let_through() -> None:
    assert parse_json("[" * DEPTH + "1" + "]" * DEPTH)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('"\\ud800"', "half of a surrogate"),
        ('{"\\udc00": 1}', "half of a surrogate"),
        ('[{"k": "\\ud800\\u0041"}]', "half of a surrogate"),
        ('{"a": 1, "a": 1}', "key twice"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("", "Expecting value"),
        (b"\xff\xfe\xfd", "decode"),
        ("1 2", "Extra data"),
    ],
)
def test_other_surprises_are_refused(content: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(content)


def test_what_other_programs_write_is_let_through() -> None:
    """transformers does: a Mamba-2 has a limit of Infinity, a tokenizer one of 1e30."""
    values = parse_json(
        '{"limit": [0.0, Infinity], "long": 1000000000000000019884624838656}', foreign=True
    )
    assert values == {"limit": [0.0, math.inf], "long": 1e30}
