"""Independent tasks, here or in processes, under a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import connection
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int, title: str
) -> Iterator[Result]:
    """The results as they come; with more than one worker in any order, and `function` must be picklable."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(title, total=len(tasks))
        results = map(function, tasks) if workers == 1 else _map_processes(function, tasks, workers)
        for result in results:
            progress.advance(bar)
            yield result


@contextmanager
def without_main() -> Iterator[None]:
    """Processes that are started meanwhile do not run the caller's script again, as spawned ones do.

    Otherwise each script that prepares data would need `if __name__ == "__main__":`, and one without it would see all
    its workers die.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def end_with_parent() -> None:
    """In a worker: end at once when the job is killed, so that nothing goes on in its folder, or waits for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _map_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[Result]:
    # Spawned, not forked: the native libraries' threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks) or 1), context, initializer=end_with_parent)
    try:
        with without_main():  # the first call starts the processes
            futures = [pool.submit(function, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
