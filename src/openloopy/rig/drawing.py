"""Frames of one rig drawn side by side, each process on a core of its own.

Threads do not gain: a frame is some four hundred short calls of numpy and OpenCV, between which they wait for one
another. A process takes half a second to start, so the first frames are drawn by the caller.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import IO

import cv2
import numpy as np

from openloopy.media.machine import cpu_cores
from openloopy.rig.portrait_rig import PortraitRig
from openloopy.rig.state import NAMES, State

MAX_PROCESSES = 4
DRAWN_HERE = 25
"""Frames that the caller draws before processes are started: short videos need none."""
AHEAD = 2
"""Frames that are asked for before they are due, for each process."""
_READY = b"ready"
_NUMBER = np.dtype(np.float64)
_PIPE_BYTES = 2**20
"""A larger buffer than the usual 64 KiB: a frame is handed over in a few pieces. Where the system allows it."""


class Drawing:
    """Draws one rig's frames in order; a context manager, at whose end the processes end.

    A process that cannot be started or is lost costs time, no frame: what it did not give is drawn here.
    """

    def __init__(self, rig: PortraitRig, size_px: int, most: int = MAX_PROCESSES) -> None:
        """
        Args:
            rig: what to draw.
            size_px: side of the frames.
            most: how many processes may be started; fewer are on a machine with fewer cores, none on one with one.
        """
        self._rig, self._size_px = rig, size_px
        self._num = min(most, MAX_PROCESSES, cpu_cores())
        self._num = self._num if self._num > 1 and _can_start() else 0
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()
        self._starts: list[Future[None]] = []
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._threads is None:
            return
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            if (process := self._idle.get()) is not None:
                process.close()

    def frames(self, states: Iterable[State | None]) -> Iterator[np.ndarray]:
        """`size_px size_px 3` uint8 of each state; states are taken a few frames ahead.

        None in place of a state: all frames so far are given before the next state is taken; before the first state,
        that the processes are started and waited for.
        """
        waiting: deque[Future[np.ndarray]] = deque()
        for number, state in enumerate(states):
            if state is None:
                while waiting:
                    yield waiting.popleft().result()
                if number == 0 and self._num:
                    self._start()
                    wait(self._starts)
                continue
            if number >= DRAWN_HERE and self._num and not self._starts:
                self._start()
            if not self._is_ready:
                yield self._rig.render(state, self._size_px)
                continue
            waiting.append(self._threads.submit(self._draw, state))
            while waiting and (len(waiting) > AHEAD * self._num or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    @property
    def _is_ready(self) -> bool:
        return bool(self._starts) and all(start.done() for start in self._starts)

    def _start(self) -> None:
        self._threads = ThreadPoolExecutor(self._num)
        message = pickle.dumps((self._rig, self._size_px), pickle.HIGHEST_PROTOCOL)
        self._starts = [self._threads.submit(self._start_one, message) for _ in range(self._num)]

    def _start_one(self, message: bytes) -> None:
        process = None
        with suppress(OSError):
            process = _Process.started(message, self._size_px)
        self._idle.put(process)

    def _draw(self, state: State) -> np.ndarray:
        # As many threads as entries: there is always one. None stands for a process that is lost.
        process = self._idle.get()
        frame = None
        try:
            if process is not None and (frame := process.draw(state)) is None:
                process.close()
                process = None
        finally:
            self._idle.put(process)
        return self._rig.render(state, self._size_px) if frame is None else frame


class _Process:
    """A process with a copy of the rig, which answers states with frames until its input ends."""

    def __init__(self, process: subprocess.Popen[bytes], size_px: int) -> None:
        self._process, self._shape = process, (size_px, size_px, 3)

    @classmethod
    def started(cls, message: bytes, size_px: int) -> _Process | None:
        """A process that is ready; None if it ended before."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            # of glibc: what a frame frees stays for the next one; given back each time, it costs a fifth of the work
            "MALLOC_TRIM_THRESHOLD_": "268435456",
            "MALLOC_MMAP_THRESHOLD_": "268435456",
        }
        command = [sys.executable, "-c", "from openloopy.rig.drawing import answer; answer()"]
        popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        for pipe in (popen.stdin, popen.stdout):
            _widen(pipe)
        process = cls(popen, size_px)
        try:
            popen.stdin.write(message)
            popen.stdin.flush()
            if popen.stdout.read(len(_READY)) == _READY:
                return process
        except OSError:
            pass
        process.close()
        return None

    def draw(self, state: State) -> np.ndarray | None:
        """The frame of a state; None if the process was lost."""
        frame = np.empty(self._shape, np.uint8)
        view, got = memoryview(frame).cast("B"), 0
        try:
            self._process.stdin.write(np.array([state[name] for name in NAMES], _NUMBER).tobytes())
            self._process.stdin.flush()
            while got < len(view):
                read = self._process.stdout.readinto(view[got:])
                if not read:
                    return None
                got += read
        except OSError:
            return None
        return frame

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not yet written to a lost process
                pipe.close()
        self._process.wait()


def answer() -> None:
    """Take a rig from standard input, then states, and write their frames to standard output."""
    # Interrupting is the caller's to handle: this one ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    asked, frames = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(
        sys.stderr.fileno(), sys.stdout.fileno()
    )  # whatever else is printed must not come between the frames
    num_bytes = len(NAMES) * _NUMBER.itemsize
    # The caller may be killed at any moment: then this one ends without a word.
    with suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):
        rig, size_px = pickle.load(asked)
        frames.write(_READY)
        frames.flush()
        while len(values := asked.read(num_bytes)) == num_bytes:
            state = dict(zip(NAMES, np.frombuffer(values, _NUMBER).tolist(), strict=True))
            frames.write(np.ascontiguousarray(rig.render(state, size_px)).data)
            frames.flush()


def _widen(pipe: IO[bytes]) -> None:
    try:
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        return


def _can_start() -> bool:
    """Whether this interpreter can be started again: a frozen program would start itself."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)
