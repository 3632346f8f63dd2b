"""What goes wrong in a user's own code, told with the line of theirs."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssmpress.errors import BadInputError, SsmpressError

_OURS = Path(__file__).parents[1]
_STDLIB = Path(sysconfig.get_path("stdlib"))
_DTYPE = re.compile(r"\b(Half|Double|BFloat16)\b")
_GPU = re.compile(r"\bcuda|nvidia", re.IGNORECASE)


@contextmanager
def in_users_code(what: str) -> Iterator[None]:
    """Turn any error of the block into a sentence that names the line where it was raised.

    Args:
        what: of the user's that runs, such as "loss".

    Raises:
        BadInputError: the block failed.
    """
    try:
        yield
    except SsmpressError:
        raise
    except Exception as error:
        raise BadInputError(
            f"Network: {what} failed{users_line(error)}: {_first_line(error)}.{_cure(error)}"
        ) from error


def users_line(error: BaseException) -> str:
    """ " at FILE:LINE", the last line on the way to an error that is neither ours nor a package's;
    nothing where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not is_installed(Path(f.filename))]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def is_installed(file: Path) -> bool:
    """Whether a file is ours, a package's or Python's, and not the user's own."""
    parts = file.parts
    ours = file.is_relative_to(_OURS) and "examples" not in parts
    package = bool({"site-packages", "dist-packages"} & set(parts))
    return ours or package or file.is_relative_to(_STDLIB) or str(file).startswith("<")


def _cure(error: BaseException) -> str:
    """What helps against an error that many meet, or nothing."""
    if isinstance(error, ImportError):
        from ssmpress.nets.stand_ins import names_of

        package = (error.name or "").partition(".")[0]
        if names := names_of(package):
            return (
                f" ssmpress stands in for {package}, with {', '.join(names)}: import from these, "
                "or define what you need in your own file."
            )
        missing = isinstance(error, ModuleNotFoundError)
        return f" Install what has {error.name}, beside ssmpress." if missing else ""
    if _DTYPE.search(str(error)):
        return (
            " Networks are compressed in float32, whatever build makes: give inputs in float32, or "
            "convert them in forward."
        )
    if _GPU.search(str(error)):
        return (
            " Networks are built and compressed on the CPU: leave out .cuda() and "
            'device="cuda", and what needs a GPU.'
        )
    return ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
