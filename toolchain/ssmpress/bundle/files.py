"""What runs a bundle without Python, ONNX Runtime and ssmrun; its commands; the archive."""

from __future__ import annotations

import gzip
import shlex
import stat
import tarfile
from pathlib import Path

from ssmpress.bundle.runtime_library import RUNTIME_NAME, RuntimeLibrary
from ssmpress.errors import BadInputError
from ssmpress.files import copy, replaced, sha256
from ssmpress.machine import RUNNER_NAME, get_runner_path
from ssmpress.tasks import LanguageModel

RUNTIME_FILES = (RUNTIME_NAME, RUNNER_NAME)
"""What every bundle of one version and machine has in common beside the op library."""

_RUN_IT = """\
On Linux, {machine}, glibc 2.28 or later with libstdc++, no Python needed: copy this folder to the
device, check it, run it.

```sh
scp -r {local} USER@DEVICE:
ssh USER@DEVICE {verify}
ssh USER@DEVICE {run}
```

`ssmrun bench` measures it there, `ssmrun --help` lists the rest. `manifest.json` has the
checksum of every file; ssmrun checks them first."""


def run_it(name: str, machine: str, command: str = LanguageModel.words.command) -> str:
    """Commands for a bundle's README.

    Args:
        name: of its folder. machine: that it is for. command: of ssmrun, for the model's task.

    Two shells read the words after ssh, this host's and the device's: they are quoted twice.
    """
    # scp takes a name with a colon for a host, and every program one with a dash for an option.
    local = f"./{name}" if name.startswith("-") or ":" in name else name
    folder = shlex.quote(f"./{name}" if name.startswith("-") else name)
    verify, run = f"{folder}/ssmrun verify {folder}", f"{folder}/ssmrun {command}"
    return _RUN_IT.format(
        machine=machine,
        local=shlex.quote(local),
        verify=shlex.quote(verify),
        run=shlex.quote(run.replace("{name}", folder)),
    )


def write_runtime_files(folder: Path, machine: str, runtime: RuntimeLibrary) -> None:
    """Copy RUNTIME_FILES, which run the model without Python, into a bundle's folder.

    Raises:
        DeviceError: the package has no runner for the machine. WriteError: a copy failed.
        BadInputError: the library is not the one that was checked.
    """
    copy(runtime.path, folder / RUNTIME_NAME)
    if (digest := sha256(folder / RUNTIME_NAME)) != runtime.sha256:
        raise BadInputError(
            f"{runtime.path}: expected sha256 {runtime.sha256[:12]}...; got {digest[:12]}... It "
            "was changed while this command ran: run it again."
        )
    copy(get_runner_path(machine), folder / RUNNER_NAME, 0o755)


def archive_path(out: Path) -> Path:
    """`OUT.tar.gz`, beside the folder."""
    return out.with_name(out.name + ".tar.gz")


def write_archive(folder: Path, out: Path, name: str) -> None:
    """Pack a bundle's folder: the same files give the same bytes, whoever packs them and when.

    Args:
        out: the archive; replaced whole or not at all. name: of the folder inside it.

    Raises:
        WriteError: it cannot be written.
    """
    with (
        replaced(out) as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in [folder, *sorted(folder.iterdir())]:
            _add(archive, path, name if path == folder else f"{name}/{path.name}")


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
