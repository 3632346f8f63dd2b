"""The processors that may be used: affinity and the quota of control groups, in Python and ssmrun.

What the kernel shows is written to a folder that takes the place of /proc and /sys, for ssmrun by
mounts that only its own process sees; where this user may make a control group, a real one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssmrun_bundle as sb
from ssmpress.formats import Values
from ssmpress.processors import Processors, read_processors

AFFINITY = len(os.sched_getaffinity(0))
HERE = "from ssmpress.processors import read_processors as r; p = r(); print(p.usable, p.quota)"


@dataclass(frozen=True)
class Case:
    """What the kernel shows, and the quota that follows.

    cgroup: /proc/self/cgroup. mounts: its lines of mountinfo, without their numbers. files: of the
    control groups, below /sys/fs/cgroup.
    """

    cgroup: str
    mounts: tuple[str, ...]
    files: dict[str, str]
    quota: float | None


V2 = ("/ /sys/fs/cgroup rw - cgroup2 cgroup rw",)
V1 = (
    "/ /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    "/ /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct",
)
CASES = {
    "no control group": Case("", (), {}, None),
    "v2, no limit": Case("0::/a/b", V2, {"a/b/cpu.max": "max 100000"}, None),
    "v2": Case("0::/a/b", V2, {"a/b/cpu.max": "150000 100000"}, 1.5),
    "v2, a group above limits": Case(
        "0::/a/b", V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "20000 10000"}, 2.0
    ),
    "v2, the smallest holds": Case(
        "0::/a/b", V2, {"a/b/cpu.max": "3000 1000", "a/cpu.max": "1000 1000"}, 1.0
    ),
    "v2, in a container": Case("0::/", V2, {"cpu.max": "50000 100000"}, 0.5),
    "v2, a group outside of the container": Case(
        "0::/../other", V2, {"cpu.max": "50000 100000"}, 0.5
    ),
    "v2, mounted from inside": Case(
        "0::/docker/c/d",
        ("/docker/c /sys/fs/cgroup rw - cgroup2 cgroup rw",),
        {"d/cpu.max": "max 100000", "cpu.max": "250000 100000"},
        2.5,
    ),
    "v1": Case(
        "4:memory:/m\n3:cpu,cpuacct:/a\n0::/",
        V1,
        {
            "cpu/a/cpu.cfs_quota_us": "50000",
            "cpu/a/cpu.cfs_period_us": "25000",
            "memory/m/cpu.cfs_quota_us": "1",
            "memory/m/cpu.cfs_period_us": "1000",
        },
        2.0,
    ),
    "v1, no limit": Case(
        "3:cpu,cpuacct:/a",
        V1,
        {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
        None,
    ),
    "v1, the group is hidden": Case(
        "3:cpuacct,cpu:/docker/c",
        ("/docker/c /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",),
        {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
        1.0,
    ),
    "v1 and v2": Case(
        "3:cpu:/a\n0::/b",
        (*V1, "/ /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"),
        {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"},
        2.0,
    ),
    "damaged": Case(
        "0::/a\nnothing\n:::\n0::",
        ("/ /sys/fs/cgroup rw", "- - -", *V2),
        {"a/cpu.max": "many 100000", "cpu.max": "100000 0"},
        None,
    ),
    "numbers beyond all bounds": Case("0::/", V2, {"cpu.max": "9" * 5000 + " 100000"}, None),
}


def write(case: Case, root: Path) -> None:
    lines = [f"{40 + i} 30 0:{i} {mount}" for i, mount in enumerate(case.mounts)]
    proc, groups = root / "proc" / "self", root / "sys" / "fs" / "cgroup"
    proc.mkdir(parents=True)
    groups.mkdir(parents=True)
    (proc / "cgroup").write_text(case.cgroup + "\n")
    (proc / "mountinfo").write_text("\n".join(["22 1 8:1 / / rw - ext4 /dev/a rw", *lines]) + "\n")
    for name, text in case.files.items():
        path = groups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_python_reads_the_quota(case: Case, tmp_path: Path) -> None:
    write(case, tmp_path)
    assert read_processors(tmp_path) == Processors(AFFINITY, case.quota)


@given(affinity=st.integers(1, 64), quota=st.none() | st.floats(0.01, 100))
def test_usable(affinity: int, quota: float | None) -> None:
    usable = Processors(affinity, quota).usable
    assert 1 <= usable <= affinity
    if quota is not None:
        assert usable <= max(1, quota)
        assert usable + 1 > min(affinity, quota)


# ---- ssmrun and Python in the same place ----


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sb.make_bundle(
        tmp_path_factory.mktemp("processors") / "demo", sb.packed_model(Values.INT8)
    )


def both(bundle: Path, before: list[str]) -> tuple[tuple[int, float | None], dict[str, object]]:
    """What Python and what ssmrun says; `before` is the command that starts each of them."""
    python = [*before, sys.executable, "-c", HERE]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(python, capture_output=True, text=True, env=environment, check=True)
    usable, quota = done.stdout.split()
    runner = [*before, str(sb.runner()), "info", str(bundle), "--json"]
    done = subprocess.run(runner, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)["environment"]
    assert said["threads"] == said["available_cpus"], "the default"
    return (int(usable), None if quota == "None" else float(quota)), said


IN_PLACE = """
mount --bind "$1/sys/fs/cgroup" /sys/fs/cgroup
mount --bind "$1/proc" /proc
shift
exec "$@"
"""


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ssmrun_reads_the_same(case: Case, bundle: Path, tmp_path: Path) -> None:
    """Mounts of a new name space hide /proc and the control groups from these two only."""
    private = ["unshare", "--mount", "--map-root-user", "--user"]
    if os.geteuid() == 0:
        private = private[:2]
    if (
        not Path("/sys/fs/cgroup").is_dir()
        or not shutil.which("unshare")
        or subprocess.run([*private, "true"], capture_output=True).returncode
    ):
        pytest.skip("mounts of one's own are not allowed here (unshare --mount)")
    write(case, tmp_path)
    for name in ("cpuinfo", "self/status", "meminfo"):
        shutil.copyfile(Path("/proc") / name, tmp_path / "proc" / name)
    (tmp_path / "proc" / "self" / "task").mkdir()
    (usable, quota), said = both(bundle, [*private, "sh", "-ec", IN_PLACE, "sh", str(tmp_path)])
    assert quota == case.quota == said["cpu_quota"]
    assert usable == Processors(AFFINITY, quota).usable == said["available_cpus"]


@pytest.fixture
def group() -> Iterator[Path]:
    """A real control group of one processor and a half, v2 or v1."""
    for parent in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")):
        folder = parent / f"ssmpress-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        limits = {"cpu.max": "150000 100000", "cpu.cfs_quota_us": "150000"}
        try:
            for name, text in limits.items():
                if (folder / name).exists():  # the kernel makes them
                    (folder / name).write_text(text)
                    yield folder
                    return
        except OSError:
            pass
        finally:
            folder.rmdir()
    pytest.skip("no control group with a processor quota can be made here")


def test_a_real_control_group(group: Path, bundle: Path) -> None:
    enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    (usable, quota), said = both(bundle, enter)
    assert quota == said["cpu_quota"] == 1.5
    assert usable == said["available_cpus"] == 1


def test_affinity(bundle: Path) -> None:
    one = str(min(os.sched_getaffinity(0)))
    if not shutil.which("taskset"):
        pytest.skip("taskset is not installed")
    (usable, _), said = both(bundle, ["taskset", "-c", one])
    assert usable == said["available_cpus"] == 1


# ---- more threads than that ----


def run(bundle: Path, *arguments: str) -> tuple[dict[str, object], str]:
    command = [sb.runner(), "info", bundle, "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["environment"], done.stderr


def test_ssmrun_notes_more_threads_than_can_run(bundle: Path) -> None:
    usable = read_processors().usable
    said, notes = run(bundle, "--threads", str(usable))
    assert not notes
    said, notes = run(bundle, "--threads", str(usable + 3))
    assert said["threads"] == usable + 3
    assert said["available_cpus"] == usable
    assert notes == (
        f"ssmrun: note: {usable + 3} threads: {usable} can run at once here; more wait for one "
        "another.\n"
    )


def test_a_pinned_process_reports_what_was_there_before(bundle: Path) -> None:
    first = min(os.sched_getaffinity(0))
    usable = read_processors().usable
    said, notes = run(bundle, "--pin", str(first))
    assert (said["threads"], said["available_cpus"], notes) == (1, usable, "")
    said, notes = run(bundle, "--pin", f"{first},{first}")
    assert (said["threads"], said["available_cpus"]) == (2, usable)
    assert "2 threads on these processors: 1 can run at once" in notes
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1, pin=[first])
        assert worker.ask("environment")["environment"]["available_cpus"] == usable
