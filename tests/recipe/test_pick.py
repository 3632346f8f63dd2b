"""--pick: the expression, what it refuses, and which bundle it keeps."""

from __future__ import annotations

from typing import Any

import pytest

from ssmpress.errors import UsageError
from ssmpress.recipe.pick import METRICS, Condition, parse_pick, pick


def point(**metrics: Any) -> dict[str, Any]:
    return {**dict.fromkeys(METRICS), **metrics}


def test_conditions_are_read() -> None:
    assert parse_pick("retention>=0.95") == (Condition("retention", ">=", 0.95),)
    assert parse_pick(" retention >= .95 and model_bytes<5e6 and speedup > 2 ") == (
        Condition("retention", ">=", 0.95),
        Condition("model_bytes", "<", 5e6),
        Condition("speedup", ">", 2.0),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected METRIC>=NUMBER, joined by and"),
        ("retention", "expected METRIC>=NUMBER"),
        ("retention==0.9", "expected METRIC>=NUMBER"),
        ("retention>=0.9 or speedup>2", "retention: expected a number|expected METRIC>=NUMBER"),
        ("retention>=0.9 and", "expected METRIC>=NUMBER"),
        ("retetion>=0.9", r"got 'retetion'\. Did you mean retention\?"),
        ("decode>=0.9", r"Did you mean decode_ms\?"),
        ("retention>=nan", "retention: expected a number; got 'nan'"),
        ("retention>=1e999", "expected a number"),
        ("retention>=0x9", "expected a number; got '0x9'"),
        ("__import__('os').system('true')>=1", "expected METRIC>=NUMBER"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pick(text)


@pytest.mark.parametrize(
    ("comparison", "met"),
    [
        (">=", [False, True, True]),
        ("<=", [True, True, False]),
        (">", [False, False, True]),
        ("<", [True, False, False]),
    ],
)
def test_comparisons_at_the_limit(comparison: str, met: list[bool]) -> None:
    condition = Condition("retention", comparison, 0.9)
    assert [condition.met_by(point(retention=value)) for value in (0.8, 0.9, 1.0)] == met


def test_the_fastest_that_qualifies_is_picked() -> None:
    points = [
        point(retention=0.99, speedup=1.5, model_bytes=30),
        point(retention=0.96, speedup=2.5, model_bytes=20),
        point(retention=0.80, speedup=4.0, model_bytes=10),
    ]
    assert pick(points, parse_pick("retention>=0.95")) == 1
    assert pick(points, parse_pick("retention>=0.95 and model_bytes>20")) == 0
    assert pick(points, parse_pick("retention>0.96")) == 0
    assert pick(points, parse_pick("retention>=0.995")) is None


def test_a_missing_metric_never_qualifies() -> None:
    for wrong in (None, "1", True, {}):
        assert pick([point(retention=wrong)], parse_pick("retention>=0")) is None


def test_without_latency_the_smallest_is_picked() -> None:
    points = [point(retention=1.0, model_bytes=size) for size in (30, 10, 20)]
    assert pick(points, parse_pick("retention>=0.95")) == 1
