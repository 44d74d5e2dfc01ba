"""What this process may use of the machine: its cores and its memory, whoever limits them.

A container or a service manager limits both by control groups (cgroups, versions 1 and 2), which neither the number of
CPUs nor the memory of the machine shows. Source: Linux, admin-guide/cgroup-v2.rst (`cpu.max`, `memory.max`) and
cgroup-v1 (`cpu.cfs_quota_us`, `memory.limit_in_bytes`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
"""Where /proc and /sys are; tests have one of their own."""
CGROUPS = "sys/fs/cgroup"
UNLIMITED_BYTES = 1 << 60
"""Version 1 has no word for "no limit", only a number beyond all memory."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Which the numeric libraries read when they are loaded."""


@dataclass(frozen=True)
class MemoryLimit:
    """How much memory a control group may have, and how much of it is taken for good, in bytes."""

    most: int
    used: int

    @property
    def left(self) -> int:
        return max(self.most - self.used, 0)


def cpu_cores(root: Path = ROOT) -> int:
    """Cores that this process may use: those it may run on, and no more than its control group's share of time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, math.floor(quota + 0.5)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Seconds of computing that the control groups allow in a second; None: as many as there are cores."""
    quotas = [quota for folder in _groups(root, "cpu") if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def memory_limit(root: Path = ROOT) -> MemoryLimit | None:
    """The tightest limit of the control groups; None: they set none."""
    limits = [limit for folder in _groups(root, "memory") if (limit := _limit(folder)) is not None]
    return min(limits, key=lambda limit: limit.left, default=None)


def free_memory_bytes(root: Path = ROOT) -> int | None:
    """Memory that this process can still have; None where nobody says."""
    meminfo, limit = root / "proc/meminfo", memory_limit(root)
    free = [] if limit is None else [limit.left]
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    return min(free, default=None)


def total_memory_bytes() -> int | None:
    """Of the machine; None where nobody says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def limit_threads(root: Path = ROOT) -> None:
    """Let numeric libraries that are loaded later start no more threads than the control group's share of time.

    They count the CPUs that they may run on; more threads than that share only wait for one another. What the
    environment says already stays.
    """
    if cpu_quota(root) is not None:
        for name in THREAD_VARIABLES:
            os.environ.setdefault(name, str(cpu_cores(root)))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that limit this process in something: its own, and those around it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names == "":
            mounts = [root / CGROUPS, root / CGROUPS / "unified"]
        elif controller in names.split(","):
            mounts = [root / CGROUPS / name for name in (names, controller)]
        else:
            continue
        # Inside a container its own group may be the root of what is mounted: then only that is there.
        for mount in mounts:
            own = mount / path.strip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _quota(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    microseconds = _number(quota), _number(period)
    return microseconds[0] / microseconds[1] if microseconds[0] and microseconds[1] else None


def _limit(folder: Path) -> MemoryLimit | None:
    """Memory that the system would take back first, the cache of files that nobody reads, is not counted as used."""
    limits = [
        _number(_text(folder / name)) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
    ]
    most = min((limit for limit in limits if limit and limit < UNLIMITED_BYTES), default=None)
    if most is None:
        return None
    used = _number(_text(folder / "memory.current")) or _number(_text(folder / "memory.usage_in_bytes")) or 0
    facts = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    cache = _number(facts.get("total_inactive_file", "")) or _number(facts.get("inactive_file", "")) or 0
    return MemoryLimit(most, max(used - cache, 0))


def _number(text: str) -> int | None:
    """A positive whole number; None for "max", -1 (no limit) and nothing."""
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """A file of the system in one piece; empty where there is none or it may not be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
