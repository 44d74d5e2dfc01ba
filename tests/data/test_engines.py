"""Engines do every task once, and a task that kills its process does not end the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from openloopy.data.engines import Outcome, run_here, run_local, run_ray


def leave_a_mark(folder: Path, task: str) -> None:
    """`die` ends the process always, `stumble` the first time; `kill` as a system without memory does."""
    mark = folder / task
    if task.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.startswith("die") or (task.startswith("stumble") and not (folder / f"{task}.before").exists()):
        (folder / f"{task}.before").touch()
        time.sleep(0.3)  # the others are at work by then
        os._exit(9)
    with open(mark, "a") as file:
        file.write("x")


def outcome(folder: Path, run, tasks: list[str]) -> dict[str, Outcome]:
    found = dict(run(partial(leave_a_mark, folder), tasks))
    assert set(found) == set(tasks)
    assert all((folder / task).read_text() == "x" for task, how in found.items() if how == "done")
    return found


def test_here(tmp_path):
    assert set(outcome(tmp_path, run_here, ["a", "b"]).values()) == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_outlive_deaths(tmp_path, workers):
    tasks = ["a", "die1", "b", "stumble", "c", "kill", "d"]
    found = outcome(tmp_path, partial(run_local, workers=workers), tasks)
    assert {task: how for task, how in found.items() if how != "done"} == {
        "die1": "crashed",
        "kill": "killed",
    }


def fail(task: str) -> None:
    raise OSError(28, "No space left on device", task)


def test_errors_of_the_function_end_the_job():
    with pytest.raises(OSError, match="No space left"):
        list(run_local(fail, ["a", "b"], 1))


def fail_alone(folder: Path, task: str) -> None:
    """Ends its process the first time, and finds the disk full the second."""
    if not (folder / "before").exists():
        (folder / "before").touch()
        os._exit(9)
    fail(task)


@pytest.mark.slow
def test_errors_of_a_second_try_end_the_job_too(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        list(run_local(partial(fail_alone, tmp_path), ["a"], 1))


@pytest.mark.slow
def test_ray_does_the_same(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'openloopy[ray]')")
    found = outcome(tmp_path, partial(run_ray, workers=2), ["a", "b", "die", "c"])
    assert {task: how for task, how in found.items() if how != "done"} == {"die": "crashed"}


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"openloopy\[ray\]"):
        list(run_ray(print, ["a"], 1))


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import math\n"
        "from openloopy.data.engines import run_local\n"
        "from openloopy.data.tasks import map_tasks\n"
        "print(sorted(run_local(math.sqrt, [1.0, 4.0], 2)))\n"
        "print(sorted(map_tasks(math.sqrt, [9.0, 16.0], workers=2, title='roots')))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert printed == ["[(1.0, 'done'), (4.0, 'done')]", "[3.0, 4.0]"]
