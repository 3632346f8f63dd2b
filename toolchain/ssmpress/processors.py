"""The processors that this process may use. `runtimes/runner/processors.cc` is the same in C++."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Processors:
    """What a process may use of the machine's processors.

    affinity: how many it may run on. quota: of how many its control group grants it the time, for
    example 1.5; None is no limit.
    """

    affinity: int
    quota: float | None

    @property
    def usable(self) -> int:
        """Threads that can run at once, at least 1.

        A part of a processor is no processor: two threads with 1.5 of them stand still together
        for a quarter of every period, which shows as a long decode step.
        """
        quota = self.affinity if self.quota is None else int(self.quota)
        return max(1, min(self.affinity, quota))


def read_processors(root: Path = Path("/")) -> Processors:
    """What this process may use: its affinity, and the quota of its control group, v1 or v2.

    Args:
        root: where /proc and the control groups are found.

    Source: sched_getaffinity(2); Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
    scheduler/sched-bwc.rst (cpu.cfs_quota_us).
    """
    affinity = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return Processors(affinity, min(quotas, default=None))


def usable_processors() -> int:
    """Threads of this process that can run at once: the default number everywhere."""
    return read_processors().usable


def crowded_note(option: str, threads: int, usable: int, who: str = "this process") -> str:
    """What is said of more threads than can run at once; empty otherwise.

    Args:
        option: that asks for the threads. who: has the `usable` processors.
    """
    if threads <= usable:
        return ""
    return (
        f"{option} {threads}: {who} can run {usable} at once, by its affinity and its "
        "control group; more wait for one another (8 on 2 processors: 11 times slower), and the "
        "report says so"
    )


def _groups(root: Path) -> list[Path]:
    """Folders of the control groups that this process is in and that may limit its time: its own
    group and all above it, of every hierarchy with a processor controller."""
    folders = []
    mounts = [_mount(line) for line in _lines(root / "proc/self/mountinfo")]
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        kind = "cgroup2" if number == "0" and not controllers else "cgroup"
        if kind == "cgroup" and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            if mount is None or mount.kind != kind or (kind == "cgroup" and not mount.has_cpu):
                continue
            inside = _below(path, mount.root)
            folders += [root / mount.place.lstrip("/") / part for part in inside]
    return folders


@dataclass(frozen=True)
class _Mount:
    """A line of mountinfo. root: of the file system, what is mounted of it. place: where."""

    root: str
    place: str
    kind: str
    has_cpu: bool


def _mount(line: str) -> _Mount | None:
    fields, _, system = line.partition(" - ")
    left, right = fields.split(" "), system.split(" ")
    if len(left) < 5 or len(right) < 3:
        return None
    root, place = (text.replace("\\040", " ") for text in left[3:5])
    return _Mount(root, place, right[0], "cpu" in right[2].split(","))


def _below(path: str, top: str) -> list[str]:
    """The group and those above it, as far as a mount of `top` shows them, relative to it."""
    parts = path.strip("/").split("/") if path.strip("/") else []
    hidden = top.strip("/").split("/") if top.strip("/") else []
    inside = parts[: len(hidden)] == hidden and ".." not in parts
    parts = parts[len(hidden) :] if inside else []  # else the limit of the mount itself holds
    return ["/".join(parts[:count]) for count in range(len(parts) + 1)]


def _quota(folder: Path) -> float | None:
    """Processors that a control group grants, or None where it does not limit them."""
    limit, _, period = _first_line(folder / "cpu.max").partition(" ")
    if not limit:
        limit = _first_line(folder / "cpu.cfs_quota_us")
        period = _first_line(folder / "cpu.cfs_period_us")
    numbers = [int(text) if text.isdecimal() and len(text) < 19 else 0 for text in (limit, period)]
    return numbers[0] / numbers[1] if min(numbers) > 0 else None  # "max" and -1 are no limit


def _first_line(path: Path) -> str:
    lines = _lines(path)
    return lines[0] if lines else ""


def _lines(path: Path) -> list[str]:
    """Lines of a file of the kernel; none where there is no such file."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
