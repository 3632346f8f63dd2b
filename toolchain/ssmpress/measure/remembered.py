"""A quality that was measured before, for the same command when it goes on: the same numbers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssmpress.errors import BadInputError, WriteError
from ssmpress.files import read_json, write_json
from ssmpress.results.quality import LanguageModelQuality, TaskQuality, VariantQuality

_KINDS = {kind.judged_on: kind for kind in (LanguageModelQuality, TaskQuality)}


def recall(file: Path) -> VariantQuality | None:
    """What `remember` wrote; None where there is nothing, or something else."""
    try:
        fields = read_json(file)
        kind = _KINDS[fields.pop("judged_on")]
        values: dict[str, Any] = {}
        for name, value in fields.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return kind(**values)
    except (BadInputError, KeyError, TypeError):
        return None


def remember(file: Path, quality: VariantQuality) -> None:
    """Write it; where that cannot be, or a number is not finite, it is measured again."""
    with suppress(WriteError, ValueError):
        write_json(file, {"judged_on": quality.judged_on, **asdict(quality)})
