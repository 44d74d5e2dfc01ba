"""Running one function over many videos: in this process, in several, or through Ray. Results lie on the disk.

A task that kills its process (a decoder that crashes, the system that runs out of memory) never ends the job: the
tasks that were running are run again one at a time, and what kills its process twice is handed back with how it ended.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, Literal, TypeVar

from openloopy.data.tasks import end_with_parent, without_main

Task = TypeVar("Task")
Engine = Literal["local", "ray"]
Outcome = Literal["done", "crashed", "killed"]
"""Killed: by a signal that no program sends itself, as systems do that have no memory left."""


def run_here(function: Callable[[Task], Any], tasks: Sequence[Task]) -> Iterator[tuple[Task, Outcome]]:
    """Each task in this process; always done, as a crash would end us too."""
    for task in tasks:
        function(task)
        yield task, "done"


def run_local(
    function: Callable[[Task], Any], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Outcome]]:
    """Each task as it is done, or as its process has died twice. `function` must be picklable."""
    waiting, suspects = list(tasks), []
    while waiting or suspects:
        alone, suspects = suspects, []
        for task in alone:
            yield task, _run_alone(function, task)
        done, suspects = set(), []
        for i, task in _in_pool(function, waiting, workers, suspects):
            done.add(i)
            yield task, "done"
        crashed = {i for i, _ in suspects}
        waiting = [task for i, task in enumerate(waiting) if i not in done and i not in crashed]
        suspects = [task for _, task in suspects]


def run_ray(
    function: Callable[[Task], Any], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Outcome]]:
    """The same through Ray Data; what Ray gives up on is run again by `run_local`."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("the engine ray needs Ray Data: pip install 'openloopy[ray]'") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        done = set()
        for i in _through_ray(ray, function, tasks, workers):
            done.add(i)
            yield tasks[i], "done"
    finally:
        if is_ours:
            ray.shutdown()
    yield from run_local(function, [task for i, task in enumerate(tasks) if i not in done], workers)


def _through_ray(
    ray: Any, function: Callable[[Task], Any], tasks: Sequence[Task], workers: int
) -> Iterator[int]:
    """Numbers of the tasks that are done, as they are."""
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1
    context.enable_progress_bars = False

    def work(row: dict[str, int]) -> dict[str, int]:
        function(tasks[row["id"]])
        return row

    numbers = ray.data.range(len(tasks), override_num_blocks=len(tasks))
    for row in numbers.map(work, num_cpus=1, concurrency=workers, max_retries=1).iter_rows():
        yield row["id"]


def _in_pool(
    function: Callable[[Task], Any], tasks: Sequence[Task], workers: int, suspects: list[tuple[int, Task]]
) -> Iterator[tuple[int, Task]]:
    """Tasks done, until all are or a process dies; then those that were running are put into `suspects`."""
    if not tasks:
        return
    # Spawned, not forked: the native libraries' threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=end_with_parent)
    coming = iter(enumerate(tasks))
    running: dict[Future, tuple[int, Task]] = {}
    try:
        while True:
            # No more are submitted than run, so that a crash leaves few suspects.
            while len(running) < workers and (following := next(coming, None)) is not None:
                with without_main():  # the first call starts the processes
                    running[pool.submit(function, following[1])] = following
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                yield running.pop(future)
    except BrokenProcessPool:
        suspects.extend(running.values())
    finally:
        pool.shutdown(cancel_futures=True)


def _run_alone(function: Callable[[Task], Any], task: Task) -> Outcome:
    """Runs a task in a process of its own; its error is raised here."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(theirs, function, task))
    with without_main():
        process.start()
    theirs.close()
    try:
        error = ours.recv()
    except EOFError:
        process.join()
        return "killed" if process.exitcode == -getattr(signal, "SIGKILL", 9) else "crashed"
    process.join()
    if error is not None:
        raise error
    return "done"


def _report(parent: connection.Connection, function: Callable[[Task], Any], task: Task) -> None:
    """In a process of its own: the task's error, or None."""
    end_with_parent()
    try:
        function(task)
    except Exception as error:
        parent.send(error)
    else:
        parent.send(None)
