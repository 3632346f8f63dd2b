"""Starting processes that a test interrupts, and waiting for what they do."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable


def accept_interrupts() -> None:
    """For preexec_fn: SIGINT works in the child also where the test run itself ignores it.

    A shell without job control, as in many CI systems, starts background jobs with SIGINT ignored,
    and an ignored signal stays ignored across exec.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    """Whether it becomes true in a time that is long even on a busy machine."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
