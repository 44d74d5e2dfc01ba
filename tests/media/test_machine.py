"""Limits of control groups, of both versions, as a container or a service manager sets them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openloopy.media import machine
from openloopy.media.machine import (
    cpu_cores,
    cpu_quota,
    free_memory_bytes,
    limit_threads,
    memory_limit,
    total_memory_bytes,
)

GB = 2**30


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Sixteen cores and 64 GB free, and files of the system as they are given: path -> text."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)

    def write(files: dict[str, str]) -> Path:
        files = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {64 * GB // 1024} kB\n", **files}
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def test_without_limits_the_machine_is_ours(root):
    here = root({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert (cpu_cores(here), cpu_quota(here), memory_limit(here)) == (16, None, None)
    assert free_memory_bytes(here) == 64 * GB
    assert cpu_cores(root({"proc/self/cgroup": ""})) == 16


def test_version_2_as_a_container_sees_it(root):
    here = root(
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": f"{4 * GB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GB}\n",
            "sys/fs/cgroup/memory.stat": f"anon {2 * GB}\ninactive_file {GB}\n",
        }
    )
    assert (cpu_quota(here), cpu_cores(here)) == (1.5, 2)
    assert free_memory_bytes(here) == 2 * GB, "files that nobody reads make room"


def test_version_2_as_a_service_sees_it_the_tightest_of_all_groups_around_counts(root):
    group = "sys/fs/cgroup/user.slice/work.service"
    here = root(
        {
            "proc/self/cgroup": "0::/user.slice/work.service\n",
            f"{group}/cpu.max": "max 100000\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.high": f"{8 * GB}\n",
            "sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": f"{2 * GB}\n",
            "sys/fs/cgroup/user.slice/memory.current": f"{GB}\n",
        }
    )
    assert cpu_cores(here) == 3
    assert free_memory_bytes(here) == GB and memory_limit(here).most == 2 * GB


def test_version_1(root):
    here = root(
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpuset:/\n1:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            # what a container's own mount shows: its group is the root
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {GB // 2}\n",
        }
    )
    assert (cpu_quota(here), cpu_cores(here)) == (0.5, 1)
    assert free_memory_bytes(here) == 3 * GB // 2


def test_version_1_says_no_limit_with_a_huge_number(root):
    here = root(
        {
            "proc/self/cgroup": "4:memory:/\n1:cpu:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert (cpu_quota(here), memory_limit(here), free_memory_bytes(here)) == (None, None, 64 * GB)


def test_a_machine_that_is_fuller_than_the_limit_counts(root):
    here = root(
        {
            "proc/meminfo": "MemAvailable: 1048576 kB\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{4 * GB}\n",
        }
    )
    assert free_memory_bytes(here) == GB
    assert free_memory_bytes(Path("/nowhere")) is None and cpu_quota(Path("/nowhere")) is None


def test_an_affinity_below_the_quota_counts(root, monkeypatch):
    here = root({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "800000 100000\n"})
    assert cpu_cores(here) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert cpu_cores(here) == 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert cpu_cores(here) == 4


def test_numeric_libraries_get_as_many_threads_as_the_quota_and_what_the_user_says_stays(root, monkeypatch):
    here = root({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"})
    environment = {"OMP_NUM_THREADS": "7"}
    monkeypatch.setattr(os, "environ", environment)
    limit_threads(here)
    assert environment == {
        "OMP_NUM_THREADS": "7",
        "OPENBLAS_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
    }
    environment.clear()
    limit_threads(root({"sys/fs/cgroup/cpu.max": "max 100000\n"}))
    assert environment == {}, "without a quota the libraries count for themselves"


def test_here_it_agrees_with_itself():
    assert 1 <= cpu_cores() <= (os.cpu_count() or 1)
    assert total_memory_bytes() is None or 0 < free_memory_bytes() <= total_memory_bytes()
    code = "import sys, openloopy.media.machine; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert machine.ROOT == Path("/")
