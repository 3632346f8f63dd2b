"""Run a command beside busy loops, as on a machine that others use too: `make test-loaded`.

    python tests/loaded.py --loops 4 -- COMMAND ...

Exits with the command's exit code. The loops end with it, and by themselves within a moment where
this process is killed: each looks whether its parent still is.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys

LOOP = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    sum(range(1_000_000))
"""


def run_loaded(command: list[str], loops: int) -> int:
    """The command's exit code; 128 and the number of the signal that ended it."""
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command as well
    parent, busy = str(os.getpid()), []
    try:
        for _ in range(loops):
            busy.append(subprocess.Popen([sys.executable, "-c", LOOP, parent]))
        code = process.wait()
    finally:
        for loop in busy:
            loop.kill()
            loop.wait()
    return code if code >= 0 else 128 - code


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    sys.exit(run_loaded(given.command, given.loops))


if __name__ == "__main__":
    main()
