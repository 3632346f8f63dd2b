"""A quality that is read back is the same to the bit; what is damaged is measured again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssmpress.measure.remembered import recall, remember
from ssmpress.results.quality import LanguageModelQuality, TaskQuality, VariantQuality

numbers = st.floats(allow_nan=False, allow_infinity=False)
rows = st.lists(numbers, max_size=5).map(tuple)
counts = st.integers(0, 10**9)
qualities = st.one_of(
    st.builds(LanguageModelQuality, numbers, numbers, counts, counts, rows),
    st.builds(
        TaskQuality,
        numbers,
        rows,
        counts,
        counts,
        st.dictionaries(st.text(), numbers),
        st.lists(counts).map(tuple),
    ),
)


@given(quality=qualities)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_remembered_is_recalled(tmp_path: Path, quality: VariantQuality) -> None:
    remember(tmp_path / "quality", quality)
    assert recall(tmp_path / "quality") == quality


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{}",
        "[]",
        '{"judged_on": "text"}',
        '{"judged_on": "text", "other": 1}',
        '{"judged_on": ["text"]}',
    ],
)
def test_anything_else_is_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "quality").write_text(text)
    assert recall(tmp_path / "quality") is None


def test_what_cannot_be_kept_is_left(tmp_path: Path) -> None:
    quality = LanguageModelQuality(float("inf"), float("inf"), 1, 2, (float("inf"),))
    for file in (tmp_path / "quality", tmp_path / "absent" / "quality"):
        remember(file, quality)
    assert not list(tmp_path.iterdir())
