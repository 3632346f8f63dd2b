"""User-mode QEMU: runs the programs of a bundle for another machine, without that machine.

It proves that they compute the right thing, and counts the instructions they execute. It says
nothing about time: it translates code, 30 to 60 times slower than the machine it stands for, and
unevenly so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from ssmpress.errors import DeviceError
from ssmpress.folders import temporary
from ssmpress.machine import LIBRARY_NAME, host_machine

COUNTER_NAME = "libssmpress_count.so"

_LOADER = {"aarch64": "lib/ld-linux-aarch64.so.1"}
_NEEDED = ("libc.so.6", "libstdc++.so.6", "libgcc_s.so.1")
_FOLDERS = ("lib", "lib64", "usr/lib", "lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu")
_SYSROOTS = ("/usr/aarch64-linux-gnu", "/")
_PARTS = {  # implementer, part: Arm's main ID register
    "cortex-a53": ("0x41", "0xd03"),
    "cortex-a72": ("0x41", "0xd08"),
    "cortex-a76": ("0x41", "0xd0b"),
    "neoverse-n1": ("0x41", "0xd0c"),
    "max": ("0x00", "0x051"),
}


def find_emulator(machine: str) -> Path | None:
    """User-mode QEMU for a machine, if it is installed."""
    for name in (f"qemu-{machine}", f"qemu-{machine}-static"):
        if path := shutil.which(name):
            return Path(path)
    return None


def find_sysroot() -> Path | None:
    """A folder with aarch64's C and C++ runtime libraries in `lib`, if there is one.

    QEMU_LD_PREFIX, which QEMU itself honours, names it; else those of distributions are tried.
    """
    return next((root for root in _sysroots() if not _absent(root)), None)


def _sysroots() -> list[Path]:
    named = os.environ.get("QEMU_LD_PREFIX")
    return [Path(named)] if named else list(map(Path, _SYSROOTS))


def _absent(root: Path) -> list[str]:
    """Files of aarch64 that a folder lacks."""
    if not (root / _LOADER["aarch64"]).is_file():
        return [_LOADER["aarch64"]]
    there = (name for name in _NEEDED if any((root / f / name).is_file() for f in _FOLDERS))
    return sorted({*_NEEDED} - {*there})


def lacking(machine: str) -> str:
    """A sentence of all that this host lacks to emulate a machine, with one line that installs
    it; "" where nothing is missing."""
    missing, packages = [], []
    if find_emulator(machine) is None or machine not in _LOADER:
        missing.append(f"qemu-{machine} on PATH")
        packages.append("qemu-user")
    if find_sysroot() is None:
        root = _sysroots()[0]
        missing.append(f"{' and '.join(_absent(root))} of {machine} in {root}")
        packages.append("libstdc++6-arm64-cross")
    if not missing:
        return ""
    if os.environ.get("QEMU_LD_PREFIX") and "libstdc++6-arm64-cross" in packages:
        others = "QEMU_LD_PREFIX names that folder: complete it by docs/devices.md, or unset it and"
    else:
        others = "Other systems: docs/devices.md. On Debian and Ubuntu"
    return f"{', and '.join(missing)}. {others}: sudo apt install {' '.join(packages)}"


class Emulator:
    """A context manager: a processor under QEMU, and a sysroot for it that goes when it ends.

    QEMU 7 shows a guest this machine's /proc/cpuinfo, and ONNX Runtime's reader of it crashes on
    one of another architecture. QEMU looks for absolute names in its sysroot first, so the sysroot
    is a folder of links with a cpuinfo of the emulated processor among them.

    Raises:
        DeviceError: something is missing on this host; says all of it.
    """

    def __init__(self, machine: str, cpu: str) -> None:
        if missing := lacking(machine):
            raise DeviceError(f"--device qemu:{cpu}: expected {missing}")
        program, sysroot = find_emulator(machine), find_sysroot()
        assert program is not None and sysroot is not None
        self.program, self.cpu, self._sysroot = program, cpu, sysroot

    def __enter__(self) -> Emulator:
        with ExitStack() as stack:
            self._folder = stack.enter_context(temporary())
            for entry in self._sysroot.iterdir():
                if entry.name in ("lib", "lib64", "usr"):
                    (self._folder / entry.name).symlink_to(entry.resolve())
            proc = self._folder / "proc"
            proc.mkdir()
            (proc / "cpuinfo").write_text(_cpuinfo(self.cpu))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def command(self, words: Sequence[str | Path], count_to: Path | None = None) -> list[str]:
        """The command line that runs `words` emulated.

        Args:
            count_to: the file that the executed instructions are written to when it ends.
        """
        options = ["-L", str(self._folder), "-cpu", self.cpu]
        # Variables of this process that mean this machine's files, not the guest's.
        for name in ("LD_LIBRARY_PATH", "LD_PRELOAD"):
            options += ["-U", name]
        if count_to is not None:
            options += ["-plugin", f"{get_counter_path()},out={count_to}"]
        return [str(self.program), *options, *map(str, words)]


def get_counter_path() -> Path:
    """The plugin that counts instructions.

    Raises:
        DeviceError: it was not built, as on machines other than those the package is built for.
    """
    path = Path(__file__).parents[1] / "lib" / host_machine() / COUNTER_NAME
    if not path.is_file():
        raise DeviceError(f"{path}: the plugin is missing; install the package: pip install .")
    return path


def get_symbols_path(machine: str) -> Path:
    """The op library with its symbol table. It need not exist."""
    return Path(__file__).parents[1] / "lib" / machine / "symbols" / LIBRARY_NAME


def _cpuinfo(cpu: str) -> str:
    implementer, part = _PARTS[cpu]
    features = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
    if cpu in ("cortex-a76", "neoverse-n1", "max"):
        features += " atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
    if cpu == "max":
        features += " i8mm"
    return "".join(
        f"processor\t: {i}\nBogoMIPS\t: 100.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {part}\nCPU revision\t: 0\n\n"
        for i in range(os.cpu_count() or 1)
    )
