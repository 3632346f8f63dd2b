"""A report as a dictionary, and the words in it that others compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]
"""A report as JSON types: docs/report.schema.json. `report.schema.build_report` makes one."""

VARIANTS = ("dense", "stock", "compressed")
"""dense: the unpruned checkpoint with the op library, the baseline of every gate. stock: the same
file in ONNX Runtime without the library. compressed: the bundle."""

HOST, EMULATED, REAL = "host", "emulated", "real"

EMULATED_TIME = (
    "not measured: an emulator's wall time says nothing about the processor it stands for"
)

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"
