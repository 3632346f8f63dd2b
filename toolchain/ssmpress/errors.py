"""User-facing exceptions: one sentence that says what, where, expected, got and what to do.

Every exception carries the exit code that the command line documents:

====  =====================================================================
code  meaning
====  =====================================================================
0     pass
1     internal error (a defect of ssmpress)
2     usage: an option has a value it cannot have
3     the quality gate failed
4     the latency or size gate failed
5     inconclusive: a gate's metric is missing or too noisy to decide
6     bad input: a file is missing, damaged, or disagrees with another
7     the device is unavailable
130   interrupted by the user
====  =====================================================================
"""

from __future__ import annotations

import errno

EXIT_PASS = 0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Numbers of an OSError that says the disk takes no more: no defect of ssmpress."""

EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_QUALITY = 3
EXIT_LATENCY_OR_SIZE = 4
EXIT_INCONCLUSIVE = 5
EXIT_BAD_INPUT = 6
EXIT_DEVICE = 7
EXIT_INTERRUPTED = 130


class SsmpressError(Exception):
    """An error with a message meant for the person who ran the command."""

    exit_code = EXIT_INTERNAL


class UsageError(SsmpressError):
    """An option has a value it cannot have, alone or together with another one."""

    exit_code = EXIT_USAGE


class BadInputError(SsmpressError):
    """A file is missing, damaged, hostile, or disagrees with another one."""

    exit_code = EXIT_BAD_INPUT


class ParityError(SsmpressError):
    """The exported graph does not compute what the masked PyTorch model computes."""

    exit_code = EXIT_INTERNAL


class DeviceError(SsmpressError):
    """A device, or the op library built for it, cannot be used."""

    exit_code = EXIT_DEVICE
