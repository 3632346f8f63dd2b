"""What a device needs beside the model: op library, ONNX Runtime, ssmrun; the archive."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path

from ssmpress.bundle.runtime_library import RUNTIME_NAME, RuntimeLibrary
from ssmpress.errors import BadInputError
from ssmpress.machine import LIBRARY_NAME, RUNNER_NAME, get_library_path, get_runner_path
from ssmpress.task_config import Kind

RUNTIME_FILES = (RUNTIME_NAME, RUNNER_NAME)
"""What every bundle of one version and machine has in common beside the op library."""

_RUN_IT = """\
On Linux, {machine}, glibc 2.28 or later with libstdc++, no Python needed: copy this folder to the
device, check it, run it.

```sh
scp -r {name} USER@DEVICE:
ssh USER@DEVICE {name}/ssmrun verify {name}
ssh USER@DEVICE {name}/ssmrun {command}
```

`ssmrun bench {name}` measures it there, `ssmrun --help` lists the rest. `manifest.json` has the
checksum of every file; ssmrun checks them first."""


_COMMANDS = {
    Kind.LANGUAGE_MODEL: 'generate {name} --prompt "The river" --max-tokens 50',
    Kind.CLASSIFICATION: "eval {name} labelled.jsonl",
    Kind.FORECAST: "eval {name} series.csv",
}


def run_it(name: str, machine: str, kind: Kind = Kind.LANGUAGE_MODEL) -> str:
    """Commands for a bundle's README. name: of its folder. machine: that it is for."""
    command = _COMMANDS[kind].format(name=name)
    return _RUN_IT.format(name=name, machine=machine, command=command)


def write_device_files(folder: Path, machine: str, runtime: RuntimeLibrary) -> tuple[str, ...]:
    """Copy them into a bundle's folder; their names.

    Raises:
        DeviceError: the package has no op library or runner for the machine.
    """
    shutil.copyfile(get_library_path(machine), folder / LIBRARY_NAME)
    shutil.copyfile(runtime.path, folder / RUNTIME_NAME)
    shutil.copyfile(get_runner_path(machine), folder / RUNNER_NAME)
    (folder / RUNNER_NAME).chmod(0o755)
    return (LIBRARY_NAME, RUNTIME_NAME, RUNNER_NAME)


def archive_path(out: Path) -> Path:
    """`OUT.tar.gz`, beside the folder."""
    return out.with_name(out.name + ".tar.gz")


def write_archive(folder: Path, out: Path, name: str) -> None:
    """Pack a bundle's folder: the same files give the same bytes, whoever packs them and when.

    Args:
        out: the archive; replaced whole or not at all. name: of the folder inside it.

    Raises:
        BadInputError: it cannot be written.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as raw:
            with (
                gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
            ):
                for path in [folder, *sorted(folder.iterdir())]:
                    _add(archive, path, name if path == folder else f"{name}/{path.name}")
            raw.flush()
            os.fsync(raw.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(out)
    except OSError as error:
        raise BadInputError(f"{out}: cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    mode = path.stat().st_mode
    entry.mode = 0o755 if path.is_dir() or mode & stat.S_IXUSR else 0o644
    if path.is_dir():
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
        return
    entry.size = path.stat().st_size
    with path.open("rb") as file:
        archive.addfile(entry, file)
