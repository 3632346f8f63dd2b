"""docs/report.schema.json, and what a report has beyond it."""

from __future__ import annotations

import json
from typing import Any

from paths import ROOT

SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text())


def undescribed(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Keys of a report that its schema does not describe."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if isinstance(value, list) and "items" in schema:
        return [name for item in value for name in undescribed(item, schema["items"], path + "[]")]
    if not isinstance(value, dict) or not ("properties" in schema or path == ""):
        return []
    known, missing = schema["properties"], []
    for key, item in value.items():
        missing += (
            undescribed(item, known[key], f"{path}.{key}") if key in known else [f"{path}.{key}"]
        )
    return missing
