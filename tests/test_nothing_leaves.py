"""docs/faq.md: nothing is downloaded or sent. Watched from outside, system call by system call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import ssmrun_bundle as sb
from paths import DEMO
from ssmpress.formats import Values

STRACE = shutil.which("strace")
pytestmark = pytest.mark.skipif(STRACE is None, reason="strace is absent: apt install strace")

NETWORK = ("socket", "connect", "sendto", "sendmsg", "sendmmsg")
OPENING = ("open", "openat", "openat2", "creat")
MAKING = (
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
)
_CALL = re.compile(r"\d+ +(\w+)\((.*)\) += (-?\d+)")
_LOCAL = re.compile(r"AF_UNIX|AF_NETLINK|/var/run/nscd/socket|^\d+, \{sa_family=AF_UNIX")


def calls(trace: Path) -> list[tuple[str, str, int]]:
    """(name, arguments, result) of every call; one that another thread cut in two is joined."""
    unfinished: dict[str, str] = {}
    joined = []
    for line in trace.read_text(errors="replace").splitlines():
        process, _, rest = line.partition(" ")
        if line.endswith("<unfinished ...>"):
            unfinished[process] = line.removesuffix("<unfinished ...>").rstrip()
            continue
        if "resumed>" in rest and process in unfinished:
            line = unfinished.pop(process) + rest.partition("resumed>")[2]
        if match := _CALL.match(line):
            joined.append((match[1], match[2], int(match[3])))
    return joined


def watched(folder: Path, command: Sequence[str | Path]) -> list[tuple[str, str, int]]:
    """Run a command in `folder` with its home and temporary files there; its system calls."""
    (folder / "tmp").mkdir(exist_ok=True)
    trace = folder / "trace"
    names = ",".join((*NETWORK, *OPENING, *MAKING))
    environment = {
        name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"
    } | {
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [
            str(STRACE),
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-s",
            "4096",
            "-e",
            f"trace={names}",
            "-o",
            str(trace),
            *map(str, command),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if "Operation not permitted" in done.stderr and not trace.exists():
        pytest.skip(f"strace may not watch processes here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    found = calls(trace)
    trace.unlink()
    assert found, "the trace is empty"
    return found


def demand_silence(found: list[tuple[str, str, int]]) -> None:
    """No socket to anywhere else, and nobody asked where anything is."""
    sockets = [f"{name}({arguments})" for name, arguments, _ in found if name in NETWORK]
    assert [text for text in sockets if not _LOCAL.search(text)] == []
    resolver = [arguments for _, arguments, _ in found if "/etc/resolv.conf" in arguments]
    assert resolver == []


def demand_places(found: list[tuple[str, str, int]], folder: Path) -> None:
    """Every file that was opened for writing or made lies in `folder`, or is a device."""
    written = set()
    for name, arguments, result in found:
        writes = name not in OPENING or re.search(r"O_WRONLY|O_RDWR|O_CREAT", arguments)
        if name in NETWORK or result < 0 or not writes:
            continue
        written |= {str(folder / path) for path in re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)}
    assert written, "something was written"
    assert [p for p in written if not p.startswith((f"{folder}/", "/dev/", "/proc/self/"))] == []


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    sb.runner()
    return sb.make_bundle(tmp_path_factory.mktemp("silent") / "demo", sb.packed_model(Values.INT8))


def test_the_watch_sees_what_onnxruntime_does_by_itself(tmp_path: Path) -> None:
    """The other tests would prove nothing if the library had stopped on its own."""
    found = watched(tmp_path, [sys.executable, "-c", "import onnxruntime"])
    if not list((tmp_path / "cache").rglob("*")):
        pytest.skip("this ONNX Runtime has no telemetry")
    with pytest.raises(AssertionError):
        demand_places(found, tmp_path / "elsewhere")


def test_open_bundle_is_silent(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import ssmpress, sys\n"
        "model = ssmpress.open_bundle(sys.argv[1], threads=1)\n"
        "open('out.txt', 'w').write(''.join(model.stream('The', 3)))\n"
    )
    demand_all(watched(tmp_path, [sys.executable, "-c", code, bundle]), tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out.txt", "tmp"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify",),
        ("info",),
        ("generate", "--prompt", "The", "--max-tokens", "3"),
        ("bench", "--prompt", "4", "--tokens", "2", "--rounds", "1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_ssmrun_is_silent_and_writes_nothing(
    bundle: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    found = watched(tmp_path, [sb.runner(), arguments[0], bundle, *arguments[1:]])
    demand_silence(found)
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


@pytest.mark.slow
def test_compress_is_silent(tmp_path: Path) -> None:
    """The whole command with its worker processes; it writes its bundle and temporary files."""
    shutil.copy(DEMO / "pytorch_model.bin", tmp_path / "model.pt")
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    code = "from ssmpress.cli.compress import main; main()"
    demand_all(
        watched(
            tmp_path,
            [
                sys.executable,
                "-c",
                code,
                "model.pt",
                "--recover",
                "2",
                "--evaluation-tokens",
                "8192",
                "--min-retention",
                "0",
                "--threads",
                "1",
            ],
        ),
        tmp_path,
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {"cache"} == {"model.pt", "tokenizer.json", "model-s70", "tmp"}
    assert {path.name for path in tmp_path.glob("cache/*")} <= {"ssmpress"}


def demand_all(found: list[tuple[str, str, int]], folder: Path) -> None:
    demand_silence(found)
    demand_places(found, folder)
