"""The charts of a finished bundle or sweep: drawn last, and nothing is lost where they fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ssmpress import folders
from ssmpress.bundle.manifest import MANIFEST_NAME, seal_again
from ssmpress.bundle.out_folder import staged
from ssmpress.callbacks import Note
from ssmpress.errors import SsmpressError
from ssmpress.machine import python_environment

_MODULE = "ssmpress.report.draw"
_SECONDS = 600
"""A sweep's fifty charts take some seconds."""


def add_charts(out: Path, note: Note) -> None:
    """Put the charts into the pages of a folder that is complete without them.

    They are drawn in a process of their own, in a copy of the folder that then changes places with
    it: whatever happens, the folder is whole.

    Args:
        out: a bundle, or a sweep with its points. note: told why there are none.
    """
    try:
        with staged(out) as folder:
            folders.clone(out, folder)
            _draw(folder)
            for manifest in folder.rglob(MANIFEST_NAME):
                seal_again(manifest.parent, "report.html")
    except SsmpressError as error:
        note(f"report.html has no charts: {error}")


def _draw(folder: Path) -> None:
    """Run the process that draws.

    Raises:
        SsmpressError: it failed; the message says how.
    """
    command = [sys.executable, "-m", _MODULE, str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SECONDS,
            env=python_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SsmpressError(f"drawing them took more than {_SECONDS} seconds.") from error
    except OSError as error:
        raise SsmpressError(f"no process could be started: {error.strerror}.") from error
    if done.returncode < 0:
        raise SsmpressError(
            f"the process that draws them was ended by signal {-done.returncode}; a limit of the "
            "address space (ulimit -v) or too little memory does that."
        )
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise SsmpressError(f"the process that draws them ended with: {last[:200]}")
