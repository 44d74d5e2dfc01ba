"""Processes that do tasks: they end with the job that started them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

psutil = pytest.importorskip("psutil", reason="the extra `dev` is not installed")

JOBS = {
    "tasks": "from openloopy.data.tasks import map_tasks\n"
    "list(map_tasks(time.sleep, [600.0] * 2, workers=2, title='sleep'))",
    "engine": "from openloopy.data.engines import run_local\nlist(run_local(time.sleep, [600.0] * 2, 2))",
}
MARK = "TEST_OF_ORPHANS"


def marked(mark: str) -> list[int]:
    """Processes with this mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def until(condition, limit_s: float = 120) -> None:
    stop = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < stop, "never became true"
        time.sleep(0.1)


@pytest.mark.parametrize("name", JOBS)
def test_children_of_a_killed_job_end_too(name):
    mark = f"{name}-{os.getpid()}"
    job = subprocess.Popen(
        [sys.executable, "-c", f"import time\n{JOBS[name]}"],
        env=os.environ | {MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: len(marked(mark)) >= 4)  # the job, its tracker of resources, two workers
        time.sleep(3)  # until the workers watch
        job.kill()
        job.wait()
        until(lambda: not marked(mark), 30)
    finally:
        for pid in marked(mark):
            psutil.Process(pid).kill()
