"""ONNX Runtime's shared library for a bundle, out of ONNX Runtime's own wheel.

For this machine's architecture it is the installed package's; for another one the wheel of the
same version is downloaded once with pip and kept, with its hash, under XDG_CACHE_HOME/ssmpress.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ssmpress.cache import cache_folder
from ssmpress.errors import BadInputError, DeviceError
from ssmpress.files import blaming, read_json, replaced, sha256, write_json
from ssmpress.folders import Temporary, temporary
from ssmpress.machine import host_machine

RUNTIME_NAME = "libonnxruntime.so"
"""Name in a bundle."""

_PLACE = "onnxruntime/capi/libonnxruntime.so."
_MEMBER = re.compile(re.escape(_PLACE) + r"([0-9]{1,6}(?:\.[0-9]{1,6}){0,3})")
_RECORD = re.compile(r"[\w.+-]+\.dist-info/RECORD")
_GIVEN = "given-"
_RECORD_LIMIT = 1 << 22
_LIMIT = 1 << 28  # bytes; today's library has 25 MB
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_DOWNLOAD_S = 600
_WHEEL_MB = 20
_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}


@dataclass(frozen=True)
class RuntimeLibrary:
    """A file to copy into bundles. source: the wheel's file name, or the installed package.

    place: the folder of a library out of a wheel that was given, which goes with this object.
    """

    path: Path
    version: str
    sha256: str
    source: str
    source_sha256: str | None
    place: Temporary | None = field(default=None, compare=False, repr=False)

    def describe(self) -> dict[str, str | None]:
        """What the manifest says of the library."""
        return {
            "onnxruntime": self.version,
            "source": self.source,
            "source_sha256": self.source_sha256,
        }


def find_runtime_library(machine: str, wheel: Path | None = None) -> RuntimeLibrary:
    """The library for a machine.

    Args:
        machine: as `uname -m` says it: x86_64 or aarch64.
        wheel: a wheel of ONNX Runtime to take it from instead (`--onnxruntime`).

    Raises:
        BadInputError: the wheel that was given is missing, damaged, or for another machine.
        DeviceError: there is none: no wheel for this machine could be downloaded.
    """
    if (found := present_library(machine, wheel)) is not None:
        return found
    version = _version()
    with temporary() as folder:
        downloaded = _download(version, machine, folder)
        return _from_wheel(downloaded, machine, DeviceError, given=False)


def present_library(machine: str, wheel: Path | None = None) -> RuntimeLibrary | None:
    """The library that is here already: given, installed or kept; None: it has to be downloaded.

    Raises:
        BadInputError: the wheel that was given is missing, damaged, or for another machine.
    """
    if wheel is not None:
        return _from_wheel(wheel, machine, BadInputError, given=True)
    if machine == host_machine() and (installed := _installed()) is not None:
        return installed
    return _kept(cache_folder() / f"onnxruntime-{_version()}-{machine}")


def describe_download(machine: str) -> str:
    """What `find_runtime_library` would download."""
    return f"onnxruntime=={_version()} for {machine} by pip, about {_WHEEL_MB} MB"


def elf_machine(path: Path) -> str | None:
    """The machine an ELF file is for, such as aarch64; None if it is none of those known."""
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:6] != b"\x7fELF\x02\x01":  # 64 bits, little endian
        return None
    return _ELF_MACHINES.get(struct.unpack_from("<H", head, 18)[0])


def _installed() -> RuntimeLibrary | None:
    """Out of the installed package, which carries it beside the Python extension."""
    try:
        package = distribution("onnxruntime")
    except PackageNotFoundError:
        return None
    folder = Path(str(package.locate_file("onnxruntime/capi")))
    for path in sorted(folder.glob("libonnxruntime.so.*")):
        if elf_machine(path) == host_machine():
            return RuntimeLibrary(
                path,
                package.version,
                sha256(path),
                f"installed onnxruntime {package.version}",
                None,
            )
    return None


def _version() -> str:
    try:
        return distribution("onnxruntime").version
    except PackageNotFoundError as error:
        raise DeviceError(
            "onnxruntime: the package is not installed, so its version is unknown: pip install ."
        ) from error


def _kept(folder: Path) -> RuntimeLibrary | None:
    """What an earlier download left; None if there is nothing, or it is not what was left."""
    path, notes = folder / RUNTIME_NAME, folder / "source.json"
    if not path.is_file() or not notes.is_file():
        return None
    try:
        source = read_json(notes)
        digest = sha256(path)
        if source["sha256"] != digest:
            return None
        return RuntimeLibrary(
            path, str(source["version"]), digest, str(source["wheel"]), str(source["wheel_sha256"])
        )
    except (BadInputError, KeyError, OSError):
        return None


def _download(version: str, machine: str, folder: Path) -> Path:
    """The wheel, by pip with the user's own index settings."""
    package = f"onnxruntime=={version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        *(word for name in _PLATFORMS for word in ("--platform", f"{name}_{machine}")),
        package,
    ]
    advice = (
        "Connect to the network once, or download that wheel elsewhere and give it with "
        "--onnxruntime FILE."
    )
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{package} for {machine}: pip download took more than {_DOWNLOAD_S} seconds. {advice}"
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.splitlines()
        why = next(
            (s for s in lines if "ERROR" in s or "No module" in s), f"exit {done.returncode}"
        )
        raise DeviceError(f"{package} for {machine}: pip download failed: {why.strip()} {advice}")
    return wheels[0]


def _from_wheel(
    wheel: Path, machine: str, kind: type[BadInputError | DeviceError], *, given: bool
) -> RuntimeLibrary:
    """Unpack the library into the cache. given: by the user, not by pip."""
    if not wheel.is_file():
        raise kind(
            f"{wheel}: expected a wheel (a zip file) of ONNX Runtime; there is no such file."
        )
    try:
        digest = sha256(wheel)
        with zipfile.ZipFile(wheel) as archive:
            member, version = _member(archive, wheel, kind)
            recorded = _recorded(archive, member, wheel, kind)
            place = _own_place() if given else None
            folder = place.path if place else cache_folder() / f"onnxruntime-{version}-{machine}"
            try:
                library = _keep(archive, member, wheel, folder, machine, recorded, kind)
            except BaseException:
                if place is not None:
                    place.remove()
                raise
        if place is None:
            source = {"wheel": wheel.name, "wheel_sha256": digest}
            write_json(folder / "source.json", {"version": version, "sha256": library, **source})
        return RuntimeLibrary(folder / RUNTIME_NAME, version, library, wheel.name, digest, place)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise kind(f"{wheel}: expected a wheel (a zip file) of ONNX Runtime: {error}.") from error


def _own_place() -> Temporary:
    """A folder of the cache for what was given: for this run alone, no later one trusts it."""
    with blaming(cache_folder()):
        cache_folder().mkdir(parents=True, exist_ok=True)
        return Temporary(cache_folder(), _GIVEN)


def _member(
    archive: zipfile.ZipFile, wheel: Path, kind: type[BadInputError | DeviceError]
) -> tuple[zipfile.ZipInfo, str]:
    """The library in a wheel, and its version: digits and points, so that it can name a folder."""
    entries = [(m, _MEMBER.fullmatch(m.filename)) for m in archive.infolist()]
    members = [(m, match[1]) for m, match in entries if match]
    if len(members) != 1 or members[0][0].file_size > _LIMIT:
        raise kind(
            f"{wheel}: expected a wheel of ONNX Runtime with one {_PLACE}VERSION; it has "
            f"{len(members)}, or one of more than {_LIMIT:,} bytes."
        )
    return members[0]


def _recorded(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    wheel: Path,
    kind: type[BadInputError | DeviceError],
) -> str:
    """The member's SHA-256 by the wheel's RECORD, a CSV table of name, hash and size.

    Source: packaging.python.org, "Recording installed projects" and "Binary distribution format".
    """
    records = [m for m in archive.infolist() if _RECORD.fullmatch(m.filename)]
    if len(records) == 1 and records[0].file_size <= _RECORD_LIMIT:
        rows = csv.reader(io.StringIO(archive.read(records[0]).decode("utf-8", "replace")))
        hashes = [row[1] for row in rows if len(row) == 3 and row[0] == member.filename]
        if len(hashes) == 1 and (match := re.fullmatch(r"sha256=([\w-]{43})=?", hashes[0])):
            return base64.urlsafe_b64decode(match[1] + "=").hex()
    raise kind(
        f"{wheel}: expected a RECORD with the sha256 of {member.filename}, as every wheel has; it "
        "has none. Give the wheel as it was published."
    )


def _keep(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    wheel: Path,
    folder: Path,
    machine: str,
    recorded: str,
    kind: type[BadInputError | DeviceError],
) -> str:
    """Write the member to the cache's folder; its hash, which must be the recorded one."""
    path = folder / RUNTIME_NAME
    with blaming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with replaced(path) as target:
        with archive.open(member) as source:
            shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        actual = elf_machine(Path(target.name))
        if actual != machine:
            raise kind(
                f"{wheel}: expected ONNX Runtime for {machine}; got "
                f"{actual or 'no Linux library of a known machine'}."
            )
        digest = sha256(Path(target.name))
        if digest != recorded:
            raise kind(
                f"{wheel}: expected {member.filename} with the sha256 {recorded[:12]}... of its "
                f"RECORD; got {digest[:12]}... The wheel was changed; download it again."
            )
    return digest
