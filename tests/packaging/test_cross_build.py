"""The C++ side built for devices: what the binaries need there, and that the kernels are right.

The arm64 kernels run in user-mode QEMU, every instruction set on processors that have it. Emulation
proves results, never speed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ssmpress
from elf import Needs, read_needs
from paths import ROOT
from ssmpress.machine import LIBRARY_NAME

RUNTIMES = ROOT / "runtimes"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
SYSROOT = Path("/usr/aarch64-linux-gnu")
GLIBC = (2, 28)
"""Debian 10, RHEL 8 and everything newer."""
CASES = 5
"""Random shapes per kernel; `make test-kernels` runs 2000."""

PRESETS = {"zig": "arm64-zig", "gcc": "arm64-gcc", "zig-x86_64": "x86-64-zig"}
BEST = {
    "cortex-a53": "neon",
    "cortex-a72": "neon",
    "cortex-a76": "dotprod",
    "neoverse-n1": "dotprod",
    "max": "dotprod",
}
"""QEMU's processor -> the instruction set that is chosen on it."""
QUICK = {("gcc", "cortex-a53"), ("gcc", "max")}
"""A compiler and a processor of each instruction set. What zig builds is in the package: the tests
of devices run that, and its needs are checked there."""
SLOW = {"zig": pytest.mark.slow, "zig-x86_64": pytest.mark.slow}


def skip_without(compiler: str) -> None:
    if compiler == "gcc" and not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("aarch64-linux-gnu-g++ is absent: apt install g++-aarch64-linux-gnu")
    if compiler != "gcc" and importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is absent: pip install ziglang")
    for tool in ("cmake", "ninja"):
        if not shutil.which(tool, path=PATH):
            pytest.skip(f"{tool} is absent: pip install {tool}")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory):
    """A function from a compiler to the folder of what it built."""
    built: dict[str, Path] = {}

    def run(*command: str) -> None:
        done = subprocess.run(
            command, cwd=RUNTIMES, env={**os.environ, "PATH": PATH}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def make(compiler: str) -> Path:
        skip_without(compiler)
        if compiler not in built:
            folder = tmp_path_factory.mktemp(compiler)
            preset = PRESETS[compiler]
            run(
                "cmake",
                "--preset",
                preset,
                "-B",
                str(folder),
                f"-DPython_EXECUTABLE={sys.executable}",
            )
            targets = ["ssmpress_ops"] + ["kernels_test"] * preset.startswith("arm64")
            run("cmake", "--build", str(folder), "--target", *targets)
            built[compiler] = folder
        return built[compiler]

    return make


def check(needs: Needs, machine: str) -> None:
    assert needs.machine == machine
    assert needs.glibc <= GLIBC
    runtime = {"libstdc++.so.6", "libc++.so.1", "libgcc_s.so.1", "libunwind.so.1"}
    assert not needs.libraries & runtime


@pytest.mark.parametrize("compiler", [pytest.param(c, marks=SLOW.get(c, ())) for c in PRESETS])
def test_op_library_needs_an_old_glibc_and_no_cxx_library(build, compiler: str) -> None:
    needs = read_needs(build(compiler) / LIBRARY_NAME)
    check(needs, "x86_64" if compiler == "zig-x86_64" else "aarch64")
    assert needs.libraries <= {"libc.so.6", "libm.so.6"}


@pytest.mark.parametrize("name", [LIBRARY_NAME, "ssmrun"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_package_carries_binaries_for_every_machine(machine: str, name: str) -> None:
    path = Path(ssmpress.__file__).parent / "lib" / machine / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: the package was built without a compiler for {machine}")
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is absent: the package's binaries need this system's glibc")
    check(read_needs(path), machine)


def emulate(program: Path, cpu: str, *arguments: str) -> str:
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("qemu-aarch64 is absent: apt install qemu-user")
    if not SYSROOT.is_dir():
        pytest.skip(f"{SYSROOT} is absent: apt install g++-aarch64-linux-gnu")
    done = subprocess.run(
        [emulator, "-cpu", cpu, "-L", str(SYSROOT), str(program), *arguments],
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return output


@pytest.mark.parametrize(
    ("compiler", "cpu"),
    [
        pytest.param(compiler, cpu, marks=() if (compiler, cpu) in QUICK else pytest.mark.slow)
        for compiler in ("gcc", "zig")
        for cpu in BEST
    ],
)
def test_arm64_kernels_equal_their_definition(build, compiler: str, cpu: str) -> None:
    program = build(compiler) / "kernels_test"
    output = emulate(program, cpu, "--cases", str(CASES), "--isa", BEST[cpu])
    assert f"  without it: {BEST[cpu]}\n" in output
    assert f"{BEST[cpu]}: window-int8" in output
    assert output.endswith(" passed, 0 failed\n")


def test_forcing_what_a_processor_lacks_is_refused(build) -> None:
    program = build("gcc") / "kernels_test"
    with pytest.raises(AssertionError, match="SSMPRESS_ISA=dotprod: this CPU cannot run it"):
        emulate(program, "cortex-a53", "--cases", "0", "--isa", "dotprod")
