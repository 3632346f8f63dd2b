"""The one place that imports ONNX Runtime, with its telemetry off."""

from __future__ import annotations

import os
from types import ModuleType

TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"
"""Environment variable that ONNX Runtime reads when it is loaded, and never again."""


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime's package, told before it is loaded to write and send nothing about its use.

    From 1.31 on it else keeps an identifier of the machine and a database of events in the user's
    cache folder, and looks up a host to send them to; `disable_telemetry_events()` comes too late.
    The variable stays set, so that every process started from here inherits it. An application
    that imports onnxruntime before ssmpress must set it itself.
    """
    os.environ[TELEMETRY_SWITCH] = "1"
    import onnxruntime  # noqa: TID251

    return onnxruntime  # type: ignore[no-any-return]
