"""Starting processes that a test interrupts."""

from __future__ import annotations

import signal


def accept_interrupts() -> None:
    """For preexec_fn: SIGINT works in the child also where the test run itself ignores it.

    A shell without job control, as in many CI systems, starts background jobs with SIGINT ignored,
    and an ignored signal stays ignored across exec.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
